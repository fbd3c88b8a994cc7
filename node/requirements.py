"""What a job demands of a machine, checked twice by one rule: at placement against adverts, and by
the worker about itself.

The capabilities are those of ``node.hardware.capabilities``, as an advert states them. On the wire
requirements are a map, ``Offer.requirements``; a worker refuses what it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from node.errors import InputError
from protocols.job import Fact
from protocols.job_checks import CODE
from protocols.limits import MAX_CODE_CHARS

CPU: Final = "cpu"
SPEED: Final = "matmul_gflops"
ROUNDED_MB: Final = 50  # adverts state memory in tenths of a gigabyte


class Requirements(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a job demands; None demands nothing."""

    device: str | None = None
    """``cpu``, or the backend of an accelerator: ``cuda``, ``xpu``, ``mps``."""
    min_memory_mb: int | None = None
    """Of the machine, or of one such accelerator."""
    min_speed: float | None = None
    """In GFLOP/s of a matrix multiplication in fp32, as measured: of the fastest that is there, or
    of ``device``.
    """

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.facts().items())

    def facts(self) -> dict[str, Fact]:
        """Return the map that an offer carries."""
        return cast("dict[str, Fact]", msgspec.to_builtins(self))

    def check(self) -> None:
        """Raise ``InputError`` for requirements that can't be."""
        device = self.device
        if device is not None and (len(device) > MAX_CODE_CHARS or not CODE.fullmatch(device)):
            raise InputError(f"{device[:40]!r} is no device")
        for name, least in (("memory", self.min_memory_mb), ("speed", self.min_speed)):
            if least is not None and not 0 < least < 1e12:
                raise InputError(f"the least {name} is a number above 0, not {least}")


NOTHING: Final = Requirements()


def unmet(requirements: Mapping[str, Fact], capabilities: Mapping[str, Any]) -> str | None:
    """Say which requirement of an offer these capabilities do not meet; None if they meet all."""
    if not requirements:
        return None
    unknown = sorted(set(requirements) - set(Requirements.__struct_fields__))
    if unknown:
        return f"this worker does not know about: {', '.join(unknown)}"
    try:
        wanted = msgspec.convert(dict(requirements), Requirements)
    except msgspec.ValidationError as error:
        return f"the requirements are not understood: {error}"
    return why_unmet(wanted, capabilities)


def why_unmet(wanted: Requirements, capabilities: Mapping[str, Any]) -> str | None:
    """Say which requirement these capabilities do not meet; None if they meet all."""
    sizes_gb = _memories_gb(wanted.device, capabilities)
    if not sizes_gb:
        return f"has no {wanted.device}"
    largest_mb = max(sizes_gb) * 1_000
    if wanted.min_memory_mb is not None and largest_mb + ROUNDED_MB < wanted.min_memory_mb:
        return f"has {largest_mb:.0f} MB of memory, not {wanted.min_memory_mb}"
    speed = _speed(wanted.device, capabilities)
    if wanted.min_speed is not None and speed < wanted.min_speed:
        return f"computes {speed:g} GFLOP/s, not {wanted.min_speed:g}"
    return None


def accelerator(capabilities: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what an advert says of the accelerator that runners compute on: the one whose speed it
    states; None if there is none.
    """
    return next((each for each in accelerators(capabilities) if number(each.get(SPEED))), None)


def _speed(device: str | None, capabilities: Mapping[str, Any]) -> float:
    own, other = number(capabilities.get(SPEED)), accelerator(capabilities)
    if other is None or device == CPU:
        return own if device in (None, CPU) else 0.0
    return max(own, number(other.get(SPEED)))


def number(stated: object) -> float:
    """Return a number that an advert states; 0 for what is none."""
    is_number = isinstance(stated, (int, float)) and 0 < stated < 1e9
    return float(cast("float", stated)) if is_number else 0.0


def _memories_gb(device: str | None, capabilities: Mapping[str, Any]) -> list[float]:
    """The memory of each device that would do; none if there is no such device."""
    if device in (None, CPU):
        return [number(capabilities.get("memory_gb"))]
    known = accelerators(capabilities)
    return [number(each.get("memory_gb")) for each in known if each.get("backend") == device]


def accelerators(capabilities: Mapping[str, Any]) -> list[dict[str, object]]:
    """Return what an advert states of accelerators, as far as it can be understood."""
    found = cast("object", capabilities.get("accelerators"))
    if not isinstance(found, (list, tuple)):
        return []
    stated = cast("list[object]", found)
    return [cast("dict[str, object]", each) for each in stated if isinstance(each, dict)]
