from __future__ import annotations

from itertools import pairwise

import pytest

from aggregator.cli.lineage import hardware_line
from aggregator.errors import NotFoundError
from aggregator.explain import explain
from aggregator.lineage import MAX_GENERATORS, Missing, trace
from protocols.keys import peer_id_of
from tests.support.graph import OTHER, SUBMITTER, WORKER, Graph, OneJob, entity


def test_the_lineage_of_an_output_holds_the_records_of_both_peers() -> None:
    job = OneJob(Graph())

    closure = trace(job.graph, job.output)

    assert set(closure.records) == job.records
    assert closure.missing == []
    assert not closure.is_cut


def test_the_nearest_records_come_first() -> None:
    job = OneJob(Graph())

    closure = trace(job.graph, job.output)

    assert list(closure.records)[:2] == [job.run, job.accepted]


def test_the_lineage_of_a_record_is_that_of_what_it_made() -> None:
    job = OneJob(Graph())

    closure = trace(job.graph, job.run)

    assert closure.is_record
    assert set(closure.records) == job.records


def test_an_unknown_cid_is_refused_with_a_hint() -> None:
    with pytest.raises(NotFoundError) as caught:
        trace(Graph(), entity("nothing"))

    assert caught.value.code == "unknown-cid"
    assert caught.value.hint


def test_a_worker_whose_hardware_record_has_not_arrived_has_it_listed_as_missing() -> None:
    job = OneJob(Graph())

    closure = trace(job.graph.without(job.hardware), job.output)

    assert closure.missing == [Missing(job.hardware, "hardware", job.run)]
    assert set(closure.records) == job.records - {job.hardware}


def test_an_input_whose_submission_has_not_arrived_is_listed_as_missing() -> None:
    job = OneJob(Graph())

    closure = trace(job.graph.without(job.submitted), job.output)

    assert Missing(job.input, "input", job.run) in closure.missing
    assert Missing(job.submitted, "informed_by", job.accepted) in closure.missing


def test_an_output_whose_worker_has_not_been_heard_shows_who_accepted_it() -> None:
    job = OneJob(Graph())

    closure = trace(job.graph.without(job.run), job.output)

    assert closure.first("job.accepted") is not None
    assert closure.missing == [
        Missing(job.output, "output", job.accepted),
        Missing(job.run, "informed_by", job.accepted),
    ]


def test_what_is_missing_under_several_names_is_listed_once() -> None:
    graph = Graph()
    graph.record("job.run", WORKER, used={"input": entity("x")}, generated={"output": entity("y")})
    user = graph.record("job.run", WORKER, used={"other": entity("x"), "output": entity("y")})

    closure = trace(graph, user)

    assert [missing.cid for missing in closure.missing] == [entity("x")]


def test_other_workers_that_have_the_same_model_stay_out() -> None:
    graph = Graph()
    graph.record("model.registered", OTHER, generated={"model": entity("MiniLM")}, name="minilm")
    job = OneJob(graph)

    closure = trace(graph, job.output)

    assert set(closure.records) == job.records


def test_another_job_over_the_same_input_stays_out() -> None:
    graph = Graph()
    job = OneJob(graph)
    graph.record("job.submitted", OTHER, generated={"input": job.input}, job_id=b"k" * 16)

    closure = trace(graph, job.output)

    assert set(closure.records) == job.records


def test_a_model_that_only_others_registered_shows_them_up_to_a_limit() -> None:
    graph = Graph()
    job = OneJob(graph)
    for number in range(MAX_GENERATORS + 5):
        peer = bytes([number]) * 32
        graph.record("model.registered", peer, generated={"model": job.model}, name="minilm")

    closure = trace(graph.without(job.registered), job.output)

    registrations = [r for r in closure.records.values() if r.kind == "model.registered"]
    assert len(registrations) == MAX_GENERATORS


def test_a_model_registered_twice_by_its_worker_shows_the_last_before_the_job() -> None:
    graph = Graph()
    graph.record("model.registered", WORKER, generated={"model": entity("MiniLM")}, name="minilm")
    job = OneJob(graph)
    graph.record("model.registered", WORKER, generated={"model": entity("MiniLM")}, name="minilm")

    closure = trace(graph, job.output)

    assert set(closure.records) == job.records


def test_a_chain_of_jobs_is_followed_to_its_beginning() -> None:
    graph = Graph()
    made = [entity(f"stage {number}") for number in range(6)]
    for given, result in pairwise(made):
        graph.record("job.run", WORKER, used={"input": given}, generated={"output": result})

    closure = trace(graph, made[-1])

    assert len(closure.records) == 5
    assert [(m.cid, m.what) for m in closure.missing] == [(made[0], "input")]


@pytest.mark.parametrize("bound", [{"depth": 2}, {"limit": 2}])
def test_a_lineage_past_a_limit_is_cut_and_says_so(bound: dict[str, int]) -> None:
    graph = Graph()
    made = [entity(f"stage {number}") for number in range(6)]
    for given, result in pairwise(made):
        graph.record("job.run", WORKER, used={"input": given}, generated={"output": result})

    closure = trace(graph, made[-1], **bound)

    assert closure.is_cut
    assert len(closure.records) == 2


def test_records_that_point_at_each_other_end_the_walk() -> None:
    graph = Graph()
    one, two = entity("one"), entity("two")
    graph.record("job.run", WORKER, used={"input": two}, generated={"output": one})
    graph.record("job.run", WORKER, used={"input": one}, generated={"output": two})

    closure = trace(graph, one)

    assert len(closure.records) == 2
    assert not closure.is_cut


def test_the_order_of_arrival_does_not_change_a_lineage() -> None:
    job = OneJob(Graph())
    backwards = Graph()
    backwards.rows = job.graph.rows[::-1]
    backwards.links = job.graph.links[::-1]

    assert trace(backwards, job.output) == trace(job.graph, job.output)


def test_the_answer_names_what_made_the_output() -> None:
    job = OneJob(Graph())
    closure = trace(job.graph, job.output)

    answer = explain(closure, dict.fromkeys(closure.records, True))

    assert answer["verified"]
    assert answer["kind"] == "output"
    assert answer["outputs"] == [str(job.output)]
    assert answer["model"]["name"] == "minilm"
    assert answer["model"]["cid"] == str(job.model)
    assert answer["input"] == str(job.input)
    assert answer["worker"] == peer_id_of(WORKER)
    assert answer["submitter"] == peer_id_of(SUBMITTER)
    assert answer["execution"]["items"] == 3
    assert answer["software"] == {
        "cid": str(job.environment), "python": "3.11.7", "torch": "2.13.0",
    }  # fmt: skip
    assert answer["hardware"]["cores"] == 2
    assert {record["cid"] for record in answer["records"]} == set(map(str, job.records))


def test_hardware_is_told_as_people_say_it() -> None:
    told = hardware_line(
        {
            "cid": "bafy",
            "cpu_model": "EPYC 7763",
            "usable_cores": 8,
            "logical_cores": 64,
            "memory_total_bytes": 67_500_000_000,
            "measured_at_us": 1_790_000_000_000_000,
            "accelerators": [
                {"backend": "cuda", "name": "H100", "memory_bytes": 85_000_000_000},
                {"backend": "cuda", "name": "H100", "memory_bytes": 85_000_000_000},
            ],
        }
    )

    assert told == "EPYC 7763, 8 cores, 67.5 GB, 2 x H100 (cuda, 85.0 GB)"
    assert hardware_line({"cid": "bafy", "cores": 2}) == "2 cores"
    assert hardware_line({"cid": "bafy", "accelerators": "odd", "cpu_model": 7}) == "bafy"


def test_one_record_without_proof_makes_the_whole_answer_unverified() -> None:
    job = OneJob(Graph())
    closure = trace(job.graph, job.output)

    answer = explain(closure, dict.fromkeys(closure.records, True) | {job.submitted: False})

    assert not answer["verified"]
    unproven = [record["kind"] for record in answer["records"] if not record["verified"]]
    assert unproven == ["job.submitted"]


def test_the_answer_for_a_model_names_it() -> None:
    job = OneJob(Graph())
    closure = trace(job.graph, job.model)

    answer = explain(closure, {})

    assert answer["kind"] == "model"
    assert answer["model"]["cid"] == str(job.model)
    assert answer["worker"] is None
    assert SUBMITTER not in {row.feed for row in closure.records.values()}


def test_strangers_and_lost_attempts_do_not_pass_for_the_worker_or_the_submitter() -> None:
    graph = Graph()
    graph.record("job.submitted", OTHER, generated={"input": entity("input " + "6a" * 16)})
    graph.record(
        "job.run",
        OTHER,
        generated={"output": entity("output " + "6a" * 16)},
        model="evil",
        submitter=peer_id_of(OTHER),
    )
    job = OneJob(graph)

    answer = explain(trace(graph, job.output), {})

    assert answer["worker"] == peer_id_of(WORKER)
    assert answer["submitter"] == peer_id_of(SUBMITTER)
    assert answer["model"]["name"] == "minilm"


def test_a_run_that_verified_or_came_before_is_not_told_to_have_made_what_another_did() -> None:
    graph = Graph()
    job = OneJob(graph)
    other = graph.record(
        "job.run",
        OTHER,
        used={"model": job.model, "input": job.input},
        generated={"output": entity("the same again")},
        submitter=peer_id_of(SUBMITTER),
    )
    graph.record(
        "job.verified", SUBMITTER, used={"output": job.output}, informed_by=(job.run, other)
    )

    answer = explain(trace(graph.without(job.run), job.output), {})

    assert [each["kind"] for each in answer["records"]].count("job.run") == 1, "it is listed"
    assert answer["worker"] is answer["hardware"] is answer["execution"] is None
    assert answer["outputs"] == []
