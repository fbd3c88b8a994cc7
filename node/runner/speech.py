"""Where somebody speaks, from how likely each frame is speech.

Speech begins with a frame that is at least as likely as the threshold, and ends when no frame was
above a lower one for long enough: a breath between two words ends nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

SLACK: Final = 0.15  # below the threshold a frame may fall while speech goes on
LEAST: Final = 0.01  # where even the lower threshold stays


class Segment(NamedTuple):
    """From one moment of a recording to another, in milliseconds."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Rules:
    """When speech counts: how likely a frame must be, how short speech and silence may be, and how
    much around it belongs to it; milliseconds.
    """

    threshold: float
    min_speech_ms: int
    min_silence_ms: int
    pad_ms: int


def segments(
    probabilities: Iterable[float], frame_ms: int, total_ms: int, rules: Rules
) -> list[Segment]:
    """Return where there is speech in a recording of ``total_ms``, in order, without overlap."""
    heard = [
        each
        for each in _heard(probabilities, frame_ms, total_ms, rules)
        if each.end_ms - each.start_ms > rules.min_speech_ms
    ]
    return list(_padded(heard, total_ms, rules.pad_ms))


def _heard(
    probabilities: Iterable[float], frame_ms: int, total_ms: int, rules: Rules
) -> Iterator[Segment]:
    start: int | None = None
    quiet_from: int | None = None
    lower = max(rules.threshold - SLACK, LEAST)
    for frame, probability in enumerate(probabilities):
        now = frame * frame_ms
        if probability >= rules.threshold:
            start = now if start is None else start
            quiet_from = None
        elif start is not None and probability < lower:
            quiet_from = now if quiet_from is None else quiet_from
            if now - quiet_from >= rules.min_silence_ms:
                yield Segment(start, quiet_from)
                start = quiet_from = None
    if start is not None:
        yield Segment(start, total_ms)


def _padded(heard: list[Segment], total_ms: int, pad_ms: int) -> Iterator[Segment]:
    """Widen each segment, by half of the silence to its neighbour at most."""
    for place, (start, end) in enumerate(heard):
        before = heard[place - 1].end_ms if place else -start
        after = heard[place + 1].start_ms if place + 1 < len(heard) else 2 * total_ms - end
        yield Segment(
            start - min(pad_ms, (start - before) // 2), end + min(pad_ms, (after - end) // 2)
        )
