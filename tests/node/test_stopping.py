"""What still comes while a part of a node stops is let be: its nursery closes before it hears of
that.
"""

from __future__ import annotations

from typing import Any

import trio

from node.run_request import RunRequest
from node.runner_job import RunOutcome
from node.submitted_job import Listener
from peer.service import running
from protocols.errors import JobFailed
from protocols.transport.gossip import Gossip
from protocols.transport.upgrade import libp2p_keys
from tests.support.hostile import terms
from tests.support.jobs import JobMesh, spec
from tests.support.runners import FakeRunnerPool
from tests.support.transports import key, until
from tests.support.turns_between import when_exits

MB = 1 << 20


class SlowToStop(FakeRunnerPool):
    """Holds a job until it is cancelled, and a few turns longer."""

    async def run(self, *args: Any, **options: Any) -> RunOutcome:
        try:
            return await super().run(*args, **options)
        finally:
            with trio.CancelScope(shield=True):
                for _ in range(3):
                    await trio.lowlevel.checkpoint()


class FailsWhenStopped(FakeRunnerPool):
    """Tells the beginning of an output; its job fails when it is stopped."""

    async def run(
        self, request: RunRequest, on_progress: Any = None, on_piece: Any = None
    ) -> RunOutcome:
        on_piece(b"the beginning")
        self.running += 1
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            raise JobFailed("its runner was stopped", code="runner-stopped") from None
        raise AssertionError("it sleeps for ever")


async def never() -> None:
    raise AssertionError("it was begun")


async def no_stream(_peer: str, _protocol: str) -> Any:
    raise AssertionError("nobody opens streams")


async def test_what_outlives_a_job_is_left_out_when_the_sessions_have_stopped() -> None:
    node = JobMesh().add()

    async with running(node.sessions.run):
        pass
    node.sessions.start_soon(never)  # raises nothing: sessions that peers opened end later


async def test_what_outlives_a_job_is_left_out_when_the_last_session_has_ended() -> None:
    mesh = JobMesh()
    node, other = mesh.add(), mesh.add()
    mesh.introduce()

    async with running(node.transport.run, other.transport.run, other.sessions.run):
        await node.transport.dial(other.peer_id, other.transport.addresses)
        with when_exits("Sessions._carry", lambda: node.sessions.start_soon(never)):
            async with running(node.sessions.run):
                await node.sessions.open(other.peer_id)


async def test_an_offer_that_comes_when_a_worker_has_stopped_is_not_heard() -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=SlowToStop(hold=True))
    mesh.introduce()
    offer = terms(2).offer(1, 60_000, b"text")

    def come() -> None:
        worker.worker._on_message(worker.sessions.current(submitter.peer_id), offer)

    services = (submitter.transport.run, worker.transport.run, submitter.sessions.run)
    async with (
        running(*services, worker.sessions.run) as clients,
        running(worker.worker.run) as doing,
    ):
        clients.start_soon(submitter.submitter.run, spec())
        await until(lambda: bool(worker.runners.running))
        assert worker.sessions.current(submitter.peer_id)
        with when_exits("Worker._run_job", come):
            doing.cancel_scope.cancel()
            await until(lambda: not worker.runners.running)

    assert len(worker.runners.requests) == 1


async def test_a_job_that_fails_when_its_worker_stops_midway_in_its_output_is_let_go() -> None:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    worker = mesh.add("worker", runners=FailsWhenStopped())
    mesh.introduce()
    grown: list[Any] = []
    listener = Listener(lambda _: None, grown.append)
    services = (submitter.transport.run, worker.transport.run, submitter.sessions.run)

    async with running(*services, worker.sessions.run) as clients, running(worker.worker.run):
        clients.start_soon(submitter.submitter.run, spec(), listener)
        await until(lambda: bool(grown))

    assert not worker.worker._running


async def test_a_session_that_is_lost_while_a_job_is_cancelled_starts_nothing_for_it() -> None:
    mesh = JobMesh()
    submitter, _ = mesh.add("submitter"), mesh.add("worker")
    jobs = submitter.submitter._jobs

    def is_at_work() -> bool:
        return any(job is not None and job.machine.worker for job in jobs.values())

    def lose() -> None:
        for job in jobs.values():
            assert job is not None
            for link in [*job._links.values()]:
                link.close("the network is gone")
                job.lost(link)

    async with mesh.running():
        for number in range(8):  # whether the job's own task or this one ends first is a toss-up
            with when_exits("SessionLink.send_content", lose):
                async with trio.open_nursery() as client:
                    client.start_soon(submitter.submitter.run, spec(number, input=bytes(4 * MB)))
                    await until(is_at_work)
                    client.cancel_scope.cancel()


async def test_a_peer_that_is_admitted_when_gossip_has_stopped_is_let_be() -> None:
    gossip = Gossip(libp2p_keys(key(1)), no_stream, lambda _: True)

    async with running(gossip.run):
        pass
    gossip.on_admission(key(2).peer_id, True)  # raises nothing: streams with hellos end later
