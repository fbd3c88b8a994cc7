"""The runner's side of the pipe, over an engine that breaks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from node.models import InstalledModel, ModelStore
from node.runner.kinds import KINDS, embed
from node.runner.messages import Done, Failed, FromRunner, Load, Run, ToRunner
from node.runner.service import Service


class OverError(BaseException):
    """There are no more messages."""


class Script:
    """A channel that brings what is written down, a turn each, and keeps what is said."""

    def __init__(self, *turns: list[ToRunner]) -> None:
        self._turns = list(turns)
        self.said: list[FromRunner] = []

    def receive(self, *, wait: bool) -> list[ToRunner]:
        if not self._turns and wait:
            raise OverError
        return self._turns.pop(0) if self._turns else []

    def send(self, messages: Iterable[FromRunner]) -> None:
        self.said += messages


@pytest.fixture
def model(tmp_path: Path) -> InstalledModel:
    return ModelStore(tmp_path / "models").add("noop")


def served(model: InstalledModel, *turns: list[ToRunner]) -> list[FromRunner]:
    folder, cid = str(model.path), bytes(model.cid)
    order = Load(folder, "noop", cid, "bench.noop", "none", 1, 1, "off", "cpu")
    script = Script(*turns)
    with pytest.raises(OverError):
        Service(script).run(order)  # type: ignore[arg-type]
    return script.said[1:]


def asked(job: int, text: str) -> Run:
    content = embed.encode_input([text])
    return Run(job, len(content), content)


def test_an_engine_that_breaks_fails_the_jobs_in_it_and_serves_the_next(
    model: InstalledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(KINDS, "bench.noop", "tests.support.breaking_kind")

    said = served(model, [asked(1, "a"), asked(2, "boom")], [asked(3, "c")])

    one, two, three = said
    assert isinstance(one, Failed)
    assert isinstance(two, Failed)
    assert [one.job, one.code, two.job] == [1, "job-failed", 2]
    assert two.exceptions[-1].type == "ZeroDivisionError"
    assert isinstance(three, Done)


def test_an_output_that_is_too_large_fails_its_job_and_not_its_runner(
    model: InstalledModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.runner.service.MAX_JOB_OUTPUT_BYTES", 8)

    large, small = served(model, [asked(1, "a text of some length")], [asked(2, "a")])

    assert isinstance(large, Failed)
    assert large.code == "output-too-big"
    assert isinstance(small, Done)
