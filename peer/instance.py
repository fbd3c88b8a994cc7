"""One run of this peer's process, and how it finds out that another one has the same key.

Two copies of a home would both sign, and their feeds would fork. Each run draws an id by lot and
puts it into its adverts; neighbours show a peer the latest advert that they hold in its name. An
advert of our key with another id may be of an earlier life, so it only makes us rise above it and
name that id in our next advert. An advert that names *our* id was signed by our key after we
started, and not by us: there are two of us, now. Nobody else can forge that, and nothing old looks
like it. Then we say so once more, for the other one to know, and sign nothing any more: a person
must stop one of the two.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from peer.effects import Effects
from peer.identity import Identity
from protocols.advert import Advert, SignedAdvert
from protocols.errors import RemoteProtocolError

log = logging.getLogger(__name__)

INSTANCE_BYTES: Final = 8


class Instance:
    """This run under ``identity``'s key. ``on_rival`` is called when the next advert must name
    another one, ``on_duplicate`` once when it is certain that two are alive.
    """

    def __init__(self, identity: Identity, effects: Effects) -> None:
        self.id = effects.token(INSTANCE_BYTES)
        self.rival = b""
        self.is_duplicate = False
        self._identity = identity
        self._on_rival: list[Callable[[], None]] = []
        self._on_duplicate: list[Callable[[], None]] = []

    def on_rival(self, callback: Callable[[], None]) -> None:
        """Call ``callback()`` when an advert of another run was seen; it must not block."""
        self._on_rival.append(callback)

    def on_duplicate(self, callback: Callable[[], None]) -> None:
        """Call ``callback()`` when another run is alive beside this one; it must not block."""
        self._on_duplicate.append(callback)

    def look_at(self, encoded: bytes | None) -> None:
        """Look at the latest advert that somebody holds in our name; ignore what is not ours."""
        try:
            advert = self._of_our_key(encoded) if encoded else None
        except RemoteProtocolError as error:
            log.info("advert in our name ignored", extra={"why": error.message})
            return
        if advert is None or self.is_duplicate or advert.instance in (b"", self.id):
            return
        if advert.rival == self.id:
            self._stop()
        elif advert.instance == self.rival and advert.boot < self._identity.boot:
            return  # it has not seen yet what we say
        self._name(advert)

    def _name(self, advert: Advert) -> None:
        """Say in our next advert whom we saw. It must win over that one's, or nobody passes it
        on.
        """
        self.rival = advert.instance
        if advert.boot >= self._identity.boot:
            self._identity.next_boot(above=advert.boot)
        for callback in self._on_rival:
            callback()

    def _of_our_key(self, encoded: bytes) -> Advert | None:
        signed = SignedAdvert.decode(encoded)
        if signed.advert.peer != self._identity.key.public:
            return None
        signed.verify_author()
        return signed.advert

    def _stop(self) -> None:
        self.is_duplicate = True
        hint = "stop one of the two, and restart the other; a machine needs an identity of its own"
        log.error("another instance of this peer is running", extra={"hint": hint})
        for callback in self._on_duplicate:
            callback()
