"""What aggregators and people decide about groups, as attributes of records, so that a rebuild of
the index keeps it: ``group.decision``, ``issue.intent`` and ``issue.filed``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, cast

import msgspec
from msgspec import Meta

from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.report import Digest, Moment, Name

DECISION_KIND: Final = "group.decision"
INTENT_KIND: Final = "issue.intent"
FILED_KIND: Final = "issue.filed"

GroupId = Annotated[str, Meta(pattern="^[0-9a-f]{12}$")]
TrackerName = Annotated[str, Meta(max_length=300)]
"""Which tracker, so that a number is never taken for one of another repository."""
Where = Annotated[str, Meta(max_length=500)]


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person, or a tracker in a person's name, decided about a group.

    ``merge`` moves all of ``group`` to ``into``; ``split`` takes ``fingerprints`` out of ``group``,
    each to a group of its own; ``resolve`` closes it as fixed, until a release newer than all of
    ``releases`` has it again; ``ignore`` closes it for good; ``reopen`` takes either back.
    """

    action: Literal["merge", "split", "resolve", "ignore", "reopen"]
    group: GroupId
    into: Annotated[str, Meta(pattern="^([0-9a-f]{12})?$")] = ""
    fingerprints: Annotated[tuple[Digest, ...], Meta(max_length=100)] = ()
    releases: Annotated[tuple[Name, ...], Meta(max_length=100)] = ()
    revision: Annotated[int, Meta(ge=1, le=1 << 53)]
    """One above the highest that its maker had seen: clocks may be wrong, this order is not."""
    time_us: Moment
    source: Annotated[str, Meta(max_length=500)] = ""
    """The closing of an issue from which it was read, if it was: ``trackers.Seen.closing``."""


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """The filer is about to create an issue: from now on, look for it before creating one."""

    group: GroupId
    tracker: TrackerName
    time_us: Moment


class Filed(msgspec.Struct, frozen=True, kw_only=True):
    """The group has this issue."""

    group: GroupId
    tracker: TrackerName
    number: Annotated[int, Meta(ge=1, le=1 << 53)]
    where: Where
    """For people: a URL, or a file's name within the aggregator's home."""
    time_us: Moment


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision and the record that holds it."""

    decision: Decision
    cid: CID


Statement = Decision | Intent | Filed
_KINDS: Final[dict[str, type[Statement]]] = {
    DECISION_KIND: Decision,
    INTENT_KIND: Intent,
    FILED_KIND: Filed,
}


def kind_of(statement: Statement) -> str:
    """Return the kind of record that holds the statement."""
    return next(kind for kind, type_ in _KINDS.items() if type_ is type(statement))


def to_attributes(statement: Statement) -> dict[str, Any]:
    """Return the statement as a record's attributes."""
    return cast("dict[str, Any]", msgspec.to_builtins(statement))


def from_attributes(kind: str, attributes: Mapping[str, Any]) -> Statement:
    """Return the statement that a record of ``kind`` holds; raises ``RemoteProtocolError``."""
    try:
        return msgspec.convert(dict(attributes), type=_KINDS[kind])
    except (KeyError, msgspec.ValidationError) as error:
        raise RemoteProtocolError(f"a record of kind {kind} is invalid: {error}") from error


def in_order(decided: Iterable[Decided]) -> list[Decided]:
    """Return the decisions in the one order in which every aggregator applies them."""
    return sorted(decided, key=lambda each: (each.decision.revision, each.cid))


def next_revision(decided: Iterable[Decided]) -> int:
    """Return the revision of a decision made now, knowing these."""
    return 1 + max((each.decision.revision for each in decided), default=0)
