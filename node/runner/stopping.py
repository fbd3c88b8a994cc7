"""Where a continuation ends by its text: at the first of some words that must not appear in it."""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Lets text through up to the first stop text, and holds back what may be the beginning of
    one.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_over = False
        """Whether a stop text came: nothing passes any more."""

    def add(self, text: str) -> str:
        """Take in the next text; return what may be shown."""
        if self.is_over:
            return ""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.is_over = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def end(self) -> str:
        """Nothing more comes: return what was held back."""
        shown, self._held = self._held, ""
        return shown


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of ``text`` with which ``stop`` begins."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
