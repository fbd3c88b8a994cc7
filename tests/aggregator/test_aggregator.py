from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from aggregator.answers import Answers
from aggregator.api import Api
from aggregator.cli.lineage import render
from aggregator.config import Filing
from aggregator.core import opened
from aggregator.desk import Desk
from aggregator.metrics import Metrics
from aggregator.offline import answer_offline
from aggregator.policy import Mesh
from aggregator.surroundings import Surroundings
from aggregator.trackers import InThread
from aggregator.trackers.folder import FolderTracker
from peer.effects import Effects
from peer.exchange import Exchange, Policy
from peer.home import Home
from peer.identity import Identity
from peer.recorder import Recorder
from peer.service import running
from protocols.cid import CID, RAW
from protocols.errors import CoveyError
from protocols.limits import MAX_SEQUENCE
from protocols.membership import AGGREGATOR, FILER
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import TestMesh, key_of
from tests.support.memory import MemoryNetwork, MemoryTransport
from tests.support.reports import START_US, a_report

AT_ONCE = Filing(age_s=0)
SMALL_MESH = Mesh(is_closed=True, peers=4)


@dataclass
class Running:
    """A daemon's parts on a network in memory."""

    home: Home
    answers: Answers
    exchange: Exchange
    transport: MemoryTransport

    async def meet(self, other: Running) -> None:
        """Connect, as if a hello had succeeded."""
        await self.transport.dial(other.transport.peer_id, other.transport.addresses)
        self.transport.admit(other.transport.peer_id)
        other.transport.admit(self.transport.peer_id)
        self.exchange.peer_up(other.transport.peer_id)
        other.exchange.peer_up(self.transport.peer_id)

    def issue_files(self) -> list[str]:
        return sorted(path.name for path in self.home.issues.glob("*.md"))

    async def settled(self) -> None:
        """Wait until what is durable is indexed and sorted into groups."""
        await self.answers.index.catch_up()
        await self.answers.intake.take_in()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that comes with a record."""
        with trio.fail_after(60):
            while True:
                mark = self.answers.index.mark
                await self.settled()
                if condition():
                    return
                await self.answers.index.wait_past(mark)


Joined = tuple[Home, Identity, Effects]


@asynccontextmanager
async def up(joined: Joined, network: MemoryNetwork) -> AsyncGenerator[Running]:
    home, identity, effects = joined
    everybody = Policy(lambda _: True, lambda _: True, lambda _: True, follows=True)
    async with opened(home, identity, effects) as answers:
        transport = network.transport(identity.key)
        exchange = Exchange(transport, answers.feeds, everybody)
        recorder = Recorder(answers.feeds, effects)
        desk = Desk(answers.intake, identity, recorder, AT_ONCE, lambda: SMALL_MESH)
        filing = partial(desk.run, [InThread(FolderTracker(home.path))])
        services = (
            answers.feeds.run,
            transport.run,
            exchange.run,
            answers.intake.run,
            filing,
        )
        async with running(*services):
            yield Running(home, answers, exchange, transport)


@pytest.fixture
def mesh() -> TestMesh:
    return TestMesh()


@pytest.fixture
def network() -> MemoryNetwork:
    return MemoryNetwork()


def failing_author(number: int = 1, reports: int = 3) -> Author:
    author = Author(key_of(number))
    for count in range(reports):
        author.report(a_report(time_us=START_US + count))
    return author


async def test_three_reports_of_one_fault_become_one_issue(
    tmp_path: Path, mesh: TestMesh, network: MemoryNetwork
) -> None:
    async with up(aggregator_home(tmp_path, mesh, AGGREGATOR, FILER), network) as filer:
        await filer.answers.feeds.add(failing_author().cut())
        await filer.until(lambda: bool(filer.answers.issues()))
        [group] = filer.answers.groups()
        [issue] = filer.answers.issues()

    assert (group["count"], group["issue"]) == (3, 1)
    assert issue["where"] == f"issues/{filer.issue_files()[0]}"
    assert len(filer.issue_files()) == 1


async def test_a_second_aggregator_shows_the_same_and_never_files(
    tmp_path: Path, mesh: TestMesh, network: MemoryNetwork
) -> None:
    first = aggregator_home(tmp_path / "first", mesh, AGGREGATOR, FILER, seed=1)
    second = aggregator_home(tmp_path / "second", mesh, AGGREGATOR, seed=2)

    async with up(first, network) as filer, up(second, network) as other:
        await other.meet(filer)
        await other.answers.feeds.add(failing_author().cut())
        await filer.until(lambda: bool(filer.answers.issues()))
        await filer.answers.feeds.cut_all()
        await other.until(lambda: bool(other.answers.issues()))
        await filer.settled()

        assert other.answers.feeds.state_root() == filer.answers.feeds.state_root()
        assert other.answers.groups() == filer.answers.groups()
        assert other.answers.issues() == filer.answers.issues()
        assert other.answers.groups()[0]["issue"] == 1
        assert other.issue_files() == []
        assert len(filer.issue_files()) == 1


async def test_a_filer_that_restarts_files_nothing_twice(
    tmp_path: Path, mesh: TestMesh, network: MemoryNetwork
) -> None:
    joined = aggregator_home(tmp_path, mesh, AGGREGATOR, FILER)
    async with up(joined, network) as filer:
        await filer.answers.feeds.add(failing_author().cut())
        await filer.until(lambda: bool(filer.answers.issues()))

    joined[0].index.unlink()
    again = dataclasses.replace(joined[1])
    async with up((joined[0], again, joined[2]), MemoryNetwork()) as filer:
        await filer.answers.feeds.add(failing_author(2, reports=1).cut())
        await filer.until(lambda: filer.answers.groups()[0]["count"] == 4)

        assert filer.answers.groups()[0]["issue"] == 1
        assert len(filer.issue_files()) == 1


async def test_without_the_filer_role_nothing_is_filed(
    tmp_path: Path, mesh: TestMesh, network: MemoryNetwork
) -> None:
    async with up(aggregator_home(tmp_path, mesh, AGGREGATOR), network) as other:
        await other.answers.feeds.add(failing_author().cut())
        await other.until(lambda: bool(other.answers.groups()))
        await other.settled()

        assert other.answers.groups()[0]["issue"] is None
        assert other.issue_files() == []


async def test_records_that_are_not_what_their_kind_says_are_counted_and_harm_nothing(
    tmp_path: Path, mesh: TestMesh, network: MemoryNetwork
) -> None:
    author = failing_author(reports=1)
    for kind in ("error.report", "issue.filed", "issue.intent", "group.decision"):
        author.add(kind, attributes={"version": 1, "group": "not a group"})

    async with up(aggregator_home(tmp_path, mesh), network) as aggregator:
        await aggregator.answers.feeds.add(author.cut())
        await aggregator.settled()

        assert aggregator.answers.intake.findings.malformed == 4
        assert [group["count"] for group in aggregator.answers.groups()] == [1]


Ask = Callable[..., Awaitable[Any]]


@asynccontextmanager
async def asking(answers: Answers, host: str | None = None) -> AsyncGenerator[Ask]:
    """Ask the control application, or that for TCP when a host is given."""
    around = Surroundings(is_running=True, connected=["somebody"])
    api = Api(answers, Metrics(), lambda: around)
    app = api.watching(host) if host else api.control()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def ask(path: str, method: str = "GET", **keywords: Any) -> httpx.Response:
            return await client.request(method, path, **keywords)

        yield ask


@asynccontextmanager
async def with_a_job(path: Path) -> AsyncGenerator[tuple[Answers, SignedJob]]:
    worker, submitter = Author(key_of(1)), Author(key_of(2))
    job = SignedJob(worker, submitter)
    worker.report(a_report())
    async with opened(*aggregator_home(path)) as answers:
        await answers.feeds.add_all([worker.cut(), submitter.cut()])
        await answers.index.catch_up()
        await answers.intake.take_in()
        yield answers, job


async def test_the_api_answers_what_commands_ask(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, job), asking(answers) as ask:
        status = (await ask("/status")).json()
        [group] = (await ask("/groups")).json()
        shown = (await ask(f"/groups/{group['id']}")).json()
        lineage = (await ask(f"/lineage/{job.output}")).json()
        root = (await ask("/state-root")).json()

        assert status["records"] == 7
        assert status["connected"] == ["somebody"]
        assert [head["next_sequence"] for head in status["feeds"]] in ([5, 2], [2, 5])
        assert shown["variants"][0]["count"] == 1
        assert shown["latest"][0]["message"] == "it broke"
        assert lineage["verified"]
        assert lineage["input"] == str(job.input)
        assert root["state_root"] == status["state_root"]
        assert (await ask("/issues")).json() == []
        assert (await ask("/missing")).json() == []
        assert (await ask("/healthz")).json()["ok"]
        assert (await ask("/rebuild", "POST")).json()["records"] == 7


async def test_without_a_daemon_nothing_is_read_back(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, _), asking(answers) as ask:
        answer = (await ask("/issues/sync", "POST")).json()

    assert answer["error"]["code"] == "daemon-down"
    assert "covey-aggregator up" in answer["error"]["hint"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/groups/000000000000", "unknown-group"),
        (f"/lineage/{key_of(1).peer_id}", "not-a-cid"),
        (f"/lineage/bafkrei{'a' * 51}a?depth=0", "bad-query"),
        (f"/lineage/bafkrei{'a' * 51}a?limit=many", "bad-query"),
    ],
)
async def test_the_api_refuses_with_a_code(tmp_path: Path, path: str, code: str) -> None:
    async with with_a_job(tmp_path) as (answers, _), asking(answers) as ask:
        answer = (await ask(path)).json()

    assert answer["error"]["code"] == code


async def test_an_unknown_cid_is_refused_with_a_hint(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, _):
        with pytest.raises(CoveyError, match="no record names") as caught:
            await answers.lineage(str(Author(key_of(9)).add("tick")))

    assert caught.value.hint


async def test_metrics_count_what_is_here_and_name_nobody(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, _), asking(answers, "127.0.0.1") as ask:
        text = (await ask("/metrics")).text

    assert "covey_aggregator_records 7.0" in text
    assert "covey_aggregator_feeds 2.0" in text
    assert "covey_aggregator_connected_peers 1.0" in text
    assert "12D3Koo" not in text


async def test_over_tcp_there_is_nothing_but_health_and_metrics(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, _), asking(answers, "127.0.0.1") as ask:
        assert (await ask("/status")).status_code == 404
        assert (await ask("/rebuild", "POST")).status_code == 404
        assert (await ask("/healthz")).status_code == 200


async def test_a_web_page_cannot_read_metrics_through_a_name_of_its_own(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, _), asking(answers, "127.0.0.1") as ask:
        assert (await ask("/metrics", headers={"Host": "evil.example"})).status_code == 400


async def test_whatever_a_valid_record_holds_is_taken_in_and_shown_harmlessly(
    tmp_path: Path,
) -> None:
    author = Author(key_of(1))
    made = CID.of(b"made", RAW)
    shady = "\x1b[31mred\0 \u202eback\r\n"
    cid = author.add(
        shady,
        generated=((made, shady), (made, "output")),
        used=((made, shady),),
        informed_by=(made,),
        status=shady,
        duration_us=MAX_SEQUENCE,
        attributes={shady: [shady, made, b"\xff", 1 << 63, -1.5, {shady: None}], "items": shady},
    )

    async with opened(*aggregator_home(tmp_path)) as answers:
        await answers.feeds.add(author.cut())
        await answers.index.catch_up()
        await answers.intake.take_in()
        lineage = await answers.lineage(str(made))
        text = render(lineage)

        assert json.loads(json.dumps(lineage)) == lineage
        assert lineage["records"][0]["cid"] == str(cid)
        assert all(line.isprintable() for line in text.splitlines())


async def test_without_a_daemon_a_name_with_a_slash_names_nothing(tmp_path: Path) -> None:
    home, _, _ = aggregator_home(tmp_path)

    with pytest.raises(CoveyError, match="'b' names nothing"):
        await answer_offline(home, "GET", "/groups/a/b", {})
