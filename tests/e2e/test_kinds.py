"""Kinds by the real commands: files in, rows out, one line for what cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest

from node.client import connect_sync
from tests.support.machines import Machine, stopping
from tests.support.sounds import noise, silence, vowels, wav

pytestmark = pytest.mark.e2e

MODELS = ("silero-vad", "magika", "all-minilm-l6-v2")
LABELS = ("--labels", "sport, cooking")


@pytest.fixture(scope="module")
def node() -> Iterator[Machine]:
    machine = Machine("alone", Path(mkdtemp(prefix="covey-")) / "alone")
    with stopping(machine):
        machine.run("init")
        for model in MODELS:
            machine.run("models", "add", model)
        machine.up()
        machine.until(
            lambda: set(MODELS) <= set(machine.json("peers")[0]["models"]), "offer its models"
        )
        yield machine


def test_speech_is_found_in_files(node: Machine, tmp_path: Path) -> None:
    speech, quiet, target = tmp_path / "speech.wav", tmp_path / "quiet.wav", tmp_path / "out.npy"
    speech.write_bytes(wav(np.concatenate([silence(1), vowels(1.5), silence(0.5)])))
    quiet.write_bytes(wav(noise(1)))

    run = ("run", "vad", "--model", "silero-vad", "--pad-ms", "0", str(speech))
    told = [json.loads(line) for line in node.run(*run, str(quiet)).stdout.splitlines()]
    node.run(*run, "--output", str(target))
    refused = node.run("run", "vad", "--model", "silero-vad", __file__, status=1)
    too_sure = node.run(*run, "--threshold", "nan", status=2)

    ((found,), none) = (row["segments"] for row in told)
    assert (found["start_s"], found["end_s"]) == pytest.approx((1.0, 2.5), abs=0.2)
    assert none == []
    assert np.load(target) == pytest.approx(np.array([[0, found["start_s"], found["end_s"]]]))
    assert f"{__file__} is no WAV file\n  hint: convert it: ffmpeg" in refused.stderr
    assert "threshold is a number, 0.01 to 0.99, not 'nan'" in too_sure.stderr


def test_types_of_files_are_detected_also_from_python(node: Machine, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()

    detect = ("run", "detect", "--model", "magika")
    told = node.json(*detect, __file__, str(tmp_path / "empty"))["output"]
    piped = node.json(*detect, stdin=Path(__file__).read_text())["output"]
    with connect_sync(node.home) as covey:
        content = Path(__file__).read_bytes()
        (row,) = covey.submit("detect", model="magika", input=[content])

    assert [(each["label"], each["mime"]) for each in told] == [
        ("python", "text/x-python"),
        ("empty", "inode/x-empty"),
    ]
    assert piped == [row]
    assert row["label"] == "python"


def test_texts_are_classified_by_labels_that_the_job_brings(node: Machine) -> None:
    classify = ("run", "classify", "--model", "all-minilm-l6-v2")
    told = node.json(*classify, *LABELS, stdin="She won the marathon.\nBake the bread.\n")["output"]
    refused = node.run(*classify, "--labels", "sport,sport", stdin="text", status=2)
    unlabelled = node.run(*classify, stdin="text", status=1)
    foreign = node.run("run", "embed", *classify[2:], *LABELS, stdin="text", status=2)

    node.run("run", "embed", *classify[2:], stdin="text")
    runners = [each["model"] for each in node.json("status")["runners"]]

    assert [row["label"] for row in told] == ["sport", "cooking"]
    assert runners.count("all-minilm-l6-v2") == 2, "one that classifies, and one that embeds"
    assert "labels has 'sport' twice" in refused.stderr
    assert "labels are missing" in unlabelled.stderr
    assert "No such option" in foreign.stderr
