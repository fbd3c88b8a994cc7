"""Workers that have nothing but an upstream, in a mesh; and an upstream over real HTTP."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from node.backends import Backends
from node.config import Upstream as Options
from node.manifest import ModelError
from node.models import ModelStore
from node.run_request import RunRequest
from node.runner.kinds import embed, generate
from node.runners import RunnerPool
from node.upstream.client import UpstreamClient
from node.upstream.models import PRECISION
from node.upstream.pool import Upstream
from peer.effects import system_effects
from protocols.errors import JobFailed
from tests.support.jobs import MODEL, JobMesh, JobNode, spec
from tests.support.openai_server import FakeOpenAi, MemoryServer, OpenAiServer, error
from tests.support.runners import model_of
from tests.support.transports import until

OPTIONS = Options("http://up.example/v1", models=(f"{MODEL}=vectors",), embeddings=(MODEL,))
TEXTS = ["my secret text", "another"]


def backends(folder: Path, upstream: Upstream) -> Backends:
    store = ModelStore(folder / "models")
    return Backends(store, RunnerPool(store, system_effects()), upstream)


def a_worker(mesh: JobMesh, folder: Path, upstream: Upstream) -> JobNode:
    both, offered = backends(folder, upstream), model_of(MODEL, precisions=(PRECISION,))
    return mesh.add("worker", runners=both, models=both, model=offered)  # type: ignore[arg-type] # as the daemon


@asynccontextmanager
async def in_use(*pairs: tuple[FakeOpenAi, Upstream]) -> AsyncGenerator[None]:
    async def unchanged() -> None:
        pass

    async with trio.open_nursery() as nursery:
        for fake, upstream in pairs:
            http = httpx.AsyncClient(transport=MemoryServer(fake), base_url=OPTIONS.url)
            nursery.start_soon(upstream.use, UpstreamClient(http), unchanged)
        await wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()


async def test_its_jobs_are_recorded_as_an_upstreams(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh, fake, upstream = JobMesh(), FakeOpenAi(), Upstream(OPTIONS, "", "12D3KooWPeer")
    submitter = mesh.add("submitter")
    worker = a_worker(mesh, tmp_path, upstream)

    async with mesh.running(), in_use((fake, upstream)):
        job = spec(input=embed.encode_input(TEXTS), items=2)
        result = await submitter.submitter.run(job)
        model = upstream.models[MODEL]

    (run,) = worker.recorder.of_kind("job.run")
    assert np.array_equal(embed.array(result.output)[:, 0], [14, 7])
    assert (model.cid, "model") in run.used
    assert (run.attributes["backend"], run.attributes["precision"]) == ("openai", "upstream")
    assert result.execution["upstream_model"] == "vectors"
    assert not worker.recorder.reports


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
async def test_another_worker_does_what_an_upstream_could_not(
    autojump_clock: MockClock, tmp_path: Path, status: int
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    fakes = [FakeOpenAi(), FakeOpenAi()]
    upstreams = [Upstream(OPTIONS, "", f"12D3KooWPeer{number}") for number in range(2)]
    workers = [a_worker(mesh, tmp_path, upstream) for upstream in upstreams]

    async with mesh.running(), in_use(*zip(fakes, upstreams, strict=True)):
        fakes[0].faults["embeddings"] = lambda: error(status, TEXTS[0])
        content = embed.encode_input(TEXTS)
        for number in range(1, 50):
            result = await submitter.submitter.run(spec(number, input=content, items=2))
            if workers[0].recorder.reports:  # it was asked first, for once
                break

    assert (result.worker, result.attempts) == (workers[1].peer_id, 2)
    assert len(workers[0].recorder.reports) == 1
    assert not workers[1].recorder.reports
    _holds_nothing_private(submitter, *workers)


async def test_what_an_upstream_refuses_is_the_jobs_own_and_tried_nowhere_else(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    upstreams = [Upstream(OPTIONS, "", f"12D3KooWPeer{number}") for number in range(2)]
    workers = [a_worker(mesh, tmp_path, upstream) for upstream in upstreams]
    fakes = [FakeOpenAi(), FakeOpenAi()]

    async with mesh.running(), in_use(*zip(fakes, upstreams, strict=True)):
        for fake in fakes:
            fake.faults["embeddings"] = lambda: error(400, f"cannot take {TEXTS[0]!r}")
        with pytest.raises(JobFailed) as caught:
            await submitter.submitter.run(spec(input=embed.encode_input(TEXTS), items=2))

    assert caught.value.code == "upstream-refused"
    assert TEXTS[0] in caught.value.message, "its submitter may know"
    assert sum(len(worker.recorder.reports) for worker in workers) == 1
    _holds_nothing_private(submitter, *workers)


def _holds_nothing_private(*nodes: JobNode) -> None:
    for node in nodes:
        written = b"".join(record.encode() for record in node.recorder.records)
        assert b"secret" not in written
        assert b"up.example" not in written


async def test_an_installed_model_wins_and_a_missing_one_is_missing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    options = Options("http://up/v1", models=("noop=chatty", "a/b=chatty"))
    upstream = Upstream(options, "", "12D3KooWPeer")
    both = backends(tmp_path, upstream)
    ModelStore(tmp_path / "models").add("noop")

    async with in_use((FakeOpenAi(), upstream)):
        models, _ = both.scan()

        assert [(model.name, model.backend) for model in models] == [
            ("noop", ""),
            ("a/b", "openai"),
        ]
        assert both.get("noop").kind == "bench.noop"
        assert both.get("a/b").kind == "generate"
    for name in ("gone", "a/gone"):
        with pytest.raises(ModelError):
            both.get(name)


# Over HTTP


@asynccontextmanager
async def served(options: Options, token: str = "") -> AsyncGenerator[Upstream]:
    upstream = Upstream(options, token, "12D3KooWPeer")

    async def unchanged() -> None:
        pass

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(upstream.serve, unchanged)
            yield upstream
            nursery.cancel_scope.cancel()


def told(upstream: Upstream) -> str:
    return str((upstream.status() or {})["reason"])


def asked(text: str) -> RunRequest:
    content = generate.encode_input([[{"role": "user", "content": text}]])
    return RunRequest("chatty", "generate", "upstream", content)


async def test_real_connections_are_used_again_and_end_with_a_cancelled_job() -> None:
    fake, pieces = FakeOpenAi(token="word"), []
    with OpenAiServer(fake) as server:
        async with served(Options(server.url), "word") as upstream:
            await until(lambda: "chatty" in upstream.models)
            model = upstream.models["chatty"]
            for _ in range(3):
                outcome = await upstream.run(model, asked("one two"), print, pieces.append)
            fake.pause_after, connections = 1, server.connections
            pieces.clear()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(upstream.run, model, asked("one two"), print, pieces.append)
                await until(lambda: bool(pieces))
                nursery.cancel_scope.cancel()
            gone = await trio.to_thread.run_sync(fake.given_up.wait, 10)

    assert [row["text"] for row in generate.rows(outcome.output)] == ["ONE TWO "]
    assert connections == 1
    assert gone


async def test_a_server_that_is_not_there_is_down() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        async with served(Options(url)) as upstream:
            await until(lambda: "Connection refused" in told(upstream))

            assert "127.0.0.1" not in told(upstream)


@pytest.mark.parametrize("greeting", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\nX", b""])
async def test_a_server_of_another_protocol_is_down(greeting: bytes) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if greeting:
            await stream.send_all(greeting)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, speak, 0)
        port = listeners[0].socket.getsockname()[1]
        async with served(Options(f"http://127.0.0.1:{port}/v1")) as upstream:
            await until(lambda: "makes no sense" in told(upstream))
        nursery.cancel_scope.cancel()
