"""How long to wait for an upstream."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """The longest waits for an answer's first byte, and between two pieces of it."""

    first_byte_s: float
    silence_s: float
