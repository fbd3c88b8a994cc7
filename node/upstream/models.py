"""The models of an upstream: which of those that it lists this node offers, and under which names.

Nobody can digest weights that lie on another server, so such a model is named by what is known of
it: that a certain peer says that its upstream calls it so. Its CID is that statement's. Two peers'
models are thus never taken for the same, nor for one whose files were pinned, and the precision is
``upstream``, for a server's word about it would be no more than that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from node.upstream.errors import broken
from protocols import dagcbor
from protocols.cid import CID
from protocols.keys import PeerId
from protocols.limits import MAX_UPSTREAM_MODELS

BACKEND: Final = "openai"
PRECISION: Final = "upstream"
GENERATE: Final = "generate"
EMBED: Final = "embed"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,127}")
MAX_ID_CHARS: Final = 512
MAX_OWNER_CHARS: Final = 128


class Listed(msgspec.Struct, frozen=True):
    """A model as an upstream lists it; nothing but its id is sure to be there, or to be true."""

    id: str
    owned_by: str | None = None
    created: int | float | None = None


class _Listing(msgspec.Struct, frozen=True):
    data: list[Listed] | None


@dataclass(frozen=True, slots=True)
class UpstreamModel:
    """A model that an upstream is said to have."""

    name: str
    id: str
    """What the upstream calls it."""
    kind: str
    peer: PeerId
    owned_by: str = ""
    created: int = 0
    """By the upstream's word; many say when they were asked instead, so it is not part of
    ``cid``.
    """
    dimension: int = 0
    precisions: tuple[str, ...] = (PRECISION,)
    backend: str = BACKEND

    @property
    def cid(self) -> CID:
        """The CID of what is known of it."""
        return CID.of(dagcbor.encode(self._known))

    @property
    def tolerances(self) -> dict[str, float]:
        """None: whether two outputs should be alike, nobody can say."""
        return {}

    def used_for(self, kind: str) -> Self:
        """Return this model: an upstream does with it only what it is for."""
        assert kind == self.kind, "who asks has seen that it serves that kind"
        return self

    @property
    def registration(self) -> dict[str, Any]:
        """What its record says of it."""
        return {**self._known, "name": self.name, "created": self.created, "source": "upstream"}

    @property
    def _known(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "digest": None,
            "kind": self.kind,
            "model": self.id,
            "owned_by": self.owned_by,
            "peer": self.peer,
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which models to offer: ``names`` maps the names that jobs use to the upstream's ids, empty
    for all under their own; those in ``embeddings`` are for ``embed``.
    """

    names: dict[str, str]
    embeddings: frozenset[str]

    @classmethod
    def of(cls, models: Iterable[str], embeddings: Iterable[str]) -> Wanted:
        """Return what the options say: ``ID`` or ``NAME=ID`` each."""
        pairs = (each.partition("=") for each in models)
        names = {name.strip(): (id_ if sign else name).strip() for name, sign, id_ in pairs}
        return cls(names, frozenset(embeddings))


def decode_listing(body: bytes) -> list[Listed]:
    """Return what ``GET /models`` lists; raises ``JobFailed``."""
    try:
        listing = msgspec.json.decode(body, type=_Listing)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise broken(f"its list of models is none: {str(error)[:100]}") from None
    return (listing.data or [])[:MAX_UPSTREAM_MODELS]


def choose(
    listed: Sequence[Listed], wanted: Wanted, peer: PeerId
) -> tuple[list[UpstreamModel], dict[str, str]]:
    """Return the models to offer, and for each name that is not why."""
    by_id = {each.id: each for each in listed}
    names = wanted.names or {each.id: each.id for each in listed}
    offered: list[UpstreamModel] = []
    left_out: dict[str, str] = {}
    for name, id_ in names.items():
        if (each := by_id.get(id_)) is None:
            left_out[name] = "the upstream does not list it"
        elif NAME.fullmatch(name) is None or not _is_plain(id_):
            left_out[name] = "its name cannot be used here: give it one, NAME=ID in upstream.models"
        else:
            kind = EMBED if name in wanted.embeddings else GENERATE
            offered.append(_model(name, each, kind, peer))
    unknown = wanted.embeddings - names.keys()
    return offered, left_out | dict.fromkeys(unknown, "is in upstream.embeddings only")


def _model(name: str, listed: Listed, kind: str, peer: PeerId) -> UpstreamModel:
    created = listed.created or 0
    return UpstreamModel(
        name=name,
        id=listed.id,
        kind=kind,
        peer=peer,
        owned_by=_printable(listed.owned_by or "")[:MAX_OWNER_CHARS],
        created=int(created) if 0 <= created < 1 << 53 else 0,
    )


def _is_plain(id_: str) -> bool:
    return 0 < len(id_) <= MAX_ID_CHARS and id_.isprintable()


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())
