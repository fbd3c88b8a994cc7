"""CIDs as people write and mistype them."""

from __future__ import annotations

from typing import Final

from protocols.cid import CID, AnyCID, is_strict, parse_any
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.keys import is_peer_id

_FORM: Final = "a CID has 59 small letters and digits and begins with baf, as --json prints it"


class NotACidError(CoveyError):
    """What somebody wrote is no CID of ours; the hint says what it is or may be instead."""

    default_code = "not-a-cid"


def parse_cid(text: str) -> CID:
    """Return the CID that somebody wrote; raises ``NotACidError``."""
    try:
        return CID.parse(text)
    except RemoteProtocolError as error:
        foreign = parse_any(text)
        if foreign is not None:
            message = f"nothing here has the name {text[:80]}"
            raise NotACidError(message, hint=_foreign(foreign)) from error
        raise NotACidError(f"{text[:80]!r} is not a CID", hint=_hint(text)) from error


def _foreign(cid: AnyCID) -> str:
    if is_strict(cid):
        return f"the same CID is written as {CID(cid)} here"
    return "it is a CID of another kind: covey names raw and dag-cbor content by its sha2-256"


def _hint(text: str) -> str:
    if is_peer_id(text):
        return f"that is the id of a peer; {_FORM}"
    if len(text) == len(str(CID.of(b""))):
        return f"{_FORM}: some letter of this one is wrong"
    return f"{_FORM}; this has {len(text)}"
