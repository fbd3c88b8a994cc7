"""Exports of an aggregator's own files, each read by a tool from outside."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import duckdb
import httpx
import ipld_car
import jsonschema
import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2 as provenance_messages
from in_toto_attestation.v1 import statement_pb2 as statement_messages
from in_toto_attestation.v1.statement import Statement
from openlineage.client.event_v2 import (
    InputDataset,
    Job,
    OutputDataset,
    Run,
    RunEvent,
    RunState,
)
from prov.model import ProvDocument
from pyarrow import parquet
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # pyright: ignore[reportPrivateImportUsage]

from aggregator.answers import Answers
from aggregator.api import Api
from aggregator.core import opened
from aggregator.errors import NotFoundError
from aggregator.metrics import Metrics
from aggregator.surroundings import Surroundings
from peer import excerpts
from peer.control import SUMMARY_HEADER
from peer.exports import FORMATS, car, openlineage, prov_json, writer
from peer.revocations import Revocations
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.keys import public_key_of
from protocols.record import Record
from protocols.revocation import FOREVER_US, signed_list
from protocols.verification import verify_excerpt
from tests.support.excerpts import part_of
from tests.support.feeds import segment_of
from tests.support.home import Author, SignedJob, aggregator_home
from tests.support.members import TestMesh, key_of
from tests.unit.test_prov import schema

LATER_US = 1_790_000_000_000_000


# Modules that protobuf fills when they are imported: no type checker sees what is in them.
statement_pb2: Any = statement_messages
provenance_pb2: Any = provenance_messages


class Filled:
    """An aggregator that holds two jobs of the same two peers."""

    def __init__(self, answers: Answers, jobs: list[SignedJob]) -> None:
        self.answers = answers
        self.job, self.other = jobs

    async def export(self, form: str, lineage: CID | None = None, since: str = "") -> bytes:
        out = io.BytesIO()
        asked = str(lineage) if lineage else None
        self.summary = await self.answers.export(form, asked, since, out)
        return out.getvalue()


@asynccontextmanager
async def filled(path: Path, *leave_out: str) -> AsyncGenerator[Filled]:
    """Open one; the bundles of the peers named in ``leave_out`` never came."""
    home, identity, effects = aggregator_home(path)
    worker, submitter = Author(key_of(1)), Author(key_of(2))
    bundles = []
    jobs: list[SignedJob] = []
    for name in (b"a", b"b"):
        jobs.append(SignedJob(worker, submitter, name * 16))
        bundles += [worker.cut(), submitter.cut()]
    async with opened(home, identity, effects) as answers:
        await answers.feeds.add_all(b for b in bundles if b.feed not in leave_out)
        own = Record(author=identity.key.public, nonce=b"own", kind="tick", start_us=LATER_US + 99)
        await answers.feeds.append(own)
        await answers.feeds.cut_all()
        yield Filled(answers, jobs)


def records_of(job: SignedJob) -> set[CID]:
    return {job.environment, job.hardware, job.registered, job.submitted, job.run, job.accepted}


async def test_a_lineage_goes_into_a_car_file_that_verifies_by_itself(tmp_path: Path) -> None:
    async with filled(tmp_path) as mesh:
        file = await mesh.export("car", mesh.job.output)
        verdict = verify_excerpt(io.BytesIO(file).read)

    assert verdict.is_good
    assert verdict.asked == mesh.job.output
    assert verdict.records == mesh.summary["records"] == 6
    assert verdict.authors == {key_of(1).peer_id, key_of(2).peer_id}
    assert mesh.summary["unproven"] == []
    assert mesh.summary["bytes"] == len(file)


async def test_a_lineage_brings_its_authors_certificates_and_the_revocations_along(
    tmp_path: Path,
) -> None:
    mesh, job_authors = TestMesh(), (Author(key_of(1)), Author(key_of(2)))
    home, identity, effects = aggregator_home(tmp_path, mesh)
    shown = [author.show(mesh.membership(author.key)) for author in job_authors]
    certificates = [author.cut() for author in job_authors]
    job = SignedJob(*job_authors)
    bundles = [author.cut() for author in job_authors]
    out, later = io.BytesIO(), io.BytesIO()
    async with opened(home, identity, effects) as answers:
        await answers.feeds.add_all([*certificates, *bundles])
        await answers.export("car", str(job.output), "", out)
        near = await answers.verify(str(job.run), False, mesh.root.peer_id)
        stranger = await answers.verify(str(job.run), False, key_of(9).peer_id)
        revocations = Revocations.open(home.path, mesh.root.public, effects)
        gone = {key_of(2).public: FOREVER_US}
        revocations.learn(signed_list(mesh.root, gone, 1, LATER_US).encode())
        await answers.export("car", str(job.output), "", later)

    verdict = verify_excerpt(io.BytesIO(out.getvalue()).read, mesh=mesh.root.public)
    after = verify_excerpt(io.BytesIO(later.getvalue()).read, mesh=mesh.root.public)
    _, blocks = ipld_car.decode(out.getvalue())

    assert verdict.is_good
    assert (verdict.records, verdict.certificates) == (8, 2)
    assert {each.state for each in verdict.members} == {"member"}
    assert [each.records - each.behind for each in verdict.members] == [1, 1], "the certificates"
    assert {str(cid) for cid in shown} <= {str(cid) for cid, _ in blocks}
    assert (near["ok"], near["records"], near["certificates"]) == (True, 4, 2)
    assert (stranger["ok"], stranger["members"][0]["state"]) == (False, "foreign")
    assert not after.is_good
    assert after.fault_count == 0
    states = {each.peer: each.state for each in after.members}
    assert states == {key_of(1).public: "member", key_of(2).public: "revoked"}


async def test_everything_with_certificates_holds_each_once_and_the_exporters_own_by_itself(
    tmp_path: Path,
) -> None:
    mesh, author = TestMesh(), Author(key_of(1))
    home, identity, effects = aggregator_home(tmp_path, mesh)
    author.show(mesh.membership(author.key))
    author.add("tick")
    out = io.BytesIO()
    async with opened(home, identity, effects) as answers:
        own = Record(author=identity.key.public, nonce=b"", kind="tick", start_us=LATER_US)
        await answers.feeds.append(own)
        await answers.feeds.cut_all()
        await answers.feeds.add(author.cut())
        summary = await answers.export("car", None, "", out)
    verdict = verify_excerpt(io.BytesIO(out.getvalue()).read, mesh=mesh.root.public)

    assert verdict.is_good
    assert verdict.records == summary["records"] == 3
    assert verdict.certificates == 2, "one in a record, and one that no record shows"


async def test_everything_is_exported_page_by_page_our_own_records_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(excerpts, "PAGE", 2)
    async with filled(tmp_path) as mesh:
        file = await mesh.export("car")
        own = mesh.answers.identity.peer_id

    verdict = verify_excerpt(io.BytesIO(file).read)

    assert verdict.is_good
    assert verdict.records == 11, "two jobs of six, which share two blocks; and a tick"
    assert verdict.authors == {key_of(1).peer_id, key_of(2).peer_id, own}
    assert verdict.missing == verdict.left_out == set()


async def test_what_began_since_a_moment_brings_its_environment_along(tmp_path: Path) -> None:
    async with filled(tmp_path) as mesh:
        begun = {record: start for start, record in _starts(mesh)}
        moment = prov_json.moment(begun[mesh.other.registered])
        assert moment is not None
        file = await mesh.export("car", since=moment)
        nothing = await mesh.export("parquet", since="2099-01-01")

    verdict = verify_excerpt(io.BytesIO(file).read)

    assert verdict.is_good
    assert verdict.records < 11
    assert verdict.missing == set()
    assert mesh.job.environment not in verdict.left_out
    assert parquet.read_table(io.BytesIO(nothing)).num_rows == 0


def _starts(mesh: Filled) -> list[tuple[int, CID]]:
    authors = (mesh.job.worker, mesh.job.submitter)
    return [(r.start_us, CID.of(r.encode())) for author in authors for r in author.records]


async def test_parents_that_never_came_are_missing_and_those_beyond_are_left_out(
    tmp_path: Path,
) -> None:
    async with filled(tmp_path, key_of(1).peer_id) as mesh:
        verdict = verify_excerpt(io.BytesIO(await mesh.export("car")).read)
    assert verdict.is_good
    assert verdict.missing == {mesh.job.run, mesh.other.run}


async def test_parquet_is_read_by_duckdb_and_pyarrow(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    (tmp_path / "home").mkdir()
    async with filled(tmp_path / "home") as mesh:
        path.write_bytes(await mesh.export("parquet"))

    table = parquet.read_table(path)
    with duckdb.connect() as database:
        made = database.execute(
            "SELECT r.cid, r.peer, link.cid, epoch(r.start), attributes->>'model', r.environment"
            f" FROM '{path}' r, unnest(r.generated) AS g(link)"
            " WHERE r.kind = 'job.run' AND link.role = 'output' ORDER BY r.sequence"
        ).fetchall()

    assert table.num_rows == mesh.summary["records"] == 13, "a row a place: two blocks have two"
    assert len(set(table["cid"].to_pylist())) == 11
    for row in table.to_pylist():
        assert str(CID.of(row["record"])) == row["cid"]
        assert Record.decode(row["record"]).kind == row["kind"]
    worker = key_of(1).peer_id
    assert [(row[0], row[1], row[2]) for row in made] == [
        (str(job.run), worker, str(job.output)) for job in (mesh.job, mesh.other)
    ]
    assert made[0][3] == pytest.approx(1_790_000_000, abs=1)
    assert made[0][4:] == ("minilm", str(mesh.job.environment))


async def test_prov_json_is_valid_and_loads(tmp_path: Path) -> None:
    async with filled(tmp_path) as mesh:
        made = await mesh.export("prov-json", mesh.job.output)

    jsonschema.Draft4Validator(schema()).validate(json.loads(made))
    document = ProvDocument.deserialize(content=made.decode(), format="json")
    assert f"record:{mesh.job.run}" in {str(each.identifier) for each in document.get_records()}


async def test_openlineage_events_are_read_by_its_own_client(tmp_path: Path) -> None:
    async with filled(tmp_path) as mesh:
        lines = (await mesh.export("openlineage", mesh.job.output)).splitlines()
        seen = mesh.summary["records"]

    events = [checked(json.loads(line)) for line in lines]
    ended = {each["run"]["facets"]["covey"]["record"]: each for each in events[1::2]}
    assert seen - 2 == len(ended), "all but the environment and the hardware"
    for start, end in zip(events[::2], events[1::2], strict=True):
        assert start["run"] == end["run"]
        assert (start["eventType"], end["eventType"]) == ("START", "COMPLETE")
        assert start["eventTime"] <= end["eventTime"]
    run, accepted = ended[str(mesh.job.run)], ended[str(mesh.job.accepted)]
    assert run["job"] == {"namespace": f"urn:covey:peer:{key_of(1).peer_id}", "name": "job.run"}
    assert [each["name"] for each in run["outputs"]] == [str(mesh.job.output)]
    roles = {each["name"]: each["facets"]["covey"]["roles"] for each in run["inputs"]}
    assert roles[str(mesh.job.environment)] == ["environment"]
    informers = [ended[str(cid)]["run"]["runId"] for cid in (mesh.job.submitted, mesh.job.run)]
    assert accepted["run"]["facets"]["covey"]["informedBy"] == informers


def checked(told: dict[str, Any]) -> dict[str, Any]:
    """Return what the client's own classes take, which check what they are given."""
    built = {**told, "eventType": RunState(told["eventType"]), "run": Run(**told["run"])}
    assert built.pop("schemaURL") == RunEvent._get_schema()
    built["job"] = Job(**told["job"])
    built["inputs"] = [InputDataset(**each) for each in told["inputs"]]
    built["outputs"] = [OutputDataset(**each) for each in told["outputs"]]
    RunEvent(**built)
    return told


@pytest.mark.parametrize(("status", "ends"), [("cancelled", "ABORT"), ("error", "FAIL")])
def test_how_a_run_ended_is_told_in_openlineages_words(status: str, ends: str) -> None:
    author = Author(key_of(1))
    author.add("job.run", status=status)

    part, seen = part_of(author.cut()), set[CID]()
    events = list(openlineage.events(part, seen))

    assert [checked(each)["eventType"] for each in events] == ["START", ends]
    assert list(openlineage.events(part, seen)) == [], "a record that stands twice is one run"


def test_a_run_that_no_calendar_holds_is_told_all_the_same() -> None:
    author = Author(key_of(1))
    start_us = 1 << 62
    record = Record(author=author.key.public, nonce=b"", kind="job.run", start_us=start_us)
    author.records.append(record)

    events = [checked(each) for each in openlineage.events(part_of(author.cut()), set())]

    assert [each["eventTime"][:4] for each in events] == ["1970", "1970"]
    assert events[0]["run"]["facets"]["covey"]["startUs"] == start_us


async def test_in_toto_attestations_hold_in_the_hands_of_others(tmp_path: Path) -> None:
    """Signatures by ``securesystemslib``, form by the messages of ``in-toto-attestation``."""
    async with filled(tmp_path) as mesh:
        lines = (await mesh.export("in-toto", mesh.job.output)).splitlines()
        signer = mesh.answers.identity.peer_id

    key = ed25519(signer)
    statements = [json.loads(_verified(json.loads(line), key)) for line in lines]
    for told in statements:
        parsed = json_format.ParseDict(told, statement_pb2.Statement())
        Statement.copy_from_pb(parsed).validate()
        json_format.ParseDict(told["predicate"], provenance_pb2.Provenance())

    run = next(s for s in statements if "job.run" in s["predicate"]["buildDefinition"]["buildType"])
    predicate = run["predicate"]
    assert {s["subject"][0]["name"] for s in statements} == {"model", "input", "output"}
    assert run["subject"] == [
        {
            "name": "output",
            "uri": f"ipfs://{mesh.job.output}",
            "digest": {"sha256": mesh.job.output.digest.hex()},
        }
    ]
    assert predicate["runDetails"]["builder"]["id"].endswith(key_of(1).peer_id)
    assert predicate["runDetails"]["metadata"]["invocationId"].endswith(str(mesh.job.run))
    assert [each["name"] for each in predicate["buildDefinition"]["resolvedDependencies"]] == [
        "model", "input", "environment", "hardware",
    ]  # fmt: skip


async def test_the_authors_own_signature_goes_along_as_a_dsse_envelope(tmp_path: Path) -> None:
    async with filled(tmp_path) as mesh:
        line = (await mesh.export("in-toto", mesh.job.output)).splitlines()[0]
    statement = json.loads(base64.b64decode(json.loads(line)["payload"]))
    (header,) = statement["predicate"]["runDetails"]["byproducts"]

    envelope = {
        "payload": header["content"],
        "payloadType": header["mediaType"],
        "signatures": [header["annotations"]],
    }

    _verified(envelope, ed25519(header["annotations"]["keyid"]))


async def test_a_changed_attestation_is_refused_by_the_verifier_from_outside(
    tmp_path: Path,
) -> None:
    async with filled(tmp_path) as mesh:
        envelope = json.loads((await mesh.export("in-toto", mesh.job.output)).splitlines()[0])
        key = ed25519(mesh.answers.identity.peer_id)
    payload = bytearray(base64.b64decode(envelope["payload"]))
    payload[-5] ^= 1
    envelope["payload"] = base64.b64encode(payload).decode()

    with pytest.raises(VerificationError):
        _verified(envelope, key)


def ed25519(peer_id: str) -> SSlibKey:
    return SSlibKey(peer_id, "ed25519", "ed25519", {"public": public_key_of(peer_id).hex()})


def _verified(envelope: dict[str, Any], key: SSlibKey) -> bytes:
    opened_envelope = Envelope.from_dict(envelope)
    opened_envelope.verify([key], 1)
    return opened_envelope.payload


async def test_damaged_bytes_are_left_out_of_an_export_and_are_a_fault_of_verify(
    tmp_path: Path,
) -> None:
    async with filled(tmp_path) as mesh:
        before = await mesh.answers.verify(str(mesh.job.run), is_deep=True)
        journal = segment_of(mesh.answers.journal.path)
        content = bytearray(journal.read_bytes())
        content[content.index(b"3.11.7")] ^= 1
        journal.write_bytes(content)  # under the open journal: the disk rots
        file = await mesh.export("car", mesh.job.output)
        after = await mesh.answers.verify(str(mesh.job.run), is_deep=True)
        near = await mesh.answers.verify(str(mesh.job.submitted), is_deep=False)

    assert before["ok"]
    assert before["records"] == 6
    assert str(mesh.job.run) in mesh.summary["unproven"]
    left = verify_excerpt(io.BytesIO(file).read)
    assert left.is_good, "what is left holds"
    assert mesh.job.run in left.missing, "it was asked for, and nobody can show it here"
    assert not after["ok"]
    assert any(f"record {mesh.job.run}: its signed bytes" in fault for fault in after["faults"])
    assert near["ok"]
    assert near["records"] == 1


async def test_without_deep_only_the_nearest_records_are_checked(tmp_path: Path) -> None:
    async with filled(tmp_path) as mesh:
        near = await mesh.answers.verify(str(mesh.job.output), is_deep=False)

    assert near["ok"]
    assert near["records"] == 2, "who made the output, and who accepted it"
    assert near["missing"] == []
    assert near["left_out"] == 3


async def test_a_fork_is_exported_whole(tmp_path: Path) -> None:
    home, identity, effects = aggregator_home(tmp_path)
    branches = [Author(key_of(1)), Author(key_of(1))]
    for number, author in enumerate(branches):
        author.add("first", attributes={"branch": number})
        author.add("second", attributes={"branch": number})
    async with opened(home, identity, effects) as answers:
        await answers.feeds.add_all(author.cut() for author in branches)
        out = io.BytesIO()
        await answers.export("car", None, "", out)
    out.seek(0)

    verdict = verify_excerpt(out.read)

    assert verdict.is_good
    assert verdict.records == 4
    assert verdict.forked == {key_of(1).peer_id}


async def test_what_cannot_be_exported_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(car, "MAX_EXCERPT_RECORDS", 3)
    monkeypatch.setattr(prov_json, "MAX_DOCUMENT_RECORDS", 3)
    async with filled(tmp_path) as mesh:
        for form in ("car", "prov-json"):
            with pytest.raises(CoveyError, match="more than 3 records") as caught:
                await mesh.export(form)
            assert caught.value.code == "too-many"
        with pytest.raises(NotFoundError):
            await mesh.export("car", CID.of(b"nobody"))
        with pytest.raises(CoveyError, match="no moment"):
            await mesh.export("car", since="yesterday")
        with pytest.raises(CoveyError, match="no export format"):
            await mesh.export("pdf")


def test_each_format_is_a_file_and_a_line() -> None:
    folder = Path(excerpts.__file__).with_name("exports")
    modules = {f"peer.exports.{path.stem}" for path in folder.glob("*.py")} - {
        "peer.exports.__init__"
    }

    assert {form.module for form in FORMATS.values()} == modules
    assert all(callable(writer(name)) for name in FORMATS)


async def test_the_daemon_streams_an_export_and_tells_an_error_before_the_first_byte(
    tmp_path: Path,
) -> None:
    async with filled(tmp_path) as mesh:
        app = Api(mesh.answers, Metrics(), Surroundings).control()
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://covey") as client:
            given = await client.get("/export/car", params={"lineage": str(mesh.job.output)})
            refused = await client.get("/export/car", params={"lineage": str(CID.of(b"nobody"))})
            near = await client.get(f"/verify/{mesh.job.output}", params={"deep": "false"})
            deep = await client.get(f"/verify/{mesh.job.output}", params={"deep": "true"})
        left = [path.name for path in tmp_path.iterdir() if path.suffix == ".part"]

    summary = json.loads(given.headers[SUMMARY_HEADER])
    assert verify_excerpt(io.BytesIO(given.content).read).is_good
    assert summary["bytes"] == len(given.content)
    assert refused.status_code == 404
    assert refused.json()["error"]["code"] == "unknown-cid"
    assert (near.json()["records"], deep.json()["records"]) == (2, 6)
    assert left == []


async def test_an_index_that_points_at_other_bytes_is_not_believed(tmp_path: Path) -> None:
    home, identity, effects = aggregator_home(tmp_path)
    async with opened(home, identity, effects) as answers:
        one, other = [
            await answers.feeds.append(
                Record(author=identity.key.public, nonce=nonce, kind="tick", start_us=LATER_US)
            )
            for nonce in (b"one", b"other")
        ]
        await answers.feeds.cut_all()
        await answers.index.catch_up()
        point = "UPDATE records SET place = (SELECT place FROM records WHERE cid = ?) WHERE cid = ?"
        await answers.index.ask(lambda store: store._tables.run(point, other, one))
        checked = await answers.verify(str(one), is_deep=False)
        out = io.BytesIO()
        summary = await answers.export("car", None, "", out)
    out.seek(0)

    assert checked["faults"][0].startswith(f"record {one}: its signed bytes")
    assert summary["unproven"] == [str(one)]
    assert verify_excerpt(out.read).is_good
