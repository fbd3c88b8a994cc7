"""Records in the words of W3C PROV, as PROV-JSON: one document from the parts of an excerpt.

=====================  =====================================================================
of a record            in PROV
=====================  =====================================================================
the record             an activity ``record:CID``, with its start and end
a block (no nonce) of  an entity ``cid:CID`` with the block's attributes, attributed to its
plain content          author: an environment or a machine is a thing and not an event
used, generated        ``used`` and ``wasGeneratedBy``, with the role; the entity ``cid:CID``
environment, hardware  ``used`` in that role
informed_by            ``wasInformedBy``
the author             an agent ``peer:ID``; the activity ``wasAssociatedWith`` it
what was redacted      the entity ``cid:CID``, ``wasInvalidatedBy`` its tombstone's activity; its
                       ``covey:status`` is ``redacted``, as that of ``record:CID`` if a record here
                       was informed by it
the attributes         ``attribute:NAME`` where they are plain values and their names are
                       names; all others in one ``covey:attributes``, as JSON
=====================  =====================================================================

Names are stable, so documents of several exports unify into one graph. Times are formatted by an
argument, for no clock or calendar is known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, cast

from protocols.cid import CID
from protocols.excerpt import Part
from protocols.keys import peer_id_of
from protocols.record import Record, is_block
from protocols.tombstone import TOMBSTONE_KIND, Redaction

PREFIXES: Final = {
    "covey": "urn:covey:",
    "record": "urn:covey:record:",
    "cid": "ipfs://",
    "peer": "urn:covey:peer:",
    "attribute": "urn:covey:attribute:",
}
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", re.ASCII)
_MAX_NUMBER: Final = 1 << 53  # a larger one is another one in many readers of JSON

_AGENT: Final = {"prov:type": {"$": "prov:SoftwareAgent", "type": "prov:QUALIFIED_NAME"}}

Moment = Callable[[int], str | None]
"""Formats microseconds since 1970 as xsd:dateTime, or returns none for what no calendar holds."""

Fields = dict[str, Any]


class Gone(NamedTuple):
    """A record of which nothing is left but why, and who signed headers that name it, as far as
    that is known.
    """

    cid: CID
    redaction: Redaction
    signers: tuple[bytes, ...]


def document(
    parts: Iterable[Part],
    moment: Moment,
    redacted: Callable[[], Iterable[Gone]] = tuple,
) -> Fields:
    """Return the PROV-JSON of all records of ``parts``, each once; ``redacted`` is asked, once they
    were read, for those of which nothing is left but why.
    """
    maker = _Document(moment)
    for part in parts:
        for encoded in part.records:
            maker.add(encoded, part)
    for gone in redacted():
        maker.redact(gone)
    return maker.finished()


def plain(value: Any) -> Any:
    """Return a DAG-CBOR value as JSON: CIDs as text, bytes as hexadecimal."""
    match value:
        case CID():
            return str(value)
        case bytes():
            return value.hex()
        case dict():
            return {key: plain(inner) for key, inner in cast("dict[str, Any]", value).items()}
        case list():
            return [plain(inner) for inner in cast("list[Any]", value)]
        case _:
            return value


class _Document:
    def __init__(self, moment: Moment) -> None:
        self._moment = moment
        self._seen: set[CID] = set()
        self._informants: set[str] = set()
        self._things: dict[str, dict[str, Fields]] = {"entity": {}, "activity": {}, "agent": {}}
        self._relations: dict[str, dict[str, Fields]] = {}

    def add(self, encoded: bytes, part: Part) -> None:
        cid = CID.of(encoded)
        if cid in self._seen:
            return
        self._seen.add(cid)
        record = Record.decode_verified(encoded)
        agent = f"peer:{peer_id_of(record.author)}"
        self._things["agent"].setdefault(agent, dict(_AGENT))
        told = {"covey:bundle": str(part.proof.cid), **_attributes(record)}
        if is_block(encoded) and not (record.used or record.generated or record.informed_by):
            self._thing(cid).update(told)
            self._relate("wasAttributedTo", {"entity": _entity(cid), "agent": agent})
        else:
            self._add_activity(cid, record, agent, told)

    def _add_activity(self, cid: CID, record: Record, agent: str, told: Fields) -> None:
        activity = f"record:{cid}"
        self._things["activity"][activity] = {**self._times(record), **told}
        self._relate("wasAssociatedWith", {"activity": activity, "agent": agent})
        blocks = ((record.environment, "environment"), (record.hardware, "hardware"))
        used = [*record.used, *((target, role) for target, role in blocks if target)]
        for relation, links in (("used", used), ("wasGeneratedBy", record.generated)):
            for target, role in links:
                self._thing(target)
                link = {"activity": activity, "entity": _entity(target), "role": role}
                self._relate(relation, link)
        for parent in record.informed_by:
            link = {"informed": activity, "informant": f"record:{parent}"}
            self._informants.add(link["informant"])
            self._relate("wasInformedBy", link)

    def redact(self, gone: Gone) -> None:
        """Say that a record's content is gone, by which tombstone."""
        cid, redaction = gone.cid, gone.redaction
        tombstone, at = f"record:{redaction.tombstone}", self._moment(redaction.at_us)
        agent = f"peer:{peer_id_of(redaction.by)}"
        told = {"covey:status": "redacted", "covey:reason": redaction.reason}
        told |= {"covey:redacted_by": agent, "covey:tombstone": tombstone}
        self._thing(cid).update(told)
        if f"record:{cid}" in self._informants:
            self._things["activity"].setdefault(f"record:{cid}", {}).update(told)
            self._sign(f"record:{cid}", gone.signers)
        if redaction.tombstone not in self._seen:
            self._seen.add(redaction.tombstone)
            self._things["agent"].setdefault(agent, dict(_AGENT))
            times = {"prov:startTime": at, "prov:endTime": at} if at else {}
            self._things["activity"][tombstone] = {**times, "prov:type": TOMBSTONE_KIND}
            self._relate("wasAssociatedWith", {"activity": tombstone, "agent": agent})
        link = {"entity": _entity(cid), "activity": tombstone}
        self._relate("wasInvalidatedBy", {**link, "time": at} if at else link)

    def _sign(self, activity: str, signers: Iterable[bytes]) -> None:
        """Say who signed a header that names a record: that it made it, nothing shows."""
        for signer in signers:
            agent = f"peer:{peer_id_of(signer)}"
            self._things["agent"].setdefault(agent, dict(_AGENT))
            link = {"activity": activity, "agent": agent, "role": "signer"}
            self._relate("wasAssociatedWith", link)

    def _thing(self, cid: CID) -> Fields:
        return self._things["entity"].setdefault(_entity(cid), {})

    def _times(self, record: Record) -> Fields:
        """Return start and end of what has a time; an author's clock may have said anything."""
        if not record.start_us:
            return {}
        ends_us = record.start_us + record.duration_us
        times = {"startTime": self._moment(record.start_us), "endTime": self._moment(ends_us)}
        return {f"prov:{name}": time for name, time in times.items() if time}

    def _relate(self, relation: str, fields: dict[str, str]) -> None:
        relations = self._relations.setdefault(relation, {})
        named = {f"prov:{name}": value for name, value in fields.items()}
        relations[f"_:{relation}{len(relations) + 1}"] = named

    def finished(self) -> Fields:
        things = {kind: found for kind, found in self._things.items() if found}
        return {"prefix": dict(PREFIXES), **things, **self._relations}


def _entity(cid: CID) -> str:
    return f"cid:{cid}"


def _attributes(record: Record) -> Fields:
    told: Fields = {"prov:type": record.kind, "covey:status": record.status}
    others: Fields = {}
    for name, value in record.attributes.items():
        if _NAME.fullmatch(name) and _is_plain(value):
            told[f"attribute:{name}"] = plain(value)
        else:
            others[name] = plain(value)
    if others:
        told["covey:attributes"] = json.dumps(others, sort_keys=True)
    return told


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < _MAX_NUMBER
    return isinstance(value, (str, float, bytes))
