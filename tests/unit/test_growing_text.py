"""Text that clients see grow: what the daemon's lines say of it, and how the command prints it."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest
from click.testing import CliRunner

from node import requests
from node.cli import covey
from node.cli.run import printing_text
from node.errors import InputError
from node.requests import Delta, Deltas
from node.runner import text_output
from node.runner.kinds import generate
from peer.control import ControlClient


def line(content: bytes) -> dict[str, Any]:
    return {"output": base64.b64encode(content).decode()}


def test_lines_become_deltas_however_the_output_is_cut() -> None:
    output = text_output.piece(0, "one", None, 1) + text_output.piece(0, "", "stop", 1)
    deltas = Deltas(generate.READER)

    told = [deltas.add(each) for each in (line(output[:3]), {"progress": {}}, line(output[3:]))]

    assert told == [[], [], [Delta(0, "one")]]


def test_after_a_restart_the_output_is_read_from_its_beginning() -> None:
    deltas = Deltas(generate.READER)
    deltas.add(line(text_output.piece(0, "one", "stop", 1)))

    assert deltas.add({"restart": True}) == [Delta(0, "", is_anew=True)]
    assert deltas.add(line(text_output.piece(0, "uno", "stop", 1))) == [Delta(0, "uno")]


def test_items_are_printed_with_an_empty_line_between(capsys: pytest.CaptureFixture[str]) -> None:
    with printing_text() as take:
        for delta in (Delta(0, "one"), Delta(0, " two"), Delta(1, "three")):
            take(delta)

    assert capsys.readouterr() == ("one two\n\nthree\n", "")


def test_a_restart_is_told_beside_the_text(capsys: pytest.CaptureFixture[str]) -> None:
    with printing_text() as take:
        for delta in (Delta(0, "one"), Delta(0, "", is_anew=True), Delta(0, "uno")):
            take(delta)

    printed = capsys.readouterr()
    assert printed.out == "one\n\nuno\n"
    assert "begins anew" in printed.err


def test_kinds_that_emit_nothing_cannot_be_streamed() -> None:
    job = requests.prepare("embed", ["a"], {"model": "m"})

    with pytest.raises(InputError, match="embed emits nothing"):
        requests.stream(cast("ControlClient", None), job, lambda _: None)


def test_a_stream_is_text_and_nothing_else() -> None:
    arguments = ["run", "generate", "--model", "m", "--stream", "--json"]

    done = CliRunner().invoke(covey, arguments, input="x")

    assert done.exit_code == 2
    assert "--stream prints text" in done.stderr
