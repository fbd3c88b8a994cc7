"""What became of a job at each peer that was asked, told from its steps. Pure.

Steps are what ``covey job logs`` shows: ``{"at", "what", "peer", "fence", "detail"}``, in order. A
kept job's go on through daemons, each with fences of its own, so that a round is where the fence
does not change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from protocols import job_history as history

Step = Mapping[str, Any]

SHOWN_DIGITS: Final = 8  # of a peer beside others: enough to find its row
LATELY: Final = 3  # of a peer's doings; one that was busy for an hour says so often


@dataclass(slots=True)
class _Round:
    """Offers under one fence: who promised what, and whose promise was accepted."""

    fence: int
    promised_ms: dict[str, int] = field(default_factory=dict[str, int])
    open: list[str] = field(default_factory=list[str])
    """Who was asked and has not said no, in the order of asking."""


@dataclass(slots=True)
class Account:
    """What became of a job at one peer."""

    doings: list[str] = field(default_factory=list[str])
    promised_ms: int | None = None
    """What it promised last."""
    began_at: str = ""
    """Since when it has the job."""

    def add(self, doing: str) -> None:
        """Add what came next; the same again is told once."""
        if not self.doings or self.doings[-1] != doing:
            self.doings.append(doing)

    def sentence(self, state: str) -> str:
        """Return all of it, for a job that stands at ``state``."""
        doings = [*self.doings]
        if self.began_at:
            doings.append("has it" if state not in ENDED else f"had it when the job was {state}")
        if (earlier := len(doings) - LATELY) > 0:
            doings = [f"{earlier} things before", *doings[earlier:]]
        return "; then ".join(doings)


ENDED: Final = ("done", "failed", "cancelled", "expired")


def accounts(steps: Iterable[Step]) -> dict[str, Account]:
    """Return what became of a job at each peer, by all of its steps."""
    told: dict[str, Account] = {}
    offers = _Round(0)
    for step in steps:
        peer, what = str(step.get("peer") or ""), step["what"]
        if not peer:
            continue
        if step["fence"] != offers.fence:
            offers = _Round(step["fence"])
        account = told.setdefault(peer, Account())
        if what == history.ACCEPTED:
            _pass_over(offers, peer, told)
        _tell(account, offers, step, peer)
    for peer in offers.open:
        mine = offers.promised_ms.get(peer)
        told[peer].add("was asked, and did not answer yet" if mine is None else promise(mine))
    return told


def attempts(steps: Iterable[Step]) -> int:
    """Return how many workers took the job."""
    return sum(step["what"] == history.ACCEPTED for step in steps)


def _tell(account: Account, offers: _Round, step: Step, peer: str) -> None:
    match step["what"]:
        case history.OFFERED:
            offers.open.append(peer)
        case history.LEASED:
            offers.promised_ms[peer] = account.promised_ms = int(step["detail"])
        case history.REFUSED:
            _close(offers, peer)
            account.add(f"refused: {step['detail']}")
        case history.ACCEPTED:
            account.began_at = step["at"]
            account.promised_ms = offers.promised_ms.get(peer)
            offers.open.clear()
        case history.LOST:
            account.add(f"{_ran(account, step)} and was lost: {step['detail']}")
        case history.FAILED:
            account.add(f"{_ran(account, step)} and failed: {step['detail']}")
        case history.DONE:
            account.add(f"{_ran(account, step)}; its result was taken")
        case _:
            pass


def _pass_over(offers: _Round, chosen: str, told: dict[str, Account]) -> None:
    """Say why each of the others that were asked was not chosen."""
    theirs = offers.promised_ms.get(chosen)
    for peer in offers.open:
        if peer == chosen:
            continue
        mine = offers.promised_ms.get(peer)
        told[peer].add(_why_passed_over(mine, theirs, short(chosen)))


def _why_passed_over(mine: int | None, theirs: int | None, chosen: str) -> str:
    if mine is None:
        return f"had not answered when {chosen} was chosen"
    if theirs is None:
        return f"{promise(mine)}; {chosen} had the job already"
    if theirs < mine:
        return f"{promise(mine)}; {chosen} was sooner: {promise(theirs)}"
    return f"{promise(mine)}; {chosen}, asked before it, promised no later: {promise(theirs)}"


def _close(offers: _Round, peer: str) -> None:
    if peer in offers.open:
        offers.open.remove(peer)


def _ran(account: Account, step: Step) -> str:
    began_at, account.began_at = account.began_at, ""
    if not began_at:
        return "ran it"
    spent = datetime.fromisoformat(step["at"]) - datetime.fromisoformat(began_at)
    return f"ran it for {duration(spent.total_seconds())}"


def promise(eta_ms: int) -> str:
    """Return a lease's promise; one of 0 says that its worker knows nothing of such jobs."""
    return f"promised {duration(eta_ms / 1_000)}" if eta_ms else "promised no time"


def duration(seconds: float) -> str:
    """Return a time for people, in two or three digits."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return f"{minutes:.3g} min" if minutes < 100 else f"{minutes / 60:.3g} h"


def short(peer: str) -> str:
    """Return enough of a peer's id to find it in a list."""
    return f"…{peer[-SHOWN_DIGITS:]}"


def rows(candidates: Sequence[dict[str, Any]], steps: Sequence[Step], state: str) -> list[Any]:
    """Return the candidates' rows with ``answer`` and ``promised_ms``, those that were asked first;
    who was only asked in an earlier try gets a row, too.
    """
    told = accounts(steps)
    known = {row["peer"] for row in candidates}
    others: list[dict[str, Any]] = [
        {"peer": peer, "speed": None, "basis": None, "fits": True, "reason": None}
        for peer in told
        if peer not in known
    ]
    ordered = sorted([*candidates, *others], key=lambda row: row["peer"] not in told)
    return [_with_account(row, told.get(row["peer"]), state) for row in ordered]


def _with_account(row: dict[str, Any], account: Account | None, state: str) -> dict[str, Any]:
    reason, is_resort = row.get("reason"), row.get("is_last_resort", False)
    last = " (asked only when no other will do)" if is_resort else ""
    if account is None:
        why = f"it {reason}" if reason else "others came first"
        return {**row, "promised_ms": None, "answer": f"not asked: {why}{last}"}
    if is_resort:
        last = f" (it {reason}: asked only when no other will do)"
    return {**row, "promised_ms": account.promised_ms, "answer": account.sentence(state) + last}
