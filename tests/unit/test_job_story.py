"""What `covey job why` says of each peer, from the steps of a job."""

from __future__ import annotations

from typing import Any

import pytest

from node.job_story import accounts, attempts, duration, rows

AAA, BBB, CCC = ("12D3KooW" + letter * 8 for letter in "ABC")


def steps(*told: tuple[float, str, str, int, object]) -> list[dict[str, Any]]:
    """Steps at so many seconds after the full minute."""
    return [
        {
            "at": f"2026-01-01T00:00:{at:06.3f}+00:00",
            "what": what,
            "peer": peer,
            "fence": fence,
            "detail": detail,
        }
        for at, what, peer, fence, detail in told
    ]


FAILOVER = steps(
    (0, "offered", AAA, 1, ""),
    (0, "offered", BBB, 1, ""),
    (0, "offered", CCC, 1, ""),
    (0.1, "leased", BBB, 1, 400),
    (0.2, "leased", AAA, 1, 1_200),
    (0.3, "accepted", BBB, 1, ""),
    (0.4, "running", BBB, 1, ""),
    (38.3, "lost", BBB, 1, "its session ended"),
    (38.3, "offered", AAA, 2, ""),
    (38.3, "offered", CCC, 2, ""),
    (38.4, "refused", CCC, 2, "busy (much to do)"),
    (38.5, "leased", AAA, 2, 900),
    (38.5, "accepted", AAA, 2, ""),
    (39.5, "done", AAA, 2, ""),
)


def sentences(told: list[dict[str, Any]], state: str = "done") -> dict[str, str]:
    return {peer: each.sentence(state) for peer, each in accounts(told).items()}


def test_a_row_tells_what_became_of_the_job_there_over_its_whole_history() -> None:
    assert sentences(FAILOVER) == {
        AAA: "promised 1.2 s; …BBBBBBBB was sooner: promised 400 ms; "
        "then ran it for 1 s; its result was taken",
        BBB: "ran it for 38 s and was lost: its session ended",
        CCC: "had not answered when …BBBBBBBB was chosen; then refused: busy (much to do)",
    }
    assert attempts(FAILOVER) == 2


def test_the_promise_of_who_was_chosen_is_told_too() -> None:
    told = accounts(FAILOVER)

    assert (told[AAA].promised_ms, told[BBB].promised_ms, told[CCC].promised_ms) == (900, 400, None)


def test_of_equal_promises_the_one_that_was_asked_first_is_named_so() -> None:
    told = steps(
        (0, "offered", AAA, 1, ""),
        (0, "offered", BBB, 1, ""),
        (0.1, "leased", AAA, 1, 400),
        (0.1, "leased", BBB, 1, 400),
        (0.1, "accepted", AAA, 1, ""),
    )

    assert sentences(told, "running") == {
        AAA: "has it",
        BBB: "promised 400 ms; …AAAAAAAA, asked before it, promised no later: promised 400 ms",
    }
    assert sentences(told, "cancelled")[AAA] == "had it when the job was cancelled"


def test_a_worker_that_knows_nothing_of_such_jobs_promises_no_time() -> None:
    told = steps(
        (0, "offered", AAA, 1, ""),
        (0, "offered", BBB, 1, ""),
        (0.1, "leased", AAA, 1, 0),
        (0.1, "leased", BBB, 1, 50),
        (0.1, "accepted", AAA, 1, ""),
    )

    assert "…AAAAAAAA was sooner: promised no time" in sentences(told)[BBB]


def test_what_a_peer_did_again_and_again_is_not_told_again_and_again() -> None:
    busy = [
        step
        for number in range(1, 9)
        for step in steps(
            (number, "offered", AAA, number, ""),
            (number, "refused", AAA, number, f"busy ({number})"),
        )
    ]

    assert sentences(busy)[AAA] == (
        "5 things before; then refused: busy (6); then refused: busy (7); then refused: busy (8)"
    )
    assert sentences([*busy[:2], *busy[:2]])[AAA] == "refused: busy (1)"


def test_who_was_asked_in_an_earlier_try_has_a_row_and_who_was_not_says_why() -> None:
    known = {"speed": 5.0, "basis": "advert 5 GFLOP/s", "fits": True, "reason": None}
    others = [
        {"peer": CCC, **known},
        {"peer": "X", **known, "speed": None, "reason": "has no model m"},
        {"peer": AAA, **known},
    ]

    told = rows(others, [{"at": "", "what": "resumed after a restart"}, *FAILOVER[:-1]], "running")

    assert [row["peer"] for row in told] == [CCC, AAA, BBB, "X"]
    assert told[-1]["answer"] == "not asked: it has no model m"
    assert told[1]["answer"].endswith("then has it")
    assert rows([{"peer": "Y", **known}], [], "done")[0]["answer"] == "not asked: others came first"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0124, "12 ms"), (1.234, "1.23 s"), (38.04, "38 s"), (600, "10 min"), (9_000, "2.5 h")],
)
def test_times_are_told_in_two_or_three_digits(seconds: float, told: str) -> None:
    assert duration(seconds) == told
