"""An aggregator that files in its folder and at a GitHub on loopback, and reads back from there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from aggregator.answers import Answers
from aggregator.config import Filing
from aggregator.core import opened
from aggregator.desk import Desk
from aggregator.draft import marker_of
from aggregator.policy import Mesh
from aggregator.trackers import InThread, Tracker
from aggregator.trackers.folder import FolderTracker
from aggregator.trackers.github import GithubTracker
from peer.effects import Effects, system_effects
from peer.home import Home
from peer.identity import Identity
from peer.recorder import Recorder
from peer.service import running
from protocols.errors import CoveyError
from protocols.membership import AGGREGATOR, FILER
from tests.support.github.client import AT_ONCE
from tests.support.github.repository import REPO, TOKEN
from tests.support.github.server import FakeGithub
from tests.support.home import Author, aggregator_home
from tests.support.members import key_of
from tests.support.reports import START_US, a_report

PATIENCE_S = 60
MESH = Mesh(is_closed=True, peers=4)


@dataclass
class Operator:
    """An aggregator as its operator sees it."""

    home: Path
    answers: Answers
    desk: Desk
    author: Author

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with a record."""
        with trio.fail_after(PATIENCE_S):
            while not condition():
                await self.answers.intake.changed.wait()

    async def report(self, release: str = "0.1.0", times: int = 3) -> None:
        """Have a peer report the fault so many more times."""
        for _ in range(times):
            count = len(self.author.records)
            self.author.report(a_report(release=release, time_us=START_US + count))
        await self.answers.feeds.add(self.author.cut())

    def status(self) -> str:
        return self.answers.groups()[0]["status"]

    def issues(self) -> dict[str, int]:
        return {each["tracker"]: each["number"] for each in self.answers.issues()}

    def file(self) -> str:
        [path] = (self.home / "issues").glob("*.md")
        return path.read_text("utf-8")


@asynccontextmanager
async def operating(path: Path, fake: FakeGithub, *roles: str) -> AsyncGenerator[Operator]:
    home, identity, effects = _joined(path, *(roles or (AGGREGATOR, FILER)))
    async with opened(home, identity, effects) as answers:
        recorder = Recorder(answers.feeds, effects)
        desk = Desk(answers.intake, identity, recorder, Filing(age_s=0), lambda: MESH)
        with closing(GithubTracker(REPO, fake.api, TOKEN, AT_ONCE)) as github:
            trackers: list[Tracker] = [InThread(FolderTracker(path)), InThread(github)]
            filing = partial(desk.run, trackers)
            async with running(answers.feeds.run, answers.intake.run, filing):
                yield Operator(path, answers, desk, Author(key_of(1)))


def _joined(path: Path, *roles: str) -> tuple[Home, Identity, Effects]:
    if (path / "journal").exists():
        return Home(path, "aggregator.toml"), Identity.load(path), system_effects()
    return aggregator_home(path, None, *roles)


@pytest.fixture
def fake() -> Iterator[FakeGithub]:
    with FakeGithub() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
async def operator(tmp_path: Path, fake: FakeGithub) -> AsyncGenerator[Operator]:
    async with operating(tmp_path, fake) as operator:
        await operator.report()
        await operator.until(lambda: len(operator.issues()) == 2)
        yield operator


async def test_a_fault_gets_one_issue_in_each_tracker(operator: Operator, fake: FakeGithub) -> None:
    [group] = operator.answers.groups()

    assert len(fake.with_text(marker_of(group["id"]))) == 1
    assert [each["tracker"] for each in group["issues"]].count("folder") == 1
    assert group["issue_where"] == f"{fake.api}/{REPO}/issues/{group['issue']}"


async def test_one_tracker_that_is_away_holds_up_no_other(tmp_path: Path, fake: FakeGithub) -> None:
    fake.fail("GET", "", times=1_000)
    async with operating(tmp_path, fake) as operator:
        await operator.report()
        await operator.until(lambda: list(operator.issues()) == ["folder"])

    assert fake.repository.issues == {}


async def test_who_is_not_the_filer_files_nowhere_and_reads_nothing_back(
    tmp_path: Path, fake: FakeGithub
) -> None:
    async with operating(tmp_path, fake, AGGREGATOR) as operator:
        await operator.report()
        await operator.until(lambda: bool(operator.answers.groups()))
        with pytest.raises(CoveyError, match="does not file") as caught:
            await operator.desk.sync()

    assert caught.value.code == "not-the-filer"
    assert operator.issues() == {}
    assert fake.requests == []


async def test_closed_as_completed_is_resolved_everywhere_until_a_newer_release_has_it_again(
    operator: Operator, fake: FakeGithub
) -> None:
    fake.close_issue(1)

    synced = await operator.desk.sync()
    assert [each["action"] for each in synced["decisions"]] == ["resolve"]
    assert operator.status() == "resolved"
    await operator.report(release="0.1.0")
    await operator.until(lambda: operator.answers.groups()[0]["count"] == 6)
    assert operator.status() == "resolved"
    await operator.report(release="0.2.0")
    await operator.until(lambda: operator.status() == "regressed")
    with trio.fail_after(PATIENCE_S):
        while fake.issue(1)["state"] == "closed" or "Back after" not in operator.file():
            await trio.lowlevel.checkpoint()

    assert (await operator.desk.sync())["decisions"] == []
    assert operator.status() == "regressed"
    assert "regression" in [label["name"] for label in fake.issue(1)["labels"]]


async def test_closed_as_not_planned_stays_closed_whatever_comes(
    operator: Operator, fake: FakeGithub
) -> None:
    fake.close_issue(1, "not_planned")

    await operator.desk.sync()
    await operator.report(release="9.0.0")
    await operator.until(lambda: operator.answers.groups()[0]["count"] == 6)

    assert operator.status() == "ignored"
    assert (await operator.desk.sync())["decisions"] == []
    assert fake.issue(1)["state"] == "closed"


async def test_an_issue_that_a_person_opens_again_is_open_again(
    operator: Operator, fake: FakeGithub
) -> None:
    fake.close_issue(1, "not_planned")
    await operator.desk.sync()

    fake.reopen_issue(1)
    synced = await operator.desk.sync()

    assert [each["action"] for each in synced["decisions"]] == ["reopen"]
    assert operator.status() == "open"
    assert fake.issue(1)["state"] == "open"


async def test_what_was_read_back_outlives_the_index(tmp_path: Path, fake: FakeGithub) -> None:
    async with operating(tmp_path, fake) as operator:
        await operator.report()
        await operator.until(lambda: len(operator.issues()) == 2)
        fake.close_issue(1, "not_planned")
        await operator.desk.sync()

    (tmp_path / "index.duckdb").unlink()
    async with operating(tmp_path, fake) as operator:
        assert operator.status() == "ignored"
        assert (await operator.desk.sync())["decisions"] == []


# Kills


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_process_that_is_killed_at_any_request_leaves_one_issue_at_the_server(
    tmp_path: Path, fake: FakeGithub, moment: str
) -> None:
    prepared = False
    for request in range(1, 100):
        killed = _file_until_request(tmp_path, fake, request, moment, with_reports=not prepared)
        prepared = True
        if not killed:
            break

    [number] = fake.repository.issues
    assert fake.with_text("covey-fault:") == [number]
    assert fake.count("POST", "/issues$") == (2 if moment == "before" else 1)
    assert request > 6


def _file_until_request(
    home: Path, fake: FakeGithub, last: int, moment: str, *, with_reports: bool
) -> bool:
    """Let a process file; kill it at its ``last`` request, if it gets there, and say so."""
    heard = 0
    is_killed = False

    def watch(now: str, method: str, path: str) -> bool:
        nonlocal heard, is_killed
        heard += now == moment
        if heard == last and not is_killed:
            process.kill()
            process.wait()
            is_killed = True
        return not is_killed

    command = [sys.executable, "-m", "tests.support.github.process", str(home), fake.api]
    with fake.lock:  # it is not heard before it can be killed
        fake.watch = watch
        process = subprocess.Popen([*command, str(int(with_reports))], stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=PATIENCE_S)
    assert is_killed or process.returncode == 0, said.decode()
    return is_killed
