from __future__ import annotations

import pytest

from peer import segments


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments that a few dozen records fill."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 20_000)
