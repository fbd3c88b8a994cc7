"""What is known of a model that this node offers, whatever computes it."""

from __future__ import annotations

from typing import Any, Protocol, Self

from protocols.cid import CID


class OfferedModel(Protocol):
    """A model with a name of its own at this node."""

    @property
    def name(self) -> str:
        """How jobs ask for it."""
        ...

    @property
    def cid(self) -> CID:
        """What it is, exactly as far as anybody can tell."""
        ...

    @property
    def kind(self) -> str:
        """The kind of its jobs."""
        ...

    @property
    def precisions(self) -> tuple[str, ...]:
        """In which it can compute, its declared one first."""
        ...

    @property
    def dimension(self) -> int:
        """Length of an embedding; 0 for kinds that have none."""
        ...

    @property
    def tolerances(self) -> dict[str, float]:
        """By precision, how far two outputs of one input may be apart, as it declares."""
        ...

    @property
    def backend(self) -> str:
        """Whose word it is what computes: ``openai``; empty where files are pinned by ``cid``."""
        ...

    def used_for(self, kind: str) -> Self:
        """Return this model as jobs of ``kind`` use it, which it serves."""
        ...

    @property
    def registration(self) -> dict[str, Any]:
        """What its record says of it."""
        ...
