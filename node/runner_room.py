"""Whether another runner can start beside those that are there, which idle ones must end for it,
and how much memory it may have.

What a runner takes is estimated from its model before it starts: the files as they are read, the
weights as they are held, room for keys and values, and what torch takes by itself. Together,
runners are never granted more than ``MEMORY_SHARE`` of the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from node.models import InstalledModel
from node.runner.host import (
    cgroup_available_bytes,
    cgroup_memory_bytes,
    memory_available_bytes,
    memory_total_bytes,
)
from node.runner.kinds import kind_named
from node.runner.sandbox.limits import MEMORY_SHARE
from protocols.limits import MAX_KV_CACHE_BYTES, MAX_RUNNERS

PLAIN_BYTES: Final = 64 << 20  # a runner without a tensor library has 20 MB of data
TORCH_BYTES: Final = 384 << 20  # MiniLM's runner has 307 MB of data, of them 87 its weights
THREAD_BYTES: Final = 16 << 20  # the stack of a thread is 8 MiB, its buffers are as much
STORED_BYTES: Final = {"fp32": 4}  # a number; what declares less is stored in 16 bits
HELD_BYTES: Final = {"fp32": 4.0, "bf16": 2.0, "int8": 1.1, "int4": 0.7}  # scales included
COPIED_BYTES: Final = 512 << 20  # the largest block of the benchmarks' suite, and its copy
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """What runners may have together, and what the machine could give now; None where the system
    does not say.
    """

    limit_bytes: int | None = None
    available_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """A runner that is there: what it was expected to take, may take, and takes."""

    need_bytes: int
    granted_bytes: int
    resident_bytes: int
    is_idle: bool
    last_used_at: float


@dataclass(frozen=True, slots=True)
class Room:
    """There is room once the idle holders at these places have ended. ``granted_bytes`` is 0 where
    the memory is not known.
    """

    granted_bytes: int
    ending: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class NoRoom:
    """There is none: as long as others work, or, when it is lasting, even without them."""

    reason: str
    is_lasting: bool
    retry_s: float = 0.0


def machine_memory() -> Memory:
    """Return what there is now of this machine, or of our control group."""
    totals = [n for n in (memory_total_bytes(), cgroup_memory_bytes()) if n is not None]
    free = [n for n in (memory_available_bytes(), cgroup_available_bytes()) if n is not None]
    limit_bytes = int(min(totals) * MEMORY_SHARE) if totals else None
    return Memory(limit_bytes, min(free, default=None))


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many runners there may be, and the memory that they share."""

    most: int = MAX_RUNNERS
    memory: Callable[[], Memory] = machine_memory


CAPACITY: Final = Capacity()


def needed_bytes(model: InstalledModel, precision: str, threads: int) -> int:
    """Return what a runner of this model takes at most, as far as can be told beforehand."""
    kind = kind_named(model.kind)
    if not kind.NEEDS.modules:
        return PLAIN_BYTES
    files = model.manifest.size_bytes
    numbers = files / STORED_BYTES.get(model.manifest.precision, 2)
    weights = int(numbers * HELD_BYTES.get(precision, 4.0))
    # a benchmark of a language model writes as its jobs do
    cache = MAX_KV_CACHE_BYTES if model.manifest.kind == "generate" else 0
    copied = COPIED_BYTES if model.kind == "bench.memory" else 0
    return TORCH_BYTES + files + weights + cache + copied + THREAD_BYTES * threads


def room_for(need: int, holders: Sequence[Holder], capacity: Capacity) -> Room | NoRoom:
    """Return the room for a runner that takes ``need`` bytes: of the idle ones those end that were
    not used for longest, and no more than must.
    """
    memory, most = capacity.memory(), capacity.most
    limit = math.inf if memory.limit_bytes is None else memory.limit_bytes
    if need > limit:
        return NoRoom(f"it takes {need // MIB} MiB, runners have {limit // MIB:.0f} here", True)
    idle = [place for place, holder in enumerate(holders) if holder.is_idle]
    idle.sort(key=lambda place: holders[place].last_used_at)
    for count in range(len(idle) + 1):
        ending = tuple(idle[:count])
        kept = [holder for place, holder in enumerate(holders) if place not in ending]
        if len(kept) < most and need <= _spare(kept, holders, memory):
            return Room(_granted(need, kept, memory, most), ending)
    if need <= _spare([], holders, memory):
        return NoRoom(f"all {len(holders) - len(idle)} runners are working on other models", False)
    free = _spare([], holders, memory) // MIB
    return NoRoom(f"it takes {need // MIB} MiB of memory, and {free:.0f} could be had", True)


def _spare(kept: Sequence[Holder], holders: Sequence[Holder], memory: Memory) -> float:
    """Return what another runner could have beside ``kept``, once the others have ended."""
    within = math.inf if memory.limit_bytes is None else memory.limit_bytes
    within -= sum(each.granted_bytes for each in kept)
    if memory.available_bytes is None:
        return within
    free = memory.available_bytes + sum(each.resident_bytes for each in holders)
    # of what they keep, what they have not taken yet is promised all the same
    free -= sum(max(each.need_bytes, each.resident_bytes) for each in kept)
    return min(within, free)


def _granted(need: int, kept: Sequence[Holder], memory: Memory, most: int) -> int:
    """Return an even share of the memory, or what is left of it, but what it needs at least."""
    if memory.limit_bytes is None:
        return 0
    left = memory.limit_bytes - sum(each.granted_bytes for each in kept)
    return max(need, min(memory.limit_bytes // most, left))
