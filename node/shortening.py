"""Sentences that must fit somewhere."""

from __future__ import annotations

from typing import Final

ELLIPSIS: Final = "…"


def shortened(text: str, chars: int) -> str:
    """Return ``text`` in at most so many characters, cut between words and marked where it was
    cut.
    """
    if len(text) <= chars:
        return text
    whole_words = text[: chars - 1].rpartition(" ")[0] or text[: chars - 1]
    return whole_words.rstrip(" ,;:") + ELLIPSIS
