"""Questions about who came from whom as programs put them, and the answers' JSON form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple
from zlib import crc32

from aggregator.ancestry import Cursor, Node, Page, Question, Reach
from aggregator.makers import Maker
from peer.cids import parse_cid
from protocols.cid import CID
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.keys import PeerId, peer_id_of, public_key_of

UP: Final = "ancestors"
DOWN: Final = "descendants"
OUTPUTS: Final = "outputs"
DIRECTIONS: Final = (UP, DOWN, OUTPUTS)

MAX_LINKS: Final = 1_000_000  # as far as anything goes: circles and chains end by themselves
MAX_PAGE: Final = 10_000  # nodes: 2 MB of JSON
PAGE: Final = 100
MAX_PATH_LINKS: Final = 256
PATH_LINKS: Final = 64
MAX_PATHS: Final = 1_000
PATHS: Final = 10

_RECORD: Final = "record"
_WHAT: Final = (_RECORD, "missing", "entity", "entity", "entity", "entity")
"""By rank (``dag.labels``)."""
_USED: Final = 4
"""The rank of what was only used; not imported, for numpy takes 20 MB."""


class Asked(NamedTuple):
    """A question, as it was written, and which page of the answer."""

    start: str
    direction: str
    question: Question
    limit: int
    cursor: Cursor | None

    @classmethod
    def parse(cls, start: str, direction: str, depth: int, limit: int, page: str) -> Asked:
        """Read a question; raises ``CoveyError`` for what is none. A peer has descendants and
        outputs only.
        """
        reach = Reach(direction == UP, depth, direction == OUTPUTS)
        author = None if direction == UP else _author(start)
        if author is None:
            question = Question(bytes(parse_cid(start)), reach)
        else:
            question = Question(author, reach, is_author=True)
        return cls(start, direction, question, limit, _cursor(page, question))

    @property
    def is_up(self) -> bool:
        """Whether it is asked what something came from."""
        return self.direction == UP


Told = Mapping[bytes, dict[str, Any]]
"""Why records were redacted of which nothing else is left."""


def page_of(asked: Asked, page: Page, redacted: Told, makers: Iterable[Maker]) -> dict[str, Any]:
    """Return the JSON form of a page; ``next`` is what to ask for the page after it. ``makers``
    made some of it and are redacted, so that no link leads on to them.
    """
    return {
        "cid": asked.start,
        "direction": asked.direction,
        "redacted": redacted.get(asked.question.start),
        "nodes": [_node(node, redacted) for node in page.nodes],
        "makers": [maker.told for maker in makers],
        "next": page.cursor and _text(page.cursor, asked.question),
        "is_cut": page.is_cut,
    }


def paths_of(
    ends: tuple[bytes, bytes],
    found: tuple[list[list[Node]], bool],
    redacted: Told,
    makers: Sequence[Maker],
) -> dict[str, Any]:
    """Return the JSON form of ways, and whether there may be more; ``makers`` are where the ways up
    end because they are redacted.
    """
    start, origin = ends
    paths, is_cut = found
    return {
        "cid": str(CID(start)),
        "to": str(CID(origin)),
        "paths": [[_node(node, redacted) for node in path] for path in paths]
        or [_to_maker(maker) for maker in makers if (maker.entity, maker.cid) == ends],
        "makers": [maker.told for maker in makers if maker.cid != origin],
        "is_cut": is_cut,
    }


def unmade(nodes: Iterable[Node]) -> set[bytes]:
    """Return which nodes are things that were used and that no record here made."""
    return {node.cid for node in nodes if node.label.rank == _USED}


def _to_maker(maker: Maker) -> list[dict[str, Any]]:
    """Return the way from what a redacted record made up to it."""
    nodes = {"redacted": None, "name": "", "peer": None}
    made = {**nodes, "cid": maker.told["of"], "depth": 0, "what": "entity"}
    told = {key: maker.told[key] for key in ("cid", "redacted", "peer")}
    return [made, {**nodes, **told, "depth": 1, "what": "redacted"}]


def bodiless(nodes: Iterable[Node]) -> set[bytes]:
    """Return which nodes are no records that are here."""
    return {node.cid for node in nodes if _WHAT[node.label.rank] != _RECORD}


def _author(text: str) -> bytes | None:
    """Return the key of a peer's id; none for what is no peer's id."""
    try:
        return public_key_of(PeerId(text))
    except RemoteProtocolError:
        return None


def _node(node: Node, redacted: Told) -> dict[str, Any]:
    why = redacted.get(node.cid)
    return {
        "cid": str(CID(node.cid)),
        "depth": node.depth,
        "what": "redacted" if why else _WHAT[node.label.rank],
        "redacted": why,
        "name": node.label.name,
        "peer": peer_id_of(node.label.author) if node.label.author else None,
    }


def _text(cursor: Cursor, question: Question) -> str:
    return f"{_digest(question):08x}-{cursor.layout:08x}-{cursor.position}"


def _cursor(text: str, question: Question) -> Cursor | None:
    if not text:
        return None
    asked, _, rest = text.partition("-")
    layout, _, position = rest.partition("-")
    try:
        if int(asked, 16) == _digest(question) and position.isdecimal():
            return Cursor(int(layout, 16), int(position))
    except ValueError:
        pass
    raise CoveyError(
        f"{text[:80]!r} is no page of this answer",
        code="bad-page",
        hint="pass on what `next` of the page before says, with the same question",
    )


def _digest(question: Question) -> int:
    return crc32(repr(question).encode())
