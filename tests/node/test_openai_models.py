from __future__ import annotations

from trio.testing import MockClock

from protocols.advert import LIFETIME_MS, Advert, ModelOffer, sign_advert
from protocols.cid import CID
from tests.support.api import a_pair, serving
from tests.support.jobs import HARDWARE, JobMesh, JobNode
from tests.support.members import key_of

NUMBER = 77


def introduce(
    mesh: JobMesh, node: JobNode, *, model: str, kind: str, is_measured: bool = True
) -> None:
    """Let ``node`` hear of one more worker."""
    key = key_of(NUMBER)
    membership = mesh.mesh.membership(key, "worker")
    offer = ModelOffer(model, CID.of(model.encode()), kind, ("int4",))
    advert = Advert(
        version=1,
        peer=key.public,
        boot=1,
        sequence=1,
        lifetime_ms=LIFETIME_MS,
        addresses=(),
        roles=("worker",),
        hardware=HARDWARE if is_measured else None,
        capabilities={},
        models=(offer,) if is_measured else (),
        software="covey 0",
    )
    node.directory.learn(sign_advert(key, advert, membership))


async def test_the_models_of_the_mesh_are_listed_by_name(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()
    mesh.add("worker")

    async with mesh.running(), serving(submitter) as api:
        introduce(mesh, submitter, model="org/chat", kind="generate")
        answer = (await api.client.get("/v1/models")).json()
        shown = (await api.client.get("/v1/models/org/chat")).json()

    assert answer["object"] == "list"
    assert [model["id"] for model in answer["data"]] == ["minilm", "org/chat"]
    minilm, chat = answer["data"]
    assert {key: minilm[key] for key in ("object", "created", "owned_by")} == {
        "object": "model",
        "created": 0,
        "owned_by": "covey",
    }
    assert (minilm["workers"], minilm["kinds"]) == (2, ["embed"])
    assert minilm["precisions"] == ["bf16", "fp32"]
    assert shown == chat


async def test_a_model_that_is_not_there_is_not_found(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        response = await api.client.get("/v1/models/none")

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_a_worker_that_leaves_takes_its_models_with_it(autojump_clock: MockClock) -> None:
    mesh, submitter, worker = a_pair()

    async with mesh.running(), serving(submitter) as api:
        submitter.directory.forget(worker.peer_id)
        answer = (await api.client.get("/v1/models")).json()

    assert answer["data"] == []


async def test_a_model_of_another_kind_is_named(autojump_clock: MockClock) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        introduce(mesh, submitter, model="chat", kind="generate")
        response = await api.embed("one", model="chat")

    assert response.status_code == 400
    assert response.json()["error"]["message"] == "chat is a model for generate, not for embed"


async def test_while_a_worker_still_measures_an_unknown_model_may_come(
    autojump_clock: MockClock,
) -> None:
    mesh, submitter, _ = a_pair()

    async with mesh.running(), serving(submitter) as api:
        introduce(mesh, submitter, model="soon", kind="embed", is_measured=False)
        response = await api.embed("one", model="soon")

    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
