"""Holds aggregators to their word: keeps the last checkpoint that each told us of, and reports one
that goes back on what it acknowledged or vouched for of our feed.

Records are dropped here because an aggregator said that it keeps them, so somebody has to look
whether it still says so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final

import trio

from node.explanation import moment
from peer.durable import make_folder_durably, remove_durably, write_durably
from peer.feeds import Feeds
from protocols.chain import Range
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.feed import Bundle
from protocols.keys import PeerId, peer_id_of
from protocols.limits import MAX_TOLD_FAULTS, MAX_WATCHED_AGGREGATORS
from protocols.vouching import Own, Told, Vouched, Watched, judge

log = logging.getLogger(__name__)

SUFFIX: Final = ".cbor"
CONSISTENT: Final = "consistent"
CONTRADICTED: Final = "contradicted"

Report = Callable[[Exception], Awaitable[Any]]


class CheckpointContradictedError(CoveyError):
    """An aggregator's checkpoint contradicts what it said before."""

    default_code = "checkpoint-contradicted"


class Watching:
    """What each aggregator told of our feed; ``told`` is the witness of our feeds."""

    def __init__(self, folder: Path, feeds: Feeds, report: Report) -> None:
        self._folder = folder
        self._feeds = feeds
        self._report = report
        self._saving = trio.CapacityLimiter(1)
        self._watched = dict(_kept_in(folder))
        own = feeds.key.public
        self._told = {peer: Told(own, kept.last) for peer, kept in self._watched.items()}
        self._believed: set[PeerId] = set()
        """Whose word that we once signed further was taken: each aggregator's once a life."""
        feeds.witness = self.told

    def status(self) -> list[dict[str, Any]]:
        """Return the last checkpoint of each aggregator and whether it goes with what it said
        before; ``from`` is up to where it vouches for our present epoch.
        """
        return [self._status(*each) for each in sorted(self._watched.items())]

    def _status(self, peer: PeerId, kept: Watched) -> dict[str, Any]:
        heads = kept.last.heads_of(self._feeds.key.public)
        ends = (head.next_sequence for head in heads if head.epoch == self._feeds.epoch)
        return {
            "aggregator": peer,
            "state": CONTRADICTED if kept.faults else CONSISTENT,
            "cid": str(kept.last.cid),
            "at": moment(kept.last.at_us),
            "next_sequence": max(ends, default=0),
            "faults": list(kept.faults[:MAX_TOLD_FAULTS]),
            "more_faults": _more_faults(kept),
            "before": str(kept.before.cid) if kept.before else None,
        }

    async def told(self, bundle: Bundle, promised: Mapping[int, Range]) -> None:
        """Look at what an aggregator tells of itself: a bundle of its own feed, and what it had
        acknowledged before on the same stream.
        """
        peer, own = peer_id_of(bundle.header.feed), self._feeds.key.public
        told = self._told.pop(peer, None) or Told(own)
        self._told[peer] = told  # the last one is the one heard of last
        while len(self._told) > MAX_WATCHED_AGGREGATORS:
            await self._forget(next(iter(self._told)))
        try:
            fresh = told.take(bundle)
        except RemoteProtocolError as error:
            log.info("checkpoint unreadable", extra={"peer": peer, "reason": error.message})
            return
        if fresh is not None:
            await self._judge(peer, fresh, promised)

    async def _judge(self, peer: PeerId, fresh: Vouched, promised: Mapping[int, Range]) -> None:
        self._rise_above(peer, fresh)
        judged = judge(self._watched.get(peer), fresh, self._own(), promised)
        if judged is None:
            return
        self._watched[peer] = judged.watched
        if judged.is_news:  # told first: what the disk does must not keep it back
            log.error("checkpoint contradicted", extra={"peer": peer, "cid": str(fresh.cid)})
            await self._report(_error(peer, judged.watched))
        await trio.to_thread.run_sync(self._save, peer, limiter=self._saving)

    def _rise_above(self, peer: PeerId, fresh: Vouched) -> None:
        """Whoever vouches for what we do not know to have signed may hold what we lost, after a
        torn tail or in a backup that was restored: go on in an epoch above it, and accuse nobody.

        Once, for it may be made up as well: who does that again has our epochs for no more.
        """
        beyond = fresh.beyond(self._own())
        if beyond is None or peer in self._believed:
            return
        self._believed.add(peer)
        epoch, next_sequence = beyond
        told = {"aggregator": peer, "epoch": epoch, "next_sequence": next_sequence}
        log.warning("own feed lost its end", extra=told)
        self._feeds.start_epoch_above(epoch, next_sequence)

    async def _forget(self, peer: PeerId) -> None:
        del self._told[peer]
        self._watched.pop(peer, None)
        log.warning("aggregator watched no more", extra={"peer": peer, "code": "too-many"})
        await trio.to_thread.run_sync(self._remove, peer, limiter=self._saving)

    def _remove(self, peer: PeerId) -> None:
        try:
            remove_durably(self._path(peer))
        except OSError as error:  # it is watched again after a restart
            log.warning("checkpoint not removed", extra={"peer": peer, "reason": str(error)})

    def _path(self, peer: PeerId) -> Path:
        return self._folder / f"{peer}{SUFFIX}"

    def _own(self) -> Own:
        feeds = self._feeds
        signed = max(feeds.place, feeds.claimed) if feeds.is_signing else None
        return Own(feeds.key.public, feeds.chains, signed)

    def _save(self, peer: PeerId) -> None:
        """Write what was judged last of an aggregator; blocks, one call at a time."""
        try:
            make_folder_durably(self._folder)
            if (kept := self._watched.get(peer)) is not None:
                write_durably(self._path(peer), kept.encode())
        except CoveyError as error:  # it is held to a little less after a restart
            log.warning("checkpoint not kept", extra={"peer": peer, "reason": error.message})


def _more_faults(kept: Watched) -> int:
    return max(kept.fault_count, len(kept.faults)) - len(kept.faults[:MAX_TOLD_FAULTS])


def _error(peer: PeerId, kept: Watched) -> CheckpointContradictedError:
    more = f"; and {_more_faults(kept)} more" if _more_faults(kept) else ""
    return CheckpointContradictedError(
        f"checkpoint {kept.last.cid} of aggregator {peer} contradicts what it said:"
        f" {'; '.join(kept.faults)}{more}",
        hint="`covey-aggregator check` there says what is damaged or lost",
    )


def _kept_in(folder: Path) -> Mapping[PeerId, Watched]:
    """Return what was kept, those written longest ago first."""
    kept: dict[PeerId, Watched] = {}
    for path in sorted(folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime_ns):
        try:
            kept[path.stem] = Watched.decode(path.read_bytes())
            kept[path.stem].last.place  # noqa: B018 - its header must name it, or it is no checkpoint
        except (RemoteProtocolError, ValueError) as error:
            kept.pop(path.stem, None)
            log.warning("checkpoint damaged", extra={"path": str(path), "reason": str(error)})
    return kept
