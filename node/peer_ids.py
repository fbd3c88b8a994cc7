"""The ids of peers that users type."""

from __future__ import annotations

from node.errors import InputError
from protocols.errors import RemoteProtocolError
from protocols.keys import PeerId, public_key_of


def parse_peer_id(text: str) -> PeerId:
    """Return a peer id that could be somebody's; raises ``InputError``."""
    try:
        public_key_of(text)
    except RemoteProtocolError as error:
        raise InputError(
            f"{text[:64]!r} is not a peer id", hint="`covey peers` shows those that are there"
        ) from error
    return text
