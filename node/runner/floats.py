"""Numbers in outputs: little-endian float32, one after the other. Without numpy, which takes 0.1 s
to import and which a daemon can do without.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from typing import Final

CHECKED_BYTES: Final = 64 << 10


def finite_floats(content: bytes) -> Iterator[tuple[float, ...]]:
    """Yield the numbers in ``content``, some thousand at a time; raises ``ValueError`` for what is
    not finite, or is no number.
    """
    for start in range(0, len(content), CHECKED_BYTES):
        part = memoryview(content)[start : start + CHECKED_BYTES]
        if len(part) % 4:
            raise ValueError("a number is cut off")
        floats = struct.unpack(f"<{len(part) // 4}f", part)
        # so few float32 cannot overflow a float: their sum is finite if and only if all are
        if not math.isfinite(sum(floats)):
            raise ValueError("numbers that are not finite")
        yield floats
