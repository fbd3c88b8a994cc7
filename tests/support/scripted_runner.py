"""A runner's process that says what a test wants, to a pool that takes it for one of ours."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = """
import os, signal, sys, time
sys.path.insert(0, {root!r})
from node.runner.messages import *

def send(*messages):
    for frame in frames(FROM_RUNNER, messages):
        while frame:
            frame = frame[os.write(1, frame):]

def raw(*fields):
    import cbor2
    body = cbor2.dumps([list(fields)])
    frame = LENGTH.pack(len(body)) + body
    while frame:
        frame = frame[os.write(1, frame):]

def wait():
    while os.read(0, 1 << 16):
        pass

send(Loaded(1.0, {{}}))
os.read(0, 1 << 16)
{body}
"""

WHOLE = 'send(Done(1, b"x", {}, {"busy_ms": 1.0}))\nwait()'
"""Answers the first job."""

Become = Callable[[str], None]


def becoming(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Become:
    """Return what makes every runner that starts from then on a process that loads, and then does
    what is given.
    """
    python = sys.executable

    def become(body: str) -> None:
        script = folder / "runner.py"
        script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2]), body=body))
        program = folder / "python"
        program.write_text(f"#!/bin/sh\nexec {python} -B {script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return become
