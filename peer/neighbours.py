"""Whom this peer met, and where: kept on disk, so that a peer that starts again finds its mesh by
itself. The first machine of a mesh has no ticket that names another; without this it waits to be
dialled.

Losing the file costs time and nothing else, so nothing fails for its sake.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import trio

from peer.addresses import PeerAddress
from peer.directory import Directory
from peer.durable import NotWrittenError, write_durably
from protocols.errors import RemoteProtocolError
from protocols.keys import PeerId, peer_id_of
from protocols.limits import MAX_ADDRESSES, MAX_NEIGHBOURS

log = logging.getLogger(__name__)

NEIGHBOURS_FILE: Final = "neighbours.json"
SAVE_GAP_S: Final = 1.0  # a start meets sixty peers in a burst, and writes once


class Neighbours:
    """The last ``MAX_NEIGHBOURS`` peers that said a valid hello, in the order in which they did,
    and the addresses that they had then.
    """

    def __init__(self, home: Path, directory: Directory) -> None:
        self._path = home / NEIGHBOURS_FILE
        self._directory = directory
        self._mesh = peer_id_of(directory.mesh)
        self._changed = trio.Event()
        self._addresses = self._load()

    def __iter__(self) -> Iterator[PeerAddress]:
        for peer_id, addresses in self._addresses.items():
            for address in addresses:
                yield PeerAddress(peer_id, address)

    def __len__(self) -> int:
        return len(self._addresses)

    def met(self, peer_id: PeerId) -> None:
        """Take in a peer that is in the directory."""
        entry = self._directory.get(peer_id)
        if entry is None or not entry.addresses:
            return
        self._addresses.pop(peer_id, None)
        self._addresses[peer_id] = entry.addresses
        if len(self._addresses) > MAX_NEIGHBOURS:
            del self._addresses[next(iter(self._addresses))]
        self._changed.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write what changed, soon after it did and at the end, until cancelled."""
        task_status.started()
        try:
            while True:
                await self._changed.wait()
                await trio.sleep(SAVE_GAP_S)
                self._changed = trio.Event()
                await trio.to_thread.run_sync(self._write, self._encoded())
        finally:
            if self._changed.is_set():
                self._write(self._encoded())

    def _encoded(self) -> bytes:
        return json.dumps({"mesh": self._mesh, "peers": self._addresses}).encode()

    def _write(self, content: bytes) -> None:
        try:
            write_durably(self._path, content)
        except NotWrittenError as error:
            log.warning("neighbours not kept", extra={"why": error.message})

    def _load(self) -> dict[PeerId, tuple[str, ...]]:
        """Read the file; one that is damaged, or of another mesh, names nobody."""
        try:
            kept = json.loads(self._path.read_bytes())
            return _checked(kept["peers"]) if kept["mesh"] == self._mesh else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("neighbours not read", extra={"why": repr(error)})
            return {}


def _checked(peers: dict[str, Any]) -> dict[PeerId, tuple[str, ...]]:
    checked: dict[PeerId, tuple[str, ...]] = {}
    for peer_id, addresses in list(peers.items())[-MAX_NEIGHBOURS:]:
        try:
            found = [PeerAddress.parse(f"{each}/p2p/{peer_id}") for each in addresses]
        except RemoteProtocolError:
            continue
        checked[peer_id] = tuple(each.address for each in found[:MAX_ADDRESSES])
    return checked
