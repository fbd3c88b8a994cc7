from __future__ import annotations

import json

import pytest

from peer.cli import emit


def test_json_says_everything_and_acts_on_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "caf\u00e9 \x1b[2J \x9b2J \u202egnp.exe"}

    emit(value, True, str)

    told = capsys.readouterr().out
    assert json.loads(told) == value
    assert "caf\u00e9" in told
    assert all(line.isprintable() for line in told.splitlines())
