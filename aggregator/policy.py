"""When a group becomes an issue: a pure function of group, mesh, time and configuration.

People turn off a bot that files too much, too early or twice. Hence enough reports, from more than
one peer where there are more, old enough that related faults have shown themselves, and caps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from aggregator.config import Filing
from aggregator.groups import Group

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
SMALL_MESH_PEERS: Final = 10  # with so few, often only one peer runs a given model at all

Action = Literal["file", "wait", "never"]
CAPS: Final = frozenset({"hourly-cap", "daily-cap"})


@dataclass(frozen=True, slots=True)
class Mesh:
    """What matters about the mesh: who may speak in it, and how many do."""

    is_closed: bool
    peers: int


@dataclass(frozen=True, slots=True)
class Context:
    """What the policy looks at besides the group."""

    mesh: Mesh
    now_us: int
    known_since_us: int
    """When this aggregator first saw the group: a peer's clock alone could postpone for ever."""
    created_us: tuple[int, ...] = ()
    """When the issues of the last day were created."""
    tracker: str = ""
    """Where it would be filed; other trackers do not matter."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """File it now, wait (until when, if time alone can change it), or never; with a reason code."""

    action: Action
    reason: str = ""
    until_us: int | None = None


def policy(group: Group, context: Context, config: Filing) -> Verdict:
    """Say whether to file the group. Reasons in order: what forbids it, what lacks, the caps."""
    if group.filed_in(context.tracker):
        return Verdict("never", "filed")
    if group.status in ("ignored", "resolved"):
        return Verdict("never", group.status)
    if group.count < config.min_reports:
        return Verdict("wait", "reports")
    if len(group.peers) < _peers_needed(context.mesh, config):
        return Verdict("wait", "peers")
    old_enough_us = min(group.first_seen_us, context.known_since_us) + int(config.age_s * 1e6)
    if context.now_us < old_enough_us:
        return Verdict("wait", "age", old_enough_us)
    return _capped(context, config)


def _peers_needed(mesh: Mesh, config: Filing) -> int:
    """A person let in each member of a closed mesh; in a small one a single voice is enough."""
    return 1 if mesh.is_closed and mesh.peers <= SMALL_MESH_PEERS else config.min_peers


def _capped(context: Context, config: Filing) -> Verdict:
    for reason, window_us, cap in (
        ("hourly-cap", HOUR_US, config.per_hour),
        ("daily-cap", DAY_US, config.per_day),
    ):
        start_us = context.now_us - window_us
        recent = sorted(time_us for time_us in context.created_us if time_us > start_us)
        if len(recent) >= cap:
            return Verdict("wait", reason, recent[-cap] + window_us if cap else None)
    return Verdict("file")
