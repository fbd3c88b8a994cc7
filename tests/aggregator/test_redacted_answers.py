"""What an aggregator says of records whose content was erased: lineages and exports, each read by a
tool from outside.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2 as statement_messages
from in_toto_attestation.v1.statement import Statement
from prov.model import ProvDocument

from aggregator.answers import Answers
from aggregator.cli.lineage import render, render_page, render_paths
from aggregator.core import opened
from aggregator.errors import NotFoundError
from aggregator.relatives import Asked
from peer.excerpt_commands import export_to
from peer.exports import FORMATS
from peer.service import running
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.verification import verify_excerpt
from tests.aggregator.test_checkpoints import showing
from tests.aggregator.test_exports import checked
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import NOW_US, TestMesh, key_of
from tests.unit.test_prov import schema

WHY = "names a customer"
statement_pb2: Any = statement_messages  # protobuf fills it when it is imported


@asynccontextmanager
async def redacted(path: Path, *names: str) -> AsyncGenerator[tuple[Answers, SignedJob]]:
    """An aggregator that holds a job and had the records of these names erased."""
    joined = aggregator_home(path)
    worker, submitter = Author(key_of(1)), Author(key_of(2))
    job = SignedJob(worker, submitter)
    async with opened(*joined) as answers:
        await showing(joined, answers)
        await answers.feeds.add_all([worker.cut(), submitter.cut()])
        async with running(answers.redactor.run):
            for name in names:
                await answers.redact([str(getattr(job, name))], WHY)
        await answers.feeds.cut_all()
        yield answers, job


def said(told: dict[str, Any], answers: Answers) -> bool:
    """Whether it says by whom, when and why."""
    return (told["by"], told["reason"]) == (answers.identity.peer_id, WHY) and bool(told["at"])


async def listed(answers: Answers, start: CID, direction: str) -> dict[str, Any]:
    return await answers.relatives(Asked.parse(str(start), direction, 9, 100, ""))


async def test_listings_say_of_a_record_that_it_was_redacted(tmp_path: Path) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        up = await listed(answers, job.accepted, "ancestors")
        down = await listed(answers, job.run, "descendants")
        paths = await answers.paths(str(job.accepted), str(job.run), 9, 9)

        nodes = {node["cid"]: node for node in up["nodes"]}
        erased, other = nodes[str(job.run)], nodes[str(job.submitted)]
        assert (erased["what"], other["redacted"], up["redacted"]) == ("redacted", None, None)
        assert said(erased["redacted"], answers)
        assert said(down["redacted"], answers)
        assert paths["paths"][0][-1]["what"] == "redacted"
        for text in (render_page(up), render_page(down), render_paths(paths)):
            assert f"by aggregator {answers.identity.peer_id}" in text
            assert WHY in text


async def test_who_asks_about_a_redacted_record_that_nothing_names_is_told(tmp_path: Path) -> None:
    async with redacted(tmp_path, "accepted") as (answers, job):
        start = str(job.accepted)
        for ask in (
            lambda: answers.lineage(start),
            lambda: listed(answers, job.accepted, "ancestors"),
            lambda: answers.paths(start, str(job.run), 9, 9),
            lambda: answers.paths(str(job.run), start, 9, 9),
        ):
            with pytest.raises(CoveyError, match=WHY) as refused:
                await ask()
            assert refused.value.code == "redacted"
        with pytest.raises(NotFoundError):
            await listed(answers, CID.of(b"nowhere"), "ancestors")


async def test_a_lineage_says_when_what_it_lacks_was_redacted(tmp_path: Path) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        lineage = await answers.lineage(str(job.accepted))

    erased = next(each for each in lineage["missing"] if each["cid"] == str(job.run))
    assert f"at {erased['redacted']['at']}" in render(lineage)


async def test_an_output_whose_run_was_redacted_is_said_to_be_made_by_it(tmp_path: Path) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        up = await listed(answers, job.output, "ancestors")
        to_model = await answers.paths(str(job.output), str(job.model), 9, 9)
        to_run = await answers.paths(str(job.output), str(job.run), 9, 9)
        lineage = await answers.lineage(str(job.output))
        down = await listed(answers, job.output, "descendants")

        [maker] = up["makers"]
        assert (maker["of"], maker["cid"]) == (str(job.output), str(job.run))
        place = key_of(1).peer_id, 1, 3
        assert (maker["peer"], maker["epoch"], maker["sequence"]) == place
        assert said(maker["redacted"], answers)
        assert up["nodes"] == to_model["paths"] == down["makers"] == []
        assert to_model["makers"] == [maker]
        assert [[node["cid"] for node in path] for path in to_run["paths"]] == [
            [str(job.output), str(job.run)]
        ]
        [missing] = [each for each in lineage["missing"] if each["cid"] == str(job.output)]
        assert missing["makers"] == [
            {**maker, "redacted": {**maker["redacted"], "is_verified": True}}
        ]
        for text in (render_page(up), render_paths(to_model), render(lineage)):
            assert f"made by record {job.run} of {key_of(1).peer_id}" in text
            assert WHY in text
        assert "missing: output" not in render(lineage)


async def test_what_a_run_used_is_said_to_be_made_by_a_redacted_one(tmp_path: Path) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        later = Author(key_of(3))
        run = later.add("job.run", used=((job.output, "input"),))
        await answers.feeds.add(later.cut())
        up = await listed(answers, run, "ancestors")
        paths = await answers.paths(str(run), str(job.model), 9, 9)

    assert [maker["cid"] for maker in up["makers"]] == [str(job.run)]
    assert [maker["of"] for maker in paths["makers"]] == [str(job.output)]


async def test_who_asks_what_nothing_names_is_told_that_redacted_records_may_have(
    tmp_path: Path,
) -> None:
    async with redacted(tmp_path, "run", "accepted") as (answers, job):
        for ask in (
            lambda: answers.lineage(str(job.output)),
            lambda: listed(answers, job.output, "ancestors"),
        ):
            with pytest.raises(NotFoundError) as unknown:
                await ask()
            assert "2 records were redacted" in (unknown.value.hint or "")


@pytest.mark.parametrize("form", FORMATS)
async def test_every_export_says_what_in_it_was_redacted(
    tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with redacted(tmp_path, "run", "hardware") as (answers, job):
        summaries = [
            await answers.export(form, asked, since, io.BytesIO())
            for asked, since in ((str(job.accepted), ""), (str(job.run), ""), (None, "2020-01-01"))
        ]
        alone = await answers.export(form, str(job.submitted), "", io.BytesIO())

        of_lineage, of_itself, of_all = ([r["cid"] for r in s["redacted"]] for s in summaries)
        assert of_lineage == of_itself == [str(job.run)]
        assert of_all == sorted([str(job.run), str(job.hardware)])
        assert all(said(each, answers) for each in summaries[0]["redacted"])
        assert summaries[0]["redacted"][0]["signed_by"] == key_of(1).peer_id
        assert alone["redacted"] == []
    export_to(tmp_path / "out", False, lambda _out: summaries[0])
    assert WHY in capsys.readouterr().out


async def test_what_is_told_of_many_redacted_records_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("peer.exporting.MAX_TOLD_REDACTED", 1)
    async with redacted(tmp_path, "run", "hardware") as (answers, _):
        summary = await answers.export("parquet", None, "", io.BytesIO())

    assert (len(summary["redacted"]), summary["more_redacted"]) == (1, 1)
    export_to(tmp_path / "out", False, lambda _out: summary)
    assert "redacted: 1 record more" in capsys.readouterr().out


async def exported(answers: Answers, form: str, lineage: CID | None) -> bytes:
    out = io.BytesIO()
    await answers.export(form, str(lineage) if lineage else None, "", out)
    return out.getvalue()


async def test_openlineage_tells_of_a_redacted_record(tmp_path: Path) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        lines = (await exported(answers, "openlineage", job.accepted)).splitlines()
        by = answers.identity.peer_id

    event = checked(json.loads(lines[-1]))
    assert event["eventType"] == "OTHER"
    told = event["run"]["facets"]["covey"]
    assert (told["record"], told["reason"]) == (str(job.run), WHY)
    assert told["redactedBy"] == by


@pytest.mark.parametrize("is_all", [True, False])
async def test_prov_json_with_a_redacted_record_is_valid_and_loads(
    tmp_path: Path, is_all: bool
) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        made = json.loads(await exported(answers, "prov-json", None if is_all else job.accepted))

    jsonschema.Draft4Validator(schema()).validate(made)
    document = ProvDocument.deserialize(content=json.dumps(made), format="json").unified()
    [invalidated] = made["wasInvalidatedBy"].values()
    content = made["entity"][f"cid:{job.run}"]
    tombstone = made["activity"][invalidated["prov:activity"]]
    assert invalidated["prov:entity"] == f"cid:{job.run}"
    assert (content["covey:status"], content["covey:reason"]) == ("redacted", WHY)
    assert content["covey:redacted_by"] == f"peer:{answers.identity.peer_id}"
    assert made["activity"][f"record:{job.run}"]["covey:status"] == "redacted"
    associated = [
        (link["prov:agent"], link.get("prov:role"))
        for link in made["wasAssociatedWith"].values()
        if link["prov:activity"] == f"record:{job.run}"
    ]
    assert associated == [(f"peer:{key_of(1).peer_id}", "signer")]
    assert f"peer:{key_of(1).peer_id}" in made["agent"]
    assert tombstone["prov:type"] == "record.tombstone"
    assert any(each.get_type().localpart == "Invalidation" for each in document.get_records())


async def test_in_toto_says_in_a_statement_that_a_record_was_redacted(tmp_path: Path) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        lines = (await exported(answers, "in-toto", job.accepted)).splitlines()

    told = json.loads(base64.b64decode(json.loads(lines[-1])["payload"]))
    Statement.copy_from_pb(json_format.ParseDict(told, statement_pb2.Statement())).validate()
    assert told["subject"][0]["digest"] == {"sha256": job.run.digest.hex()}
    assert told["predicateType"] == "urn:covey:redaction:v1"
    assert told["predicate"]["status"] == "redacted"
    assert told["predicate"]["reason"] == WHY
    assert told["predicate"]["redactedBy"].endswith(answers.identity.peer_id)


async def test_parquet_has_a_row_for_a_redacted_record(tmp_path: Path) -> None:
    async with redacted(tmp_path, "run") as (answers, job):
        (tmp_path / "made.parquet").write_bytes(await exported(answers, "parquet", job.accepted))

    rows = duckdb.sql(
        "SELECT cid, peer, sequence, kind, record,"
        " redacted.by, redacted.reason, epoch_us(redacted.at)"
        f" FROM '{tmp_path / 'made.parquet'}' WHERE redacted IS NOT NULL"
    ).fetchall()
    [(cid, peer, sequence, kind, record, by, reason, at)] = rows
    assert (cid, peer, sequence) == (str(job.run), key_of(1).peer_id, 3)
    assert (kind, record) == (None, None)
    assert (by, reason) == (answers.identity.peer_id, WHY)
    assert at > 0


async def test_a_car_file_of_everything_proves_all_that_was_redacted(tmp_path: Path) -> None:
    async with redacted(tmp_path, "run", "accepted") as (answers, job):
        out = io.BytesIO()
        summary = await answers.export("car", None, "", out)
    verdict = verify_excerpt(io.BytesIO(out.getvalue()).read)

    assert verdict.is_good
    assert set(verdict.redacted) == {job.run, job.accepted}
    assert summary["records"] + summary["along"] == verdict.records


async def test_the_author_of_what_was_redacted_still_shows_to_be_a_member(tmp_path: Path) -> None:
    mesh, gone, left = TestMesh(), Author(key_of(1)), Author(key_of(2))
    joined = aggregator_home(tmp_path, mesh)
    for author in (gone, left):
        author.show(mesh.membership(author.key))
    parent = gone.add("tick")
    child = left.add("tick", informed_by=(parent,))
    out = io.BytesIO()
    async with opened(*joined) as answers:
        await showing(joined, answers)
        await answers.feeds.add_all([gone.cut(NOW_US), left.cut(NOW_US)])
        async with running(answers.redactor.run):
            await answers.redact([str(parent)], WHY)
        await answers.feeds.cut_all()
        await answers.export("car", str(child), "", out)

    verdict = verify_excerpt(io.BytesIO(out.getvalue()).read, child, mesh.root.public)

    assert set(verdict.redacted) == {parent}
    assert {each.state for each in verdict.members} == {"member"}
    assert len(verdict.members) == 3
    assert verdict.is_good
