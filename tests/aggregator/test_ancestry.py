from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from aggregator import ancestry as ancestry_module
from aggregator.ancestry import Ancestry, Question
from aggregator.answers import Answers
from aggregator.cli.lineage import lineage, render_page, render_paths
from aggregator.core import opened
from aggregator.dag import labels as labels_module, walk as walk_module
from aggregator.dag.reach import Reach
from aggregator.errors import PageExpiredError
from peer.service import running
from protocols.cid import CID, RAW
from protocols.keys import peer_id_of
from tests.aggregator.test_aggregator import asking
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import key_of

DOWN = Reach(False, 1_000)


@asynccontextmanager
async def with_a_job(path: Path) -> AsyncGenerator[tuple[Answers, SignedJob]]:
    worker, submitter = Author(key_of(1)), Author(key_of(2))
    job = SignedJob(worker, submitter)
    async with opened(*aggregator_home(path)) as answers:
        await answers.feeds.add_all([worker.cut(), submitter.cut()])
        await answers.index.catch_up()
        yield answers, job


def cids(answer: Any) -> list[str]:
    return [node["cid"] for node in answer["nodes"]]


def text(*values: CID) -> list[str]:
    return sorted(map(str, values))


async def test_the_api_tells_what_came_from_a_model_a_machine_or_a_peer(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, job), asking(answers) as ask:
        worker = peer_id_of(job.worker.key.public)

        for start in (job.model, job.hardware, job.environment, job.input, worker):
            outputs = (await ask(f"/lineage/{start}/outputs")).json()
            assert cids(outputs) == [str(job.output)]
        below = (await ask(f"/lineage/{job.hardware}/descendants")).json()
        above = (await ask(f"/lineage/{job.output}/ancestors")).json()

    assert sorted(cids(below)) == text(job.run, job.output, job.accepted)
    assert sorted(cids(above)) == text(
        job.run, job.model, job.input, job.registered, job.submitted, job.environment, job.hardware
    )
    assert above["nodes"][0] == {
        "cid": str(job.run), "depth": 1, "what": "record", "name": "job.run", "peer": worker,
        "redacted": None,
    }  # fmt: skip
    assert (above["next"], above["is_cut"]) == (None, False)
    assert str(job.hardware) in render_page(above)


async def test_outputs_of_a_peer_or_a_machine_are_those_that_its_own_runs_made(
    tmp_path: Path,
) -> None:
    async with with_a_job(tmp_path) as (answers, job), asking(answers) as ask:
        other = Author(key_of(3))
        laptop = other.add_block("hardware", cores=1)
        other.add("model.registered", generated=((job.model, "model"),), hardware=laptop)
        other.add("job.submitted", generated=((job.input, "input"),), hardware=laptop)
        made = CID.of(b"made of the first output", RAW)
        run = {"used": ((job.output, "input"),), "hardware": laptop}
        other.add("job.run", generated=((made, "output"),), **run)
        await answers.feeds.add(other.cut())
        worker, idle = (peer_id_of(job.worker.key.public), peer_id_of(job.submitter.key.public))

        async def outputs(start: object, query: str = "") -> tuple[list[str], bool]:
            answer = (await ask(f"/lineage/{start}/outputs{query}")).json()
            return cids(answer), answer["is_cut"]

        assert await outputs(worker) == ([str(job.output)], False)
        assert await outputs(job.hardware) == ([str(job.output)], False)
        assert await outputs(job.environment) == ([str(job.output)], False)
        assert await outputs(other.key.peer_id) == ([str(made)], False)
        assert await outputs(laptop) == ([str(made)], False)
        assert await outputs(idle) == ([], False)
        assert await outputs(worker, "?depth=1") == ([], True)
        assert await outputs(job.model) == ([str(job.output), str(made)], False)


async def test_the_api_shows_the_ways_between_two_things(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, job), asking(answers) as ask:
        found = (await ask(f"/lineage/{job.accepted}/paths?to={job.hardware}")).json()
        none = (await ask(f"/lineage/{job.hardware}/paths?to={job.accepted}")).json()
        cut = (await ask(f"/lineage/{job.accepted}/paths?to={job.hardware}&limit=1")).json()

    ways = [[node["cid"] for node in path] for path in found["paths"]]
    assert ways == [
        [str(each) for each in (job.accepted, job.run, job.hardware)],
        [str(each) for each in (job.accepted, job.output, job.run, job.hardware)],
    ]
    assert not found["is_cut"]
    assert (len(cut["paths"]), cut["is_cut"]) == (1, True)
    assert "no way" in render_paths(none)
    assert "1. 2 links" in render_paths(found)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("descendants?depth=0", "bad-query"),
        ("outputs?limit=10001", "bad-query"),
        ("ancestors?page=what", "bad-page"),
        ("ancestors?page=00000000-00000000-1", "bad-page"),
        ("paths", "not-a-cid"),
        ("paths?to=what", "not-a-cid"),
        (f"paths?to=bafkrei{'a' * 52}", "unknown-cid"),
    ],
)
async def test_the_api_refuses_what_is_no_question(tmp_path: Path, path: str, code: str) -> None:
    async with with_a_job(tmp_path) as (answers, job), asking(answers) as ask:
        answer = (await ask(f"/lineage/{job.output}/{path}")).json()

    assert answer["error"]["code"] == code


async def test_a_peer_has_no_ancestors_and_an_unknown_one_no_outputs(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, _), asking(answers) as ask:
        above = (await ask(f"/lineage/{key_of(1).peer_id}/ancestors")).json()
        below = (await ask(f"/lineage/{key_of(9).peer_id}/outputs")).json()

    assert above["error"]["code"] == "not-a-cid"
    assert below["error"]["code"] == "unknown-peer"


async def test_what_arrives_between_two_pages_changes_none_of_them(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, job), asking(answers) as ask:
        path = f"/lineage/{job.model}/descendants"
        whole = cids((await ask(path)).json())
        page = (await ask(f"{path}?limit=1")).json()
        paged = cids(page)
        late = Author(key_of(3))

        while page["next"]:
            late.add("job.run", used=((job.model, "model"),))
            await answers.feeds.add(late.cut())
            page = (await ask(f"{path}?limit=1&page={page['next']}")).json()
            paged += cids(page)

        assert paged == whole
        assert len(cids((await ask(path)).json())) == len(whole) + len(late.records)


async def test_a_page_goes_on_after_a_restart_unless_more_has_arrived(tmp_path: Path) -> None:
    joined = aggregator_home(tmp_path)
    worker, submitter = Author(key_of(1)), Author(key_of(2))
    job = SignedJob(worker, submitter)
    question = Question(job.model, DOWN)
    async with opened(*joined) as answers:
        await answers.feeds.add_all([worker.cut(), submitter.cut()])
        await answers.index.catch_up()
        whole = await answers.ancestry.page(question, 100)
        first = await answers.ancestry.page(question, 2)

    async with opened(*joined) as answers:
        rest = await answers.ancestry.page(question, 100, first.cursor)
        assert first.nodes + rest.nodes == whole.nodes

        worker.add("tick")
        await answers.feeds.add(worker.cut())
        await answers.index.catch_up()
        with pytest.raises(PageExpiredError):
            await answers.ancestry.page(question, 100, first.cursor)


async def test_an_index_made_anew_gives_the_same_answers(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, job):
        before = await answers.ancestry.page(Question(job.model, DOWN), 100)

        await answers.index.rebuild()

        assert await answers.ancestry.page(Question(job.model, DOWN), 100) == before


async def test_a_graph_is_kept_ready_once_there_is_enough_to_want_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_a_job(tmp_path) as (answers, _):
        async with running(answers.ancestry.run):
            await answers.index.catch_up()
        assert answers.ancestry.nbytes == 0

        monkeypatch.setattr(ancestry_module, "WARM_FROM_ROWS", 1)
        async with running(answers.ancestry.run):
            with trio.fail_after(60):
                while not answers.ancestry.nbytes:
                    await trio.lowlevel.checkpoint()


async def test_a_graph_that_cannot_be_made_is_made_when_it_can(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, job):
        ancestry = Ancestry(answers.index, tmp_path / "absent")

        with pytest.raises(FileNotFoundError):
            await ancestry.page(Question(job.model, DOWN), 100)
        (tmp_path / "absent").mkdir()

        assert (await ancestry.page(Question(job.model, DOWN), 100)).nodes


async def test_walks_that_nobody_goes_on_with_are_given_up(tmp_path: Path) -> None:
    async with with_a_job(tmp_path) as (answers, job):
        question = Question(job.model, DOWN)
        first = await answers.ancestry.page(question, 1)
        for depth in range(10, 10 + ancestry_module.HELD_WALKS):
            await answers.ancestry.page(replace(question, reach=Reach(False, depth)), 1)

        assert len(answers.ancestry._held) == ancestry_module.HELD_WALKS
        again = await answers.ancestry.page(question, 1, first.cursor)  # walked once more
        assert again.nodes != first.nodes


@pytest.mark.parametrize(
    "options", [("--up", "--to", "x"), ("--page", "x"), ("--to", "x", "--page", "y")]
)
def test_options_that_exclude_each_other_are_misuse(options: tuple[str, ...]) -> None:
    assert CliRunner().invoke(lineage, ["cid", *options]).exit_code == 2


@pytest.mark.parametrize("seen_in_set", [0, 100])
async def test_a_record_that_was_missing_at_the_first_page_is_so_on_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen_in_set: int
) -> None:
    monkeypatch.setattr(walk_module, "SEEN_IN_SET", seen_in_set)
    monkeypatch.setattr(labels_module, "_GROWTH", 1_000)  # there is room: nothing must be moved
    worker, submitter = Author(key_of(1)), Author(key_of(2))
    job = SignedJob(worker, submitter)
    question = Question(job.accepted, Reach(True, 1_000))
    async with opened(*aggregator_home(tmp_path)) as answers:
        other = Author(key_of(3))
        other.add("tick")
        for author in (other, submitter):
            await answers.feeds.add(author.cut())
            await answers.index.catch_up()
            await answers.ancestry.catch_up()
        whole = await answers.ancestry.page(question, 100)
        page = await answers.ancestry.page(question, 1)
        nodes = page.nodes

        await answers.feeds.add(worker.cut())
        await answers.index.catch_up()
        await answers.ancestry.catch_up()
        while page.cursor:
            page = await answers.ancestry.page(question, 1, page.cursor)
            nodes += page.nodes

    assert nodes == whole.nodes
    assert sorted(node.cid for node in nodes) == sorted([job.output, job.submitted, job.run])
