"""The execution profile of a run: the facts about how it was computed that its output depends on.

Two outputs of one input can be held against each other only where these are the same. A tolerance
above 0 is declared to hold across engines and machines, so that nobody escapes a comparison by
naming another engine; texts and other outputs that must be equal depend on all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from node.needs import AUTO

Profile = Mapping[str, int | float | str | bool]

MODEL: Final = "model"
PRECISION: Final = "precision"
ROWS: Final = "rows"
DEVICE: Final = "device"

ALWAYS: Final = (MODEL, PRECISION)
EXACTLY: Final = (*ALWAYS, "engine", "dtype", "kernels", ROWS, DEVICE, "cpu", "threads")
"""``cpu`` is the instruction set, ``threads`` how a sum is split: both decide how it is rounded."""
DEPENDENT_ROWS: Final = "vary with the batch"
CPU: Final = "cpu"


def profile_of(execution: Mapping[str, Any], model: str, asked: str) -> Profile:
    """Return the profile of a run: of the worker's facts those that count, the precision that was
    ``asked`` for instead of what it says unless any would do, and the model's CID, or nothing for
    one that is not known.
    """
    facts = {name: execution[name] for name in EXACTLY if name in execution}
    facts.pop(MODEL, None)
    if asked != AUTO:
        facts[PRECISION] = asked
    return {**facts, MODEL: model} if model else facts


def unlike(one: Profile, other: Profile, tolerance: float) -> tuple[str, ...]:
    """Return the facts because of which two outputs need not agree within ``tolerance``; none when
    they must.
    """
    names = ALWAYS if tolerance > 0 else EXACTLY
    differing = {name for name in names if one.get(name) != other.get(name)}
    differing |= {name for name in ALWAYS if name not in one}  # unknown on both sides is not equal
    if tolerance <= 0:
        differing |= {name for name in (ROWS, DEVICE) if _is_own_way(one, name)}
    return tuple(name for name in names if name in differing)


def _is_own_way(profile: Profile, name: str) -> bool:
    """Whether even two runs with this fact may round differently: with what else was in the batch,
    and on accelerators, whose make the facts do not tell.
    """
    fact = profile.get(name)
    return fact == DEPENDENT_ROWS if name == ROWS else fact not in (None, CPU)
