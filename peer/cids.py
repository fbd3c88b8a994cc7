"""CIDs as people write and mistype them."""

from __future__ import annotations

from typing import Final

from protocols.cid import CID
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.keys import is_peer_id

_FORM: Final = "a CID has 59 small letters and digits and begins with baf, as --json prints it"


class NotACidError(CoveyError):
    """What somebody wrote is no CID of ours; the hint says what it may be instead."""

    default_code = "not-a-cid"


def parse_cid(text: str) -> CID:
    """Return the CID that somebody wrote; raises ``NotACidError``."""
    try:
        return CID.parse(text)
    except RemoteProtocolError as error:
        raise NotACidError(f"{text[:80]!r} is not a CID", hint=_hint(text)) from error


def _hint(text: str) -> str:
    if is_peer_id(text):
        return f"that is the id of a peer; {_FORM}"
    if len(text) == len(str(CID.of(b""))):
        return f"{_FORM}: some letter of this one is wrong"
    return f"{_FORM}; this has {len(text)}"
