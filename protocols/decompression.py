"""Expands zstd frames whose size was read before, one after another without making each its own
decompressor: that costs more than a small bundle does.
"""

from __future__ import annotations

from threading import local
from typing import Final

import zstandard

_MAX_WINDOW_BYTES: Final = 1 << 20  # a frame header may ask for gigabytes; a bundle is 256 KiB


class _OfThread(local):
    """A decompressor serves one thread at a time."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)


_OF_THREAD: Final = _OfThread()


def decompressed(frame: bytes) -> bytes:
    """Return what one frame holds, of as many bytes as it says; raises ``zstandard.ZstdError``."""
    return _OF_THREAD.decompressor.decompress(frame, allow_extra_data=False)
