import random
from collections import Counter
from dataclasses import replace

import msgspec
import pytest
import trio

from node.doubts import OUTVOTED
from node.needs import JobNeeds, stated_speed
from node.placement import Candidate, Choice, explain, order
from node.requirements import Requirements
from protocols.advert import sign_advert
from protocols.job import Refuse
from tests.support.jobs import MODEL, JobMesh

NEEDS = JobNeeds("embed", MODEL)


def test_the_first_place_goes_to_peers_by_their_share_of_speed() -> None:
    rng = random.Random(1)
    considered = [Candidate("slow", 1.0), Candidate("mid", 3.0), Candidate("fast", 6.0)]

    first = Counter(order(considered, rng)[0] for _ in range(4_000))

    assert first["slow"] / 4_000 == pytest.approx(0.1, abs=0.03)
    assert first["mid"] / 4_000 == pytest.approx(0.3, abs=0.03)
    assert first["fast"] / 4_000 == pytest.approx(0.6, abs=0.03)


def test_everyone_who_will_do_is_in_the_order_once_and_nobody_else() -> None:
    considered = [Candidate("a", 5.0), Candidate("b", 1e8), Candidate("no", 9.0, "has no model")]

    assert sorted(order(considered, random.Random(2))) == ["a", "b"]


def test_a_last_resort_comes_behind_all_others_however_fast_it_is() -> None:
    failing = Candidate("failing", 1e9, "failed 3 times in a row", is_last_resort=True)
    considered = [failing, Candidate("a", 5.0), Candidate("no", 9.0, "has no model")]

    assert order(considered, random.Random(2)) == ["a", "failing"]
    assert Choice(considered, ["a", "failing"], 3).last_resorts == {"failing"}
    assert Choice([failing], ["failing"], 1).last_resorts == frozenset(), "it is the first, then"


async def test_who_is_considered_and_why_not() -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker", speed=7.0)
    mesh.introduce()
    await trio.lowlevel.checkpoint()

    def reason(needs: JobNeeds) -> str | None:
        choice = submitter.placement.choose(needs, 0.0)
        (candidate,) = choice.considered
        assert choice.peers == ([] if candidate.reason else [worker.peer_id])
        return candidate.reason

    (candidate,) = submitter.placement.choose(NEEDS, 0.0).considered
    assert candidate == Candidate(worker.peer_id, 7.0, basis="advert 7 GFLOP/s")
    assert reason(JobNeeds("embed", "other")) == "has no model other"
    assert reason(JobNeeds("generate", MODEL)) == "runs minilm as embed, not generate"
    assert reason(JobNeeds("embed", MODEL, "bf16")) is None
    assert reason(JobNeeds("embed", MODEL, "int4")) == "runs minilm in fp32, bf16 only"
    needs = JobNeeds("embed", MODEL, requirements=Requirements(min_speed=8.0))
    assert reason(needs) == "computes 7 GFLOP/s, not 8"
    assert reason(JobNeeds("embed", MODEL, peer="nobody")) == "is not known here"
    assert reason(JobNeeds("embed", MODEL, peer=submitter.peer_id)) == (
        "has no current advert as a worker"
    )


async def test_a_worker_that_still_measures_says_so() -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker")
    mesh.introduce()
    advert = msgspec.structs.replace(worker.advert().advert, hardware=None, models=(), sequence=2)
    submitter.directory.learn(sign_advert(worker.key, advert, worker.membership))

    (candidate,) = submitter.placement.choose(NEEDS, 0.0).considered

    assert candidate.reason is not None
    assert "still measures" in candidate.reason


@pytest.mark.parametrize("stated", [None, 0, -1.0, float("inf"), float("nan"), "fast", 1e12])
async def test_a_speed_that_is_none_counts_as_unmeasured(stated: object) -> None:
    mesh = JobMesh()
    advert = mesh.add("worker").advert().advert
    advert.capabilities["matmul_gflops"] = stated

    assert stated_speed(advert, "embed") is None


def test_the_explanation_names_what_was_looked_for_and_each_reason() -> None:
    considered = [Candidate("a", 1.0), Candidate("b", 1.0, "has no model m"), Candidate("c", 1.0)]
    refusals = {"a": Refuse(b"j" * 16, 1, "busy", "much to do")}

    told = explain(JobNeeds("embed", "m", "auto", "a"), considered, refusals)

    assert told == (
        "looked for kind embed, model m, precision auto at a; "
        "a: busy (much to do); b: has no model m; c: was not asked"
    )
    assert explain(NEEDS, []).endswith("no worker is known")


async def test_another_model_of_the_same_name_will_not_do() -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker")
    mesh.introduce()
    await trio.lowlevel.checkpoint()
    offer = submitter.placement.offer_of(worker.peer_id, MODEL)
    assert offer is not None

    same = submitter.placement.choose(replace(NEEDS, model_cid=bytes(offer.cid)), 0)
    other = submitter.placement.choose(replace(NEEDS, model_cid=b"another"), 0)

    assert same.peers == [worker.peer_id]
    assert other.peers == []
    assert other.considered[0].reason == f"has another model of the name {MODEL}"
    assert submitter.placement.offer_of("nobody", MODEL) is None


async def test_who_is_excluded_is_never_asked_however_few_there_are() -> None:
    mesh = JobMesh()
    submitter, one, other = mesh.add("submitter"), mesh.add("worker"), mesh.add("worker")
    mesh.introduce()
    await trio.lowlevel.checkpoint()

    def peers(*excluded: str) -> list[str]:
        needs = replace(NEEDS, excluded=frozenset(excluded))
        return submitter.placement.choose(needs, 0.0).peers

    assert peers(one.peer_id) == [other.peer_id]
    assert peers(one.peer_id, other.peer_id) == []
    assert sorted(peers()) == sorted([one.peer_id, other.peer_id]), "only for that job"


async def test_a_doubted_peer_is_asked_where_there_is_no_other() -> None:
    mesh = JobMesh()
    submitter, worker = mesh.add("submitter"), mesh.add("worker")
    mesh.introduce()
    await trio.lowlevel.checkpoint()
    submitter.placement.doubt(worker.peer_id, MODEL, OUTVOTED, 0.0)

    assert all(submitter.placement.choose(NEEDS, 0.0).peers for _ in range(50))
