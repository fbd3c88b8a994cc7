"""What only a running daemon knows of the mesh around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What only a running daemon knows; a command that opened the files itself has none of it."""

    is_running: bool = False
    addresses: list[str] = field(default_factory=list[str])
    connected: list[str] = field(default_factory=list[str])
    filers: list[str] = field(default_factory=list[str])
    aggregators: list[str] = field(default_factory=list[str])
    asked: list[str] = field(default_factory=list[str])
    """Who of those that are up has sent all that lacks here; see ``Exchange.answered``."""
    asked_at: int = 0
    """How many bundles had turned out to be damaged when this was gathered."""
    exchange: dict[str, Any] = field(default_factory=dict[str, Any])
    """What is sought by name, and who is slowed; see ``Seeking.status``."""
