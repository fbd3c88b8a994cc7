"""The revocation list that this peer holds: learned from anybody, believed of the root alone, on
disk before it counts, and replaced only by a higher version.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from peer.durable import NotWrittenError, write_durably
from peer.effects import Effects
from peer.identity import Identity, load_root_key
from protocols.errors import CoveyError, LocalProtocolError, RemoteProtocolError
from protocols.keys import PeerId, SigningKey, peer_id_of, public_key_of
from protocols.membership import Certificate
from protocols.revocation import FOREVER_US, Barred, RevocationList, current, merged, signed_list

log = logging.getLogger(__name__)

REVOCATIONS_FILE: Final = "revocations.cbor"


class Revocations:
    """One mesh's revocations as this peer knows them; ``root`` where it holds the mesh's key.

    ``save`` makes a list durable; without it (tests) the list lives in memory.
    """

    def __init__(
        self,
        mesh: bytes,
        effects: Effects,
        save: Callable[[bytes], None] = lambda _encoded: None,
        root: SigningKey | None = None,
    ) -> None:
        self.mesh = mesh
        self._effects = effects
        self._save = save
        self._root = root
        self._current: RevocationList | None = None
        self._barred = Barred({})
        self._callbacks: list[Callable[[], None]] = []

    @classmethod
    def open(cls, home: Path, mesh: bytes, effects: Effects) -> Revocations:
        """Read what ``home`` holds; raise ``CoveyError`` if that is damaged. A list of a mesh that
        this peer left is not looked at.
        """
        path = home / REVOCATIONS_FILE
        root = load_root_key(home)
        is_ours = root is not None and root.public == mesh
        book = cls(
            mesh, effects, lambda encoded: write_durably(path, encoded), root if is_ours else None
        )
        known = _read(path)
        if known is not None and known.mesh == mesh:
            known.verify(mesh)
            book._take(known)
        return book

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call ``callback()`` after the list was replaced; it must not block."""
        self._callbacks.append(callback)

    @property
    def version(self) -> int:
        """The version that we hold, 0 before the first."""
        return self._current.version if self._current else 0

    @property
    def encoded(self) -> bytes | None:
        """The list as it travels, None before the first."""
        return self._current.encode() if self._current else None

    @property
    def peers(self) -> list[PeerId]:
        """Whom the mesh revoked for good."""
        barred = self._current.moments if self._current else {}
        return sorted(peer_id_of(key) for key, until_us in barred.items() if until_us == FOREVER_US)

    def holds(self, certificate: Certificate, issuer_certificate: Certificate) -> bool:
        """Whether the list voids this chain."""
        return self._barred.holds(certificate, issuer_certificate)

    def check(self, certificate: Certificate, issuer_certificate: Certificate) -> None:
        """Raise ``RemoteProtocolError`` with code ``revoked`` if the list voids this chain."""
        self._barred.check(certificate, issuer_certificate)

    def is_barred(self, peer_id: PeerId) -> bool:
        """Whether no certificate issued now would make that peer a member."""
        return self._barred.is_barred(peer_id, self._effects.now_us())

    def is_news(self, shown: RevocationList) -> bool:
        """Whether there is anything to learn from ``shown``; costs no signature."""
        if shown.version > self.version:
            return True
        # Two holders of the root key may have signed one version each: both must be heard.
        # What has expired is no news: an old list would make us sign anew each time it is shown.
        ours = self._current.moments if self._current else {}
        theirs = current(shown.moments, self._effects.now_us())
        return self._root is not None and merged(ours, theirs) != ours

    def learn(self, encoded: bytes) -> bool:
        """Take in a list that somebody shows, durably; tell whether ours changed.

        Raises ``RemoteProtocolError`` when it is not the root's.
        """
        shown = RevocationList.decode(encoded)
        if not self.is_news(shown):
            return False
        shown.verify(self.mesh)
        known = self._reconciled(shown)
        try:
            self._save(known.encode())
        except NotWrittenError as error:  # better out until the next start than in
            log.error("revocations not on disk", extra={"reason": error.message})
        self._take(known)
        return True

    def revoke(self, peer_id: PeerId, until_us: int = FOREVER_US) -> bool:
        """Void the certificates of a peer, durably; tell whether that was news.

        Raises ``LocalProtocolError`` where the root key is not, and ``RemoteProtocolError`` when
        ``peer_id`` is none.
        """
        if self._root is None:
            raise LocalProtocolError(
                "only the mesh's root key revokes, and it is not on this machine",
                code="no-root-key",
                hint="run `covey revoke` where `covey init` or `covey mesh restore` was run",
            )
        known = self._voiding(self._root, public_key_of(peer_id), until_us)
        if known is None:
            return False
        self._save(known.encode())
        self._take(known)
        return True

    def revoke_soon(self, peer_id: PeerId, until_us: int) -> Callable[[], None]:
        """Void the certificates of a peer, durably, and return what puts that into force: it ends
        the connection over which the peer has yet to be answered. Raises as ``revoke`` does.
        """
        assert self._root is not None, "only the holder of the root key is asked"
        known = self._voiding(self._root, public_key_of(peer_id), until_us)
        if known is None:
            return lambda: None
        self._save(known.encode())
        return lambda: self._take(known)

    def _voiding(self, root: SigningKey, peer: bytes, until_us: int) -> RevocationList | None:
        ours = self._current.moments if self._current else {}
        wanted = merged(ours, {peer: until_us})
        if wanted == ours:
            return None
        return signed_list(root, wanted, self.version + 1, self._effects.now_us())

    def _reconciled(self, shown: RevocationList) -> RevocationList:
        """What to hold after seeing ``shown``: with the root key, everything that either says."""
        ours = self._current.moments if self._current else {}
        both = merged(ours, shown.moments)
        if self._root is None or (both == shown.moments and shown.version > self.version):
            return shown
        version = max(self.version, shown.version) + 1
        return signed_list(self._root, both, version, self._effects.now_us())

    def _take(self, known: RevocationList) -> None:
        self._current = known
        self._barred = Barred(known.moments)
        log.info("revocations", extra={"version": known.version, "peers": len(known.peers)})
        for callback in self._callbacks:
            callback()


def revoke(revocations: Revocations, identity: Identity, peer_id: PeerId) -> dict[str, Any]:
    """Put a peer out of the mesh for good; return what a command prints.

    Raises what ``Revocations.revoke`` raises, and ``LocalProtocolError`` for ourselves.
    """
    if peer_id == identity.peer_id:
        raise LocalProtocolError(
            "a peer cannot revoke itself: nobody whom it admitted would be a member any more",
            code="revoke-self",
            hint="`covey leave` takes this machine out; `covey mesh restore` moves the root key",
        )
    is_news = revocations.revoke(peer_id)
    return {
        "peer": peer_id,
        "is_news": is_news,
        "version": revocations.version,
        "revoked": revocations.peers,
    }


def revoked_in(home: Path, mesh: bytes) -> bytes | None:
    """Return the list of a mesh that lies in ``home``, as it travels; raise ``CoveyError`` if that
    is damaged.
    """
    known = _read(home / REVOCATIONS_FILE)
    return known.encode() if known is not None and known.mesh == mesh else None


def _read(path: Path) -> RevocationList | None:
    try:
        return RevocationList.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except RemoteProtocolError as error:
        raise CoveyError(
            f"{path} is damaged: {error.message}",
            code="revocations-damaged",
            hint=f"remove {path}: the first neighbour shows the list again",
        ) from error
