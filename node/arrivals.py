"""Notices when a worker offers a model that it did not offer before: jobs may wait for it."""

from __future__ import annotations

from collections.abc import Callable

from peer.directory import Directory
from protocols.keys import PeerId


class Arrivals:
    """Calls ``tell`` for each such change of the directory; it must not block."""

    def __init__(self, directory: Directory, tell: Callable[[], None]) -> None:
        self._directory = directory
        self._tell = tell
        self._offered: dict[PeerId, frozenset[str]] = {}
        directory.on_change(self._look_at)

    def _look_at(self, peer: PeerId) -> None:
        worker = self._directory.worker(peer)
        offers = worker.advert.models if worker is not None and worker.advert else ()
        before = self._offered.pop(peer, frozenset[str]())
        offered = frozenset(offer.name for offer in offers)
        if offered:
            self._offered[peer] = offered
        if offered - before:
            self._tell()
