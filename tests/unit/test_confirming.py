"""What is asked before a record's content is erased for good."""

from __future__ import annotations

import io

import click
import pytest

from peer.excerpt_commands import confirm_redaction
from protocols.cid import CID
from protocols.errors import CoveyError

RECORD = str(CID.of(b"a record"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def answering(monkeypatch: pytest.MonkeyPatch, line: str) -> list[str]:
    """Answer every question so; return what was asked."""
    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return line

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr(click.termui, "visible_prompt_func", answer)
    return asked


def test_whoever_says_no_is_told_that_nothing_was_erased(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "n")

    with pytest.raises(CoveyError, match="nothing was erased"):
        confirm_redaction([RECORD], yes=False)


@pytest.mark.parametrize("yes", [True, False])
def test_whoever_says_yes_is_asked_once_at_most(monkeypatch: pytest.MonkeyPatch, yes: bool) -> None:
    asked = answering(monkeypatch, "y")

    confirm_redaction([RECORD, RECORD], yes)

    assert len(asked) == (0 if yes else 1)
