"""What one side of ``/covey/feed/1`` was told by the other, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from protocols.ack import AckEntry
from protocols.chain import Chain, Link, Range, Run, Runs
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_FEEDS, MAX_HELD_PARTS, MAX_HELD_RANGES
from protocols.sync import FeedEpoch, Gone, Have, Want


class Wanted:
    """What a puller said on one stream that it holds."""

    def __init__(self) -> None:
        self.ranges: dict[FeedEpoch, Sequence[Range]] = {}
        self.follow = False
        self._told = Told()

    def want(self, message: Want) -> None:
        """Take in a message; raises ``RemoteProtocolError`` when the list does not end."""
        self.follow = message.follow
        for held in message.held:
            self.ranges[held.feed, held.epoch] = self._told.take(held.ranges)


class Told:
    """Counts what one stream has told, because all of it is kept in memory."""

    def __init__(self) -> None:
        self._rows = 0
        self._parts = 0

    def take(self, parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return what is kept of one row; raises ``RemoteProtocolError`` if there are too many."""
        self._rows += 1
        if self._rows > MAX_FEEDS:
            raise RemoteProtocolError(
                f"more than {MAX_FEEDS} feeds and epochs", code="too-many-feeds"
            )
        kept = parts if self._parts < MAX_HELD_PARTS else parts[:1]
        self._parts += len(kept)
        return kept


class Offer:
    """What a server has offered on one stream, and how much of it we hold and have acknowledged."""

    def __init__(self) -> None:
        self._runs: dict[FeedEpoch, Runs] = {}
        self._untold_from: dict[FeedEpoch, int] = {}
        self.gone: dict[FeedEpoch, Gone] = {}
        """What the server has dropped."""
        self._told = Told()
        self._acked: dict[FeedEpoch, int] = {}
        self._asked: set[FeedEpoch] = set()
        self._touched: set[FeedEpoch] = set()

    def have(self, message: Have) -> None:
        """Take in what the server says that it holds; raises ``RemoteProtocolError`` when the list
        does not end.
        """
        for held in message.held:
            key = held.feed, held.epoch
            runs = [Run(*run) for run in self._told.take(held.runs)]
            self._runs[key] = Runs(runs)
            self._touched.add(key)
            if runs and (len(runs) == MAX_HELD_RANGES or len(runs) < len(held.runs)):
                self._untold_from[key] = runs[-1].first_sequence
        for row in message.gone:
            if (row.feed, row.epoch) in self._runs:  # which are counted
                self.gone[row.feed, row.epoch] = row

    def caught_up(self) -> None:
        """Take in that the server has sent everything asked for so far."""
        self._touched.update(self._runs)

    def fresh(self, key: FeedEpoch, link: Link) -> None:
        """Take in a bundle that the server did not hold when it said what it holds."""
        runs = self._runs.setdefault(key, Runs())
        if runs.extend(link):
            self._touched.add(key)
        elif len(runs.runs) < MAX_HELD_RANGES and not any(
            run.first_sequence <= link.first_sequence < run.next_sequence for run in runs.runs
        ):
            runs.add(link)
            self._touched.add(key)

    def doubts(self, chains: Mapping[FeedEpoch, Chain]) -> list[FeedEpoch]:
        """Return, once each, the epochs of which the server sent all and we still lack
        something.
        """
        unasked = (key for key in self._runs if key not in self._asked)
        lacking = [key for key in unasked if not self._is_held(key, chains)]
        self._asked.update(lacking)
        return lacking

    def acks(self, chains: Mapping[FeedEpoch, Chain]) -> list[AckEntry]:
        """Return what can be acknowledged now and was not before; only for what is on our disk."""
        entries: list[AckEntry] = []
        touched, self._touched = self._touched, set()
        for key in sorted(touched):
            chain = chains.get(key)
            first = self._held_from(key, chain)
            place = self._held_up_to(key, chain, first)
            if place > max(first, self._acked.get(key, 0)):
                self._acked[key] = place
                entries.append(AckEntry(*key, place, first))
        return entries

    def _is_held(self, key: FeedEpoch, chains: Mapping[FeedEpoch, Chain]) -> bool:
        chain = chains.get(key)
        return chain is not None and all(chain.covers(run) for run in self._runs[key].runs)

    def _held_from(self, key: FeedEpoch, chain: Chain | None) -> int:
        """Return from which sequence on we can hold everything: from 0, or from where the server
        begins, if we came too late for what it dropped.
        """
        gone = self.gone.get(key)
        is_late = gone is not None and (chain is None or chain.whole_up_to < gone.next_sequence)
        return gone.next_sequence if gone is not None and is_late else 0

    def _held_up_to(self, key: FeedEpoch, chain: Chain | None, first: int) -> int:
        """Return below which sequence we hold everything from ``first`` on, and every branch that
        the server told.
        """
        if chain is None:
            return 0
        runs = self._runs[key].runs
        place = min(chain.whole_from(first), max((run.next_sequence for run in runs), default=0))
        starts = (run.first_sequence for run in runs if not chain.covers(run))
        return min(place, *starts, self._untold_from.get(key, place))
