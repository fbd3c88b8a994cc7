"""The mapping, and its documents in the hands of the ``prov`` package and of W3C's schema."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from prov.graph import prov_to_graph
from prov.model import ProvAgent, ProvDocument, ProvEntity

from peer.exports.prov_json import moment
from protocols.cid import CID
from protocols.keys import peer_id_of
from protocols.prov import document
from protocols.record import Record
from tests.support.excerpts import a_job, part_of
from tests.support.home import Author
from tests.support.members import key_of


def schema() -> Any:
    """The W3C member submission's, as the ``prov`` package ships it."""
    return json.loads((files("prov") / "tests/schemas/prov-json.schema.json").read_text())


def check(made: dict[str, Any]) -> ProvDocument:
    """Check a document against the schema and load it."""
    jsonschema.Draft4Validator(schema()).validate(made)
    return ProvDocument.deserialize(content=json.dumps(made), format="json")


def test_the_schema_refuses_what_is_wrong() -> None:
    made = document(a_job()[1], moment)
    made["used"]["_:used1"].pop("prov:entity")

    with pytest.raises(jsonschema.ValidationError):
        check(made)


def test_a_job_is_the_same_graph_in_the_prov_package() -> None:
    job, parts = a_job()

    graph = prov_to_graph(check(document(parts, moment)))

    edges = {
        (str(one.identifier), kind, str(other.identifier))
        for one, other, relation in graph.edges(data="relation")
        for kind in [relation.get_type().localpart]
    }
    run, submitted, accepted, registered = (
        f"record:{cid}" for cid in (job.run, job.submitted, job.accepted, job.registered)
    )
    worker, submitter = (f"peer:{key_of(number).peer_id}" for number in (1, 2))
    assert edges == {
        (run, "Usage", f"cid:{job.model}"),
        (run, "Usage", f"cid:{job.input}"),
        (run, "Usage", f"cid:{job.environment}"),
        (run, "Usage", f"cid:{job.hardware}"),
        (f"cid:{job.output}", "Generation", run),
        (f"cid:{job.model}", "Generation", registered),
        (f"cid:{job.input}", "Generation", submitted),
        (accepted, "Usage", f"cid:{job.output}"),
        (accepted, "Communication", submitted),
        (accepted, "Communication", run),
        (f"cid:{job.environment}", "Attribution", worker),
        (f"cid:{job.hardware}", "Attribution", worker),
        *((record, "Association", worker) for record in (run, registered)),
        *((record, "Association", submitter) for record in (submitted, accepted)),
    }


def test_times_roles_and_attributes_are_told() -> None:
    job, parts = a_job()
    made = document(parts, moment)

    run = made["activity"][f"record:{job.run}"]
    roles = {
        each["prov:entity"]: each["prov:role"]
        for each in made["used"].values()
        if each["prov:activity"] == f"record:{job.run}"
    }

    assert run["prov:startTime"].startswith("2026-")
    assert run["prov:type"] == "job.run"
    assert run["attribute:model"] == "minilm"
    assert run["covey:bundle"] == str(parts[0].proof.cid)
    assert roles == {
        f"cid:{job.model}": "model",
        f"cid:{job.input}": "input",
        f"cid:{job.environment}": "environment",
        f"cid:{job.hardware}": "hardware",
    }
    assert made["entity"][f"cid:{job.environment}"]["attribute:python"] == "3.11.7"


def test_attributes_that_prov_has_no_word_for_are_kept_as_json() -> None:
    author = Author(key_of(3))
    cid = author.add(
        "odd kind \u2603",
        attributes={
            "a b": 1, "nested": {"x": [1, CID.of(b"x")]}, "big": 1 << 60, "none": None,
            "fine": True, "bytes": b"\x01\x02", "ratio": 0.5, "": "",
        },
    )  # fmt: skip
    made = document([part_of(author.cut())], moment)
    told = made["activity"][f"record:{cid}"]

    check(made)

    assert json.loads(told["covey:attributes"]) == {
        "a b": 1, "nested": {"x": [1, str(CID.of(b"x"))]}, "big": 1 << 60, "none": None, "": "",
    }  # fmt: skip
    assert told["attribute:fine"] is True
    assert told["attribute:bytes"] == "0102"
    assert told["attribute:ratio"] == 0.5


def test_a_clock_that_no_calendar_holds_is_left_out() -> None:
    author = Author(key_of(3))
    author.records.append(
        Record(author=author.key.public, nonce=b"n", kind="x", start_us=(1 << 63) - 1)
    )
    made = document([part_of(author.cut())], moment)

    check(made)

    (activity,) = made["activity"].values()
    assert "prov:startTime" not in activity


def test_documents_of_two_exports_unify_into_one() -> None:
    _, parts = a_job()
    whole, one, other = (check(document(each, moment)) for each in (parts, parts[:1], parts[1:]))

    one.update(other)

    def things(made: ProvDocument) -> set[str]:
        return {
            str(each.identifier) for each in made.unified().get_records((ProvEntity, ProvAgent))
        }

    assert things(one) == things(whole)
    assert f"peer:{peer_id_of(key_of(1).public)}" in things(one)
