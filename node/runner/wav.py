"""Sound out of WAV files: what is exactly one 16-bit recording is read, everything else refused.

Nothing is copied until a block of samples is asked for, and no size in a file is believed before it
was compared with what is there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from node.runner.kinds import BadInputError, bad_item

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATES: Final = (8_000, 16_000)
CHANNELS: Final = (1, 2)
PCM: Final = 1
EXTENSIBLE: Final = 0xFFFE  # the real format stands at the beginning of the sub-format
PCM_SUBFORMAT: Final = b"\x01\x00\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"
MAX_CHUNKS: Final = 64  # a recording has a handful before its samples
SAMPLE_BYTES: Final = 2
SCALE: Final = 1 / 32_768
TAPS: Final = 16  # on each side of a sample that is put between two; 8 kHz is speech, not music


@dataclass(frozen=True, slots=True)
class Recording:
    """The samples of one file, as they lie in it."""

    samples: memoryview
    rate: int
    channels: int

    @property
    def length(self) -> int:
        """How many samples there are at 16 kHz."""
        return len(self.samples) // (SAMPLE_BYTES * self.channels) * (RATES[-1] // self.rate)

    def block(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return the samples from ``start`` to ``stop`` (both even) at 16 kHz, of both channels
        together, from -1 to 1; what lies outside the recording is silence.
        """
        if self.rate == RATES[-1]:
            return self._stored(start, stop)
        return _doubled(self._stored(start // 2 - TAPS, stop // 2 + TAPS))

    def _stored(self, start: int, stop: int) -> NDArray[np.float32]:
        import numpy as np

        stored = np.frombuffer(self.samples, dtype="<i2").reshape(-1, self.channels)
        first, last = max(0, start), min(len(stored), stop)
        block = np.zeros(stop - start, dtype=np.float32)
        if first < last:
            mixed = stored[first:last].mean(axis=1, dtype=np.float32)
            block[first - start : last - start] = mixed * np.float32(SCALE)
        return block


def read_wav(content: bytes, index: int) -> Recording:
    """Return the recording in item ``index``; raises ``BadInputError``, which names it."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        raise _no_sound(index, "is no WAV file")
    layout: tuple[int, int] | None = None
    place = 12
    for _ in range(MAX_CHUNKS):
        name, body = _chunk(content, place, index)
        if name == b"fmt ":
            layout = _layout(body, index)
        elif name == b"data":
            return _recording(body, layout, index)
        place += 8 + len(body) + len(body) % 2
    raise _no_sound(index, f"has no samples in its first {MAX_CHUNKS} parts")


def _chunk(content: bytes, place: int, index: int) -> tuple[bytes, memoryview]:
    if place + 8 > len(content):
        raise _no_sound(index, "ends before its samples")
    name, size = struct.unpack_from("<4sI", content, place)
    if place + 8 + size > len(content):
        there = len(content) - place - 8
        raise _no_sound(index, f"is cut off: a part of {size} bytes has {there}")
    return name, memoryview(content)[place + 8 : place + 8 + size]


def _layout(body: memoryview, index: int) -> tuple[int, int]:
    if len(body) < 16:
        raise _no_sound(index, "does not say how its samples are stored")
    form, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if form == EXTENSIBLE and bytes(body[24:40]) == PCM_SUBFORMAT:
        form = PCM
    if form != PCM or bits != 8 * SAMPLE_BYTES:
        raise _no_sound(index, f"holds {bits}-bit samples of format {form}, not 16-bit PCM")
    if rate not in RATES or channels not in CHANNELS:
        raise _no_sound(index, f"has {channels} channels at {rate} Hz, not 1 or 2 at 8 or 16 kHz")
    return rate, channels


def _recording(body: memoryview, layout: tuple[int, int] | None, index: int) -> Recording:
    if layout is None:
        raise _no_sound(index, "does not say how its samples are stored")
    rate, channels = layout
    if not body or len(body) % (SAMPLE_BYTES * channels):
        raise _no_sound(index, f"has {len(body)} bytes of samples, which is no recording")
    return Recording(body, rate, channels)


def _no_sound(index: int, what: str) -> BadInputError:
    hint = "convert it: ffmpeg -i FILE -ac 1 -ar 16000 -c:a pcm_s16le FILE.wav"
    return bad_item(index, f" {what}", hint=hint)


def _doubled(stored: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return twice as many samples a second of what lies ``TAPS`` inside ``stored``: between every
    two samples one is put by a windowed sinc.
    """
    import numpy as np

    distances = np.arange(-TAPS, TAPS) + 0.5
    window = np.cos(np.pi * distances / (2 * TAPS)) ** 2
    weights = (np.sinc(distances) * window).astype(np.float32)
    runs = np.lib.stride_tricks.sliding_window_view(stored, 2 * TAPS)
    between = runs @ (weights / weights.sum())
    doubled = np.empty(2 * (len(stored) - 2 * TAPS), dtype=np.float32)
    doubled[0::2] = stored[TAPS:-TAPS]
    doubled[1::2] = between[1:]
    return doubled
