"""What becomes of an aggregator's own bundles when its disk damages them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from aggregator.answers import Answers
from aggregator.api import Api
from aggregator.metrics import Metrics
from aggregator.offline import answer_offline
from aggregator.surroundings import Surroundings
from peer.showing import show_certificate
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.feed import Bundle, Place, sign_bundle
from protocols.keys import SigningKey, peer_id_of
from protocols.loss import LOSS_KIND
from protocols.membership import AGGREGATOR, WORKER, Membership
from protocols.record import Record
from tests.aggregator.test_check import OTHER, Joined, codes, flip, full, holding
from tests.support import rot
from tests.support.feeds import bundles_of, segment_of
from tests.support.home import Author, aggregator_home
from tests.support.members import TestMesh, key_of


@pytest.fixture
def joined(tmp_path: Path) -> Joined:
    return aggregator_home(tmp_path)


async def checked(
    answers: Answers, *away: str, asked: tuple[str, ...] = (), is_loss_accepted: bool = False
) -> dict[str, Any]:
    """Check in a running daemon that knows other aggregators, of which it has ``asked`` some."""
    around = Surroundings(
        is_running=True,
        aggregators=[*away, *asked],
        asked=list(asked),
        asked_at=answers.feeds.quarantined,
    )
    return await answers.check(around, is_loss_accepted=is_loss_accepted)


async def given_up(answers: Answers, *away: str) -> dict[str, Any]:
    """Check, and accept the loss of what is found."""
    await checked(answers, *away)
    return await checked(answers, *away, is_loss_accepted=True)


async def statements_of(answers: Answers) -> int:
    """How many losses the index knows to be stated, whether they count or not."""
    await answers.index.catch_up()
    return len(await answers.index.ask(lambda store: store.records_since(0, (LOSS_KIND,))))


def liar_states(feed: SigningKey, *records: dict[str, Any], shown: Membership | None) -> Author:
    """A feed of bundles of one record each, the last of which are losses with these attributes."""
    author = Author(feed)
    if shown is not None:
        author.show(shown)
        author.cut()
    for number in range(4):
        author.add(f"held{number}", attributes={"marker": f"MARK{number}"})
        author.cut()
    for attributes in records:
        author.add(LOSS_KIND, attributes=attributes)
        author.cut()
    return author


def lost(first: int, end: int, epoch: int = 1) -> dict[str, int]:
    return {"epoch": epoch, "first_sequence": first, "next_sequence": end}


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
        first = await checked(answers)
        again_named = await checked(answers)
        second = await checked(answers, is_loss_accepted=True)
        third = await checked(answers, is_loss_accepted=True)
        status = await answers.status(Surroundings())
        root = answers.feeds.state_root()
    async with holding(joined) as answers:
        again = await checked(answers)
        await answers.rebuild()
        rebuilt = await checked(answers)
        assert answers.feeds.state_root() == root

    at = 2 * damaged, 2 * damaged + 2
    assert [place(each) for each in first["findings"]] == [("damaged", *at)]
    assert [place(each) for each in again_named["findings"]] == [("damaged", *at)]
    assert "`covey-aggregator check --accept-loss`" in again_named["findings"][0]["message"]
    assert "Nothing else needs doing" in again_named["findings"][0]["message"]
    [lost] = second["findings"]
    assert place(lost) == ("lost", *at)
    assert f"They held 1 own{damaged}0, 1 own{damaged}1. Nothing else needs" in lost["message"]
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
        stated = await statements_of(answers)
        accepted = await checked(answers, OTHER.peer_id, is_loss_accepted=True)
        after = await checked(answers, OTHER.peer_id)

    assert [codes(each) for each in before] == 3 * [["damaged"]]
    assert before[-1]["findings"][0]["fetch_from"] == [OTHER.peer_id]
    assert "--accept-loss" not in before[-1]["findings"][0]["message"]
    assert stated == 0
    assert codes(accepted) == ["lost"]
    assert after["ok"]


async def test_who_was_asked_and_has_it_not_is_no_source(joined: Joined) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        found = await checked(answers, asked=(OTHER.peer_id,))
        named = await checked(answers, asked=(OTHER.peer_id,))
        stated = await statements_of(answers)

    assert found["findings"][0]["fetch_from"] == [OTHER.peer_id]  # asked before it was found
    assert "--accept-loss" not in found["findings"][0]["message"]
    assert (codes(named), named["findings"][0]["fetch_from"]) == (["damaged"], [])
    assert "--accept-loss" in named["findings"][0]["message"]
    assert stated == 0


async def test_damage_that_a_reader_met_after_others_were_asked_is_still_to_be_asked_for(
    joined: Joined,
) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        around = Surroundings(
            is_running=True,
            aggregators=[OTHER.peer_id],
            asked=[OTHER.peer_id],
            asked_at=answers.feeds.quarantined,
        )
        flip(joined[0], b"own11")
        for link in [link for chain in answers.feeds.chains.values() for link in chain]:
            answers.feeds.read(link)
        told = await answers.check(around, is_loss_accepted=True)
        stated = await statements_of(answers)

    assert (codes(told), told["findings"][0]["fetch_from"]) == (["damaged"], [OTHER.peer_id])
    assert "is being asked, so check again" in told["findings"][0]["message"]
    assert stated == 0


async def test_nothing_is_given_up_while_who_may_have_it_is_connected_and_was_not_asked(
    joined: Joined,
) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        await checked(answers)
        around = Surroundings(
            is_running=True,
            connected=[OTHER.peer_id],
            aggregators=[OTHER.peer_id],
            asked_at=answers.feeds.quarantined,
        )
        told = await answers.check(around, is_loss_accepted=True)
        lost = await answers.check(replace(around, asked=[OTHER.peer_id]), is_loss_accepted=True)

    assert (codes(told), codes(lost)) == (["damaged"], ["lost"])


async def test_an_aggregator_that_the_index_knows_is_a_source_though_nobody_was_met(
    tmp_path: Path,
) -> None:
    mesh = TestMesh()
    joined = aggregator_home(tmp_path, mesh)
    other = Author(OTHER)
    other.show(mesh.membership(OTHER, AGGREGATOR))
    async with holding(joined, other.cut()) as answers:
        await three_bundles(answers)
    flip(joined[0], b"own11")

    async with holding(joined) as answers:
        told = await checked(answers)

    assert (codes(told), told["findings"][0]["fetch_from"]) == (["damaged"], [OTHER.peer_id])


async def test_two_that_give_up_at_once_state_it_once(joined: Joined) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        await checked(answers)
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(partial(checked, answers, is_loss_accepted=True))
        stated = await statements_of(answers)

    assert stated == 1


async def test_a_loss_waits_for_room_on_the_disk(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        await checked(answers)
        with monkeypatch.context() as patch:
            patch.setattr("peer.segment.write_all", full)
            refused = await checked(answers, is_loss_accepted=True)
        lost = await checked(answers, is_loss_accepted=True)

    assert codes(refused) == ["damaged"]
    assert "not given up: " in refused["findings"][0]["message"]
    assert codes(lost) == ["lost"]


async def test_nobody_misses_a_lost_record_that_another_one_names(joined: Joined) -> None:
    async with holding(joined) as answers:
        key = answers.feeds.key.public
        parent = Record(author=key, nonce=b"1", kind="parent", start_us=0)
        cid = await answers.feeds.append(parent)
        await answers.feeds.cut_all()
        child = Record(author=key, nonce=b"2", kind="child", start_us=0, informed_by=(cid,))
        await answers.feeds.append(child)
        await three_bundles(answers)
        flip(joined[0], b"parent")
        lost = await given_up(answers)
        after = await checked(answers)
        await answers.rebuild()
        rebuilt = await checked(answers)
        status, missing = await answers.status(Surroundings()), await answers.missing()

    assert codes(lost) == ["lost"]
    assert (after["findings"], rebuilt["findings"]) == ([], [])
    assert (status["missing"], missing) == (0, [])


async def test_what_a_header_in_anothers_feed_names_is_missed_whoever_states_it_lost(
    tmp_path: Path,
) -> None:
    mesh = TestMesh()
    worker, other = Author(key_of(6)), Author(key_of(7))
    run = worker.add("job.run")
    other.add("job.compared", informed_by=(run,))
    bare = worker.cut().with_records([b""])
    shown = mesh.membership(key_of(5), AGGREGATOR)
    liar = liar_states(key_of(5), {**lost(0, 1), "records": [run]}, shown=shown)

    joined = aggregator_home(tmp_path, mesh)
    async with holding(joined, bare, other.cut(), *liar.bundles) as answers:
        await answers.index.catch_up()
        missing = await answers.missing()

    assert [each["cid"] for each in missing] == [str(run)]


async def test_what_people_said_and_is_lost_is_to_be_said_again(joined: Joined) -> None:
    async with holding(joined) as answers:
        key = answers.feeds.key.public
        await answers.feeds.append(
            Record(author=key, nonce=b"d", kind="group.decision", start_us=0)
        )
        await answers.feeds.cut_all()
        await three_bundles(answers)
        flip(joined[0], b"group.decision")
        named = await checked(answers)
        lost = await checked(answers, is_loss_accepted=True)

    assert "Say again what group.decision said" in named["findings"][0]["message"]
    assert "Say again what group.decision said" in lost["findings"][0]["message"]


async def test_a_lost_signature_of_ours_is_lost_once_and_its_records_are_signed_again(
    joined: Joined,
) -> None:
    async with holding(joined) as answers:
        bundles = await three_bundles(answers)
        flip(joined[0], bundles[1].signature)
    async with holding(joined) as answers:
        await answers.feeds.cut_all()
        lost = await checked(answers, is_loss_accepted=True)
        after = await checked(answers)
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
        await given_up(answers)
        await answers.feeds.add_all(bundles)
        after = await checked(answers)
        holes, forks = answers.feeds.holes, answers.feeds.forks

    assert (after["ok"], after["lost_records"], holes, forks) == (True, 0, {}, {})


async def test_what_comes_back_in_part_is_lost_in_part(joined: Joined) -> None:
    async with holding(joined) as answers:
        bundles = await three_bundles(answers)
        flip(joined[0], b"own01")
        flip(joined[0], b"own11")
        before = await given_up(answers)
        await answers.feeds.add(bundles[0])
        after = await checked(answers)

    assert before["lost_records"] == 4
    assert (after["ok"], after["lost_records"]) == (True, 2)


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
        await show_certificate(one.losses.recorder, one.identity.member)
        await given_up(one)
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
        await checked(answers, is_loss_accepted=True)
    after = await named_at_start()

    assert (found, given_back, after) == ([(0, 2), (2, 4)], [(2, 4)], [])


@pytest.mark.parametrize(
    ("role", "losses"),
    [
        (None, [lost(2, 4)]),
        (WORKER, [lost(2, 4)]),
        (AGGREGATOR, [lost(2, 1 << 40)]),  # past where it is stated
        (AGGREGATOR, [lost(2, 4, epoch=2)]),
        (AGGREGATOR, [lost(9, 2), lost(3, 3)]),
        (AGGREGATOR, [lost(0, 1 << 62, epoch=0)]),
    ],
)
async def test_what_an_author_may_not_state_hides_no_hole(
    tmp_path: Path, role: str | None, losses: list[dict[str, Any]]
) -> None:
    mesh = TestMesh()
    shown = mesh.membership(key_of(5), role or WORKER)
    author = liar_states(key_of(5), *losses, shown=shown if role else None)
    at = author.bundles[2].header.first_sequence
    without = [each for each in author.bundles if each is not author.bundles[2]]

    async with holding(aggregator_home(tmp_path, mesh), *without) as answers:
        told = await checked(answers)
        status = await answers.status(Surroundings())

    assert [place(each) for each in told["findings"]] == [("hole", at, at + 1)]
    assert (status["awaited"], status["lost_records"]) == (1, 0)


async def test_a_statement_of_an_aggregator_excuses_nothing_that_was_held_here(
    tmp_path: Path,
) -> None:
    mesh = TestMesh()
    joined = aggregator_home(tmp_path, mesh)
    shown = mesh.membership(key_of(5), AGGREGATOR)
    author = liar_states(key_of(5), lost(1, 4), shown=shown)
    async with holding(joined, *author.bundles) as answers:
        await answers.index.catch_up()
        await answers.checkpoint()
        flip(joined[0], b"MARK1")
        told = await checked(answers)
        settled = await checked(answers, is_loss_accepted=True)
        status = await answers.status(Surroundings())

    assert codes(told) == codes(settled) == ["damaged", "behind-checkpoint"]
    assert told["findings"][0]["fetch_from"] == [key_of(5).peer_id]
    assert (status["damaged_records"], settled["healed_bytes"]) == (1, 0)


async def test_a_statement_is_not_redacted(joined: Joined) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        await given_up(answers)
        [row] = await answers.index.ask(lambda store: store.records_since(0, (LOSS_KIND,)))
        with pytest.raises(CoveyError, match="rules what others answer"):
            await answers.redact([str(CID(row.cid))], "no reason")


async def test_the_state_root_is_told_with_what_is_awaited_as_in_status(joined: Joined) -> None:
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        await given_up(answers)
        app = Api(answers, Metrics(), Surroundings).control()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://covey") as client:
            told = (await client.get("/state-root")).json()
        status = await answers.status(Surroundings())

    assert (told["holes"], told["awaited"]) == (status["holes"], status["awaited"]) == (0, 0)


async def test_of_an_author_only_so_many_statements_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.losses.MAX_LOSSES_OF_AUTHOR", 2)
    mesh = TestMesh()
    shown = mesh.membership(key_of(5), AGGREGATOR)
    author = liar_states(key_of(5), *(lost(n, n + 1) for n in (1, 2, 3)), shown=shown)
    held = [author.bundles[0], *author.bundles[4:]]

    async with holding(aggregator_home(tmp_path, mesh), *held) as answers:
        told = await checked(answers)
    assert [place(each) for each in told["findings"]] == [("hole", 3, 4)]


async def test_what_cannot_be_stated_any_more_is_told_with_the_reason(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.losses.MAX_LOSSES_OF_AUTHOR", 0)
    async with holding(joined) as answers:
        await three_bundles(answers)
        flip(joined[0], b"own11")
        told = await given_up(answers)

    assert codes(told) == ["damaged"]
    assert "not given up: of one feed 0 losses count" in told["findings"][0]["message"]


async def test_a_statement_names_no_more_records_than_it_may_hold(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aggregator.losses.MAX_LOST_NAMED", 1)
    async with holding(joined) as answers:
        key = answers.feeds.key.public
        parents = [
            await answers.feeds.append(Record(author=key, nonce=nonce, kind="own", start_us=0))
            for nonce in (b"1", b"2")
        ]
        await answers.feeds.cut_all()
        child = Record(author=key, nonce=b"3", kind="child", start_us=0, informed_by=tuple(parents))
        await answers.feeds.append(child)
        await three_bundles(answers)
        for link in list(answers.feeds.chains[key, answers.feeds.epoch])[:1]:
            for offset in answers.feeds.reader.own[link.offset]:
                rot.flip_at(joined[0].journal, offset + 30)
        lost = await given_up(answers)
        stated, after = await statements_of(answers), await checked(answers)

    assert codes(lost) == ["lost"]
    assert (stated, after["findings"], after["lost_records"]) == (2, [], 2)
