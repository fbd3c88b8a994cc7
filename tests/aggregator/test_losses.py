"""What becomes of an aggregator's own bundles when its disk damages them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aggregator.answers import Answers
from aggregator.offline import answer_offline
from aggregator.surroundings import Surroundings
from protocols.feed import Bundle, Place, sign_bundle
from protocols.keys import peer_id_of
from protocols.record import Record
from tests.aggregator.test_check import OTHER, Joined, codes, flip, holding
from tests.support.feeds import bundles_of, segment_of
from tests.support.home import aggregator_home
from tests.support.members import TestMesh, key_of


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    return aggregator_home(tmp_path)


async def checked(
    answers: Answers, *away: str, asked: tuple[str, ...] = (), is_loss_accepted: bool = False
) -> dict[str, Any]:
    """Check in a running daemon that knows other aggregators, of which it has ``asked`` some."""
    around = Surroundings(is_running=True, aggregators=[*away, *asked], asked=list(asked))
    return await answers.check(around, is_loss_accepted=is_loss_accepted)


async def three_bundles(answers: Answers) -> list[Bundle]:
    """Write and sign three bundles of our own, of two records each."""
    for number in range(3):
        for part in range(2):
            await answers.feeds.append(
                Record(
                    author=answers.feeds.key.public,
                    nonce=bytes([number, part]),
                    kind=f"own{number}{part}",
                    start_us=0,
                )
            )
        await answers.feeds.cut_all()
    await answers.index.catch_up()
    return bundles_of(answers.feeds)


def place(finding: dict[str, Any]) -> tuple[str, int, int]:
    return finding["code"], finding["first_sequence"], finding["next_sequence"]


@pytest.mark.parametrize("damaged", [1, 2])
async def test_our_own_bundle_that_nobody_has_is_told_to_be_lost_once_and_never_again(
    joined: Joined, damaged: int
) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], f"own{damaged}1".encode())
        first, second, third = [await checked(answers) for _ in range(3)]
        status = await answers.status(Surroundings())
        root = answers.feeds.state_root()
    async with holding(joined) as answers:
        again = await checked(answers)
        await answers.rebuild()
        rebuilt = await checked(answers)
        assert answers.feeds.state_root() == root

    at = 2 * damaged, 2 * damaged + 2
    assert [place(each) for each in first["findings"]] == [("damaged", *at)]
    [lost] = second["findings"]
    assert place(lost) == ("lost", *at)
    assert f"They held 1 own{damaged}0, 1 own{damaged}1. Nothing needs" in lost["message"]
    assert lost["fetch_from"] == []
    assert not second["ok"]
    assert [each["ok"] for each in (third, again, rebuilt)] == [True, True, True]
    assert [each["lost_records"] for each in (first, third, rebuilt)] == [0, 2, 2]
    assert (third["damaged_bytes"], again["damaged_bytes"]) == (0, 0)
    assert (status["damaged_records"], status["lost_records"]) == (0, 2)
    assert (status["holes"], status["awaited"]) == (0, 0)
    assert (third["records"], third["bundles"]) == (status["records"], status["bundles"]) == (5, 3)


async def test_nothing_is_given_up_while_somebody_who_may_have_it_is_away(
    joined: Joined,
) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        before = [await checked(answers, OTHER.peer_id) for _ in range(3)]
        accepted = await checked(answers, OTHER.peer_id, is_loss_accepted=True)
        after = await checked(answers, OTHER.peer_id)

    assert [codes(each) for each in before] == 3 * [["damaged"]]
    assert before[-1]["findings"][0]["fetch_from"] == [OTHER.peer_id]
    assert codes(accepted) == ["lost"]
    assert after["ok"]


async def test_who_was_asked_and_has_it_not_is_no_source_and_holds_nothing_up(
    joined: Joined,
) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        found = await checked(answers, asked=(OTHER.peer_id,))
        lost = await checked(answers, asked=(OTHER.peer_id,))
        after = await checked(answers, OTHER.peer_id)

    assert found["findings"][0]["fetch_from"] == [OTHER.peer_id]  # asked before it was found
    assert codes(lost) == ["lost"]
    assert after["ok"]


async def test_what_people_said_and_is_lost_is_to_be_said_again(joined: Joined) -> None:
    async with holding(joined) as answers:
        key = answers.feeds.key.public
        await answers.feeds.append(
            Record(author=key, nonce=b"d", kind="group.decision", start_us=0)
        )
        await answers.feeds.cut_all()
        await three_bundles(answers)
        flip(joined[0], b"group.decision")
        await checked(answers)
        lost = await checked(answers)

    assert "Say again what group.decision said" in lost["findings"][0]["message"]


async def test_a_lost_signature_of_ours_is_lost_once_and_its_records_are_signed_again(
    joined: Joined,
) -> None:
    async with holding(joined) as answers:
        bundles = await three_bundles(answers)
        flip(joined[0], bundles[1].signature)
    async with holding(joined) as answers:
        await answers.feeds.cut_all()
        lost, after = [await checked(answers) for _ in range(2)]
        status = await answers.status(Surroundings())

    assert [place(each) for each in lost["findings"]] == [("lost", 2, 4)]
    assert after["ok"]
    assert status["records"] == 7  # all six, and the statement


async def test_a_command_without_a_daemon_gives_nothing_up(joined: Joined) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
    flip(joined[0], b"own11")
    size = segment_of(joined[0].journal).stat().st_size

    told = [await answer_offline(joined[0], "GET", "/check", {}) for _ in range(2)]

    assert [codes(each) for each in told] == 2 * [["damaged"]]
    assert segment_of(joined[0].journal).stat().st_size == size


async def test_what_comes_back_after_all_is_held_and_lost_no_more(joined: Joined) -> None:
    async with holding(joined) as answers:
        bundles = await three_bundles(answers)
        flip(joined[0], b"own11")
        await checked(answers)
        await checked(answers)
        await answers.feeds.add_all(bundles)
        after = await checked(answers)
        holes, forks = answers.feeds.holes, answers.feeds.forks

    assert (after["ok"], after["lost_records"], holes, forks) == (True, 0, {}, {})


async def test_another_aggregator_does_not_look_for_what_an_author_says_is_lost(
    tmp_path: Path,
) -> None:
    mesh = TestMesh()
    homes: list[Joined] = []
    for seed, name in enumerate(("one", "other"), 1):
        (tmp_path / name).mkdir()
        homes.append(aggregator_home(tmp_path / name, mesh, seed=seed))
    async with holding(homes[0]) as one, holding(homes[1]) as other:
        bundles = await three_bundles(one)
        flip(homes[0][0], b"own11")
        await other.feeds.add_all([bundles[0], bundles[2]])
        before = await checked(other, one.identity.peer_id)
        await checked(one)
        await checked(one)
        await other.feeds.add_all(bundles_of(one.feeds))
        after = await checked(other, one.identity.peer_id)
        status = await other.status(Surroundings())

    assert [place(each) for each in before["findings"]] == [("hole", 2, 4)]
    assert before["findings"][0]["fetch_from"] == [peer_id_of(bundles[0].header.feed)]
    assert after["ok"]
    assert after["lost_records"] == status["lost_records"] == 2
    assert (status["holes"], status["awaited"]) == (0, 0)


@pytest.mark.parametrize("attributes", [{}, {"epoch": 1, "first_sequence": 0, "next_sequence": 9}])
async def test_what_somebody_states_of_others_feeds_does_not_count(
    joined: Joined, attributes: dict[str, Any]
) -> None:
    async with holding(joined) as answers:
        bundles = await three_bundles(answers)
        liar = Record(
            author=key_of(5).public,
            nonce=b"lie",
            kind="feed.lost",
            start_us=0,
            attributes=attributes and {**attributes, "epoch": bundles[0].header.epoch},
        )
        await answers.feeds.add(sign_bundle(key_of(5), Place(1, 0, None), [liar.encode()], 1))
        flip(joined[0], b"own11")
        answer = await checked(answers, OTHER.peer_id)

    assert codes(answer) == ["damaged"]


async def test_a_start_names_what_of_our_own_is_damaged_until_it_is_back_or_given_up(
    joined: Joined, caplog: pytest.LogCaptureFixture
) -> None:
    async def named_at_start() -> list[object]:
        caplog.clear()
        async with holding(joined):
            lines = [each for each in caplog.records if each.msg == "bundle damaged on disk"]
            return [vars(each)["sequences"] for each in lines]

    async with holding(joined) as answers:
        bundles = await three_bundles(answers)
    flip(joined[0], b"own01")
    flip(joined[0], b"own11")
    found = await named_at_start()
    async with holding(joined) as answers:
        await answers.feeds.add(bundles[0])
    given_back = await named_at_start()
    async with holding(joined) as answers:
        await checked(answers)
    given_up = await named_at_start()

    assert (found, given_back, given_up) == ([(0, 2), (2, 4)], [(2, 4)], [])
