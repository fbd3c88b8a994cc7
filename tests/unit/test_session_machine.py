"""The executable specification of jobs: both machines under loss, duplication, restarts and
time.
"""

import hashlib
import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, takewhile

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from protocols.cid import CID, commitment
from protocols.job import (
    Accept,
    Chunk,
    Done,
    Failed,
    FromSubmitter,
    FromWorker,
    Input,
    Offer,
    Refuse,
    Terms,
)
from protocols.kept_outcomes import KeptOutcomes
from protocols.limits import MAX_ATTEMPTS, MAX_KEPT_OUTCOMES
from protocols.pieces import Outgoing
from protocols.session import (
    Deliver,
    Effect,
    Grown,
    JobKey,
    JobState,
    Late,
    Lost,
    Send,
    SendInput,
    Start,
    Stop,
    Violation,
)
from protocols.submitter_job import SubmitterJob
from protocols.worker_job import Granted, Load, Outcome, WorkerJob
from protocols.worker_jobs import WorkerJobs

SUBMITTER = "submitter"
WORKERS = ("w1", "w2")
JOBS = tuple(bytes([n]) * 16 for n in range(1, 3))
BUDGET_S = 120.0
PIECE_BYTES = 8

workers = st.sampled_from(WORKERS)
jobs = st.sampled_from(JOBS)


def content_of(job_id: bytes) -> bytes:
    return b"input of " + job_id


def output_of(job_id: bytes) -> bytes:
    return b"output of " + job_id


def cut(salt: bytes, content: bytes) -> Outgoing:
    """Four pieces, so that sessions break between them."""
    ends = [*range(PIECE_BYTES, len(content), PIECE_BYTES), len(content)]
    digests = tuple(hashlib.sha256(salt + content[:end]).digest() for end in ends)
    return Outgoing(content, digests, tuple(ends))


def terms_of(job_id: bytes) -> Terms:
    content = content_of(job_id)
    cid = bytes(commitment(b"i" * 16, content))
    return Terms(job_id, "embed", "m", "auto", 2, len(content), cid, b"i" * 16, b"o" * 16)


@dataclass
class Session:
    """What is under way between the submitter and one worker, in order. Outputs are cut as they
    are sent, one piece at a time.
    """

    to_worker: deque[FromSubmitter] = field(default_factory=deque)
    to_submitter: deque[FromWorker] = field(default_factory=deque)
    outputs: deque[Iterator[FromWorker]] = field(default_factory=deque)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is under way."""
        while self.outputs and not self.to_submitter:
            message = next(self.outputs[0], None)
            if message is None:
                self.outputs.popleft()
            else:
                self.to_submitter.append(message)
        return not self.to_worker and not self.to_submitter


@dataclass
class WorkerNode:
    """A worker, the runs that it has going, and whether it takes new jobs."""

    jobs: WorkerJobs
    runs: dict[JobKey, WorkerJob] = field(default_factory=dict)
    is_busy: bool = False


class JobsMachine(RuleBasedStateMachine):
    """One submitter with three jobs and three workers, on sessions that break."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.machines: dict[bytes, SubmitterJob] = {}
        self.accepted: dict[bytes, tuple[str, int]] = {}
        self.executed: set[tuple[str, bytes]] = set()
        self.fences: dict[bytes, int] = {}
        self.seen: dict[bytes, bytes] = {}
        self.emitted: dict[tuple[str, bytes], int] = {}
        self.sessions: dict[str, Session] = {}
        self.nodes: dict[str, WorkerNode] = {}
        self.max_kept = MAX_KEPT_OUTCOMES
        self.resumed: set[str] = set()
        """What was seen to go on in the middle: inputs, outputs, those that grow, and those that
        were all here.
        """

    @initialize(max_kept=st.sampled_from([1, MAX_KEPT_OUTCOMES]))
    def start(self, max_kept: int = MAX_KEPT_OUTCOMES) -> None:
        self.max_kept = max_kept
        for worker in WORKERS:
            self.restart_worker(worker)

    # What happens

    @precondition(lambda self: any(self.may_submit(job_id) for job_id in JOBS))
    @rule(
        job_id=jobs,
        first=st.permutations(WORKERS),
        is_named=st.sampled_from([False, False, True]),
        goes_along=st.booleans(),
        is_failing=st.booleans(),
    )
    def submit(
        self,
        job_id: bytes,
        first: list[str],
        is_named: bool,
        goes_along: bool,
        is_failing: bool = False,
    ) -> None:
        """The second worker is a last resort if it ``is_failing`` lately."""
        if not self.may_submit(job_id):
            return
        candidates = first[:1] if is_named else first
        last = self.machines[job_id].fence if job_id in self.machines else 0
        machine = SubmitterJob(
            terms_of(job_id),
            candidates,
            self.now + BUDGET_S,
            is_named=is_named,
            last_fence=last,
            last_resorts=candidates[1:] if is_failing else (),
        )
        machine.input_digests = cut(b"i" * 16, content_of(job_id)).digests
        self.machines[job_id] = machine
        self.fences[job_id] = last
        machine.stream()
        self.seen[job_id] = b""
        small_input = content_of(job_id) if goes_along else None
        self.by_submitter(machine.start(self.now, small_input))

    @precondition(lambda self: any(s.to_worker for s in self.sessions.values()))
    @rule(worker=workers, is_doubled=st.booleans())
    def deliver_to_worker(self, worker: str, is_doubled: bool) -> None:
        session = self.sessions.get(worker)
        if session and session.to_worker:
            message = session.to_worker.popleft()
            for _ in range(1 + is_doubled):
                effects = self.nodes[worker].jobs.receive(SUBMITTER, message, self.now)
                if isinstance(message, Accept) and message.held_pieces:
                    sent = [e.message for e in effects if isinstance(e, Send)]
                    chunks = [each for each in sent if isinstance(each, Chunk)]
                    if chunks and chunks[0].index == message.held_pieces:
                        self.resumed.add("growing output")
                self.by_worker(worker, effects)

    @precondition(lambda self: not all(s.is_quiet for s in self.sessions.values()))
    @rule(worker=workers, is_doubled=st.booleans())
    def deliver_to_submitter(self, worker: str, is_doubled: bool) -> None:
        session = self.sessions.get(worker)
        if session and not session.is_quiet and session.to_submitter:
            message = session.to_submitter.popleft()
            for _ in range(1 + is_doubled):
                machine = self.machines.get(message.job_id)
                if machine is not None:
                    effects = machine.receive(worker, message, self.now)
                    for effect in effects:
                        if isinstance(effect, Grown):
                            assert not effect.is_anew, "every worker computes the same"
                            self.seen[message.job_id] += effect.body
                    self.by_submitter(effects)

    @precondition(lambda self: not all(s.is_quiet for s in self.sessions.values()))
    @rule()
    def settle(self) -> None:
        for worker in WORKERS:
            self.deliver_all(worker)

    def deliver_all(self, worker: str) -> None:
        while (session := self.sessions.get(worker)) and not session.is_quiet:
            self.deliver_to_worker(worker, False)
            self.deliver_to_submitter(worker, False)

    @precondition(lambda self: any(node.runs for node in self.nodes.values()))
    @rule(worker=workers, size=st.integers(1, 6))
    def emit(self, worker: str, size: int) -> None:
        """The output of a run comes some bytes further."""
        node = self.nodes[worker]
        for (_, job_id), job in list(node.runs.items())[:1]:
            start = self.emitted.get((worker, job_id), 0) if job.grown else 0
            body = output_of(job_id)[start : start + size]
            if body:
                self.emitted[worker, job_id] = start + len(body)
                self.by_worker(worker, node.jobs.emitted(job, body, self.now))

    @precondition(lambda self: any(node.runs for node in self.nodes.values()))
    @rule(worker=workers, fails=st.sampled_from([None, None, None, "worker", "input"]))
    def finish_run(self, worker: str, fails: str | None) -> None:
        node = self.nodes[worker]
        if not node.runs:
            return
        (_, job_id), job = node.runs.popitem()
        if fails is None:
            self.executed.add((worker, job_id))
            whole = job.grown.complete(output_of(job_id)) if job.grown else None
            output = whole or cut(b"o" * 16, output_of(job_id))
            size = len(output_of(job_id))
            done = Done(job_id, 1, bytes(output.cid), size, CID.of(worker.encode() + job_id))
            outcome = Outcome(done, output)
        else:
            outcome = Outcome(Failed(job_id, 1, "it-failed", "it failed", fails == "worker"))
        self.by_worker(worker, node.jobs.finish(job, outcome, self.now))

    @precondition(lambda self: self.sessions)
    @rule(worker=workers, worker_notices=st.booleans())
    def lose_session(self, worker: str, worker_notices: bool) -> None:
        """The submitter notices at once; the worker now, or when the submitter is back."""
        if self.sessions.pop(worker, None) is None:
            return
        if worker_notices:
            self.detach_all(worker)
        for machine in list(self.machines.values()):
            self.by_submitter(machine.lost(worker, "lost", self.now))

    @rule(worker=workers, seconds=st.sampled_from([0.3, 2.1]))
    def go_on(self, worker: str, seconds: float) -> None:
        """The usual course of things."""
        self.settle()
        self.finish_run(worker, None)
        self.wait(seconds)
        self.settle()

    @precondition(lambda self: any(node.runs for node in self.nodes.values()))
    @rule(worker=workers)
    def crash_worker(self, worker: str) -> None:
        self.restart_worker(worker)

    def restart_worker(self, worker: str) -> None:
        jobs = WorkerJobs(
            lambda _s, offer, load: self.decide(worker, offer, load),
            KeptOutcomes(max_count=self.max_kept),
        )
        self.nodes[worker] = WorkerNode(jobs)
        if self.sessions.pop(worker, None) is not None:
            for machine in list(self.machines.values()):
                self.by_submitter(machine.lost(worker, "restarted", self.now))

    @precondition(lambda self: self.machines)
    @rule()
    def restart_submitter(self) -> None:
        """Everything that was not durable is forgotten; what was accepted is not."""
        self.machines.clear()
        self.sessions.clear()
        for worker in WORKERS:
            self.detach_all(worker)

    @precondition(lambda self: self.machines)
    @rule(job_id=jobs, is_meant=st.sampled_from([False, False, True]))
    def cancel(self, job_id: bytes, is_meant: bool) -> None:
        machine = self.machines.get(job_id)
        if machine is not None and is_meant:
            self.by_submitter(machine.cancel())

    @rule(worker=workers, is_busy=st.sampled_from([False, False, False, True]))
    def get_busy(self, worker: str, is_busy: bool) -> None:
        self.nodes[worker].is_busy = is_busy

    @rule(seconds=st.sampled_from([0.1, 0.3, 0.3, 2.1, 5.0, 7.0, 16.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        for machine in list(self.machines.values()):
            self.by_submitter(machine.tick(self.now))
        for worker in WORKERS:
            self.by_worker(worker, self.nodes[worker].jobs.tick(self.now))

    @precondition(lambda self: self.machines)
    @rule()
    def acknowledge(self) -> None:
        for machine in self.machines.values():
            if machine.state is JobState.DONE:
                self.by_submitter(machine.acknowledge())

    # What it comes to

    def may_submit(self, job_id: bytes) -> bool:
        """A client may try again what has ended without a result."""
        machine = self.machines.get(job_id)
        return job_id not in self.accepted and (machine is None or machine.state.is_final)

    def decide(self, worker: str, offer: Offer, load: Load) -> Granted | Refuse:
        known = [self.nodes[worker].jobs.get((SUBMITTER, job_id)) for job_id in JOBS]
        jobs = [job for job in known if job is not None and not job.state.is_final]
        leased = {job.terms.job_id for job in jobs if job.state is JobState.LEASED}
        input_bytes = sum(job.terms.size_bytes for job in jobs)
        counted = (len(jobs), len(jobs), leased, input_bytes, input_bytes)
        told_leased = {each.terms.job_id for each in load.leased}
        told_bytes = (load.input_bytes, load.input_bytes_of_submitter)
        told = (load.jobs, load.jobs_of_submitter, told_leased, *told_bytes)
        assert told == counted, "told as counting would tell"
        if self.nodes[worker].is_busy:
            return Refuse(offer.job_id, offer.fence, "busy", "busy", 500)
        return Granted(1.0, 1_000)

    def detach_all(self, worker: str) -> None:
        for job_id in JOBS:
            self.by_worker(worker, self.nodes[worker].jobs.detach((SUBMITTER, job_id), self.now))

    def by_submitter(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(peer, message):
                    self.send_to_worker(peer, message)  # type: ignore[arg-type]
                case SendInput(peer, fence, first):
                    self.send_input(peer, fence, first)
                case Late() | Lost() | Grown():
                    pass  # that a late result is not taken is an invariant
                case Violation(_, error):
                    raise AssertionError("honest workers break no rule") from error
                case _:
                    raise AssertionError(effect)

    def send_to_worker(self, worker: str, message: FromSubmitter) -> None:
        if isinstance(message, Offer) and worker not in self.sessions:
            self.sessions[worker] = Session()
            self.detach_all(worker)
        if session := self.sessions.get(worker):
            session.to_worker.append(message)

    def send_input(self, worker: str, fence: int, first: int) -> None:
        if first:
            self.resumed.add("input")
        for job_id, machine in self.machines.items():
            is_this = machine.worker == worker and machine.fence == fence
            if is_this and machine.state is JobState.LEASED and worker in self.sessions:
                for p in cut(b"i" * 16, content_of(job_id)).pieces(first):
                    message = Input(job_id, fence, p.index, p.body, p.digest)
                    self.sessions[worker].to_worker.append(message)

    def by_worker(self, worker: str, effects: list[Effect]) -> None:
        node = self.nodes[worker]
        session = self.sessions.get(worker)
        for effect in effects:
            match effect:
                case Send(_, message) if session:
                    session.to_submitter.append(message)  # type: ignore[arg-type]
                case Start(key):
                    assert key not in node.runs, "one job runs once at a time"
                    job = node.jobs.get(key)
                    assert job is not None
                    assert job.take_input() == content_of(key[1])
                    node.runs[key] = job
                case Stop(key):
                    node.runs.pop(key, None)
                case Deliver(key, fence, first) if session:
                    self.deliver_outcome(session, node.jobs, key, fence, first)
                case _:
                    pass

    def deliver_outcome(
        self, session: Session, jobs: WorkerJobs, key: JobKey, fence: int, first: int
    ) -> None:
        job = jobs.get(key)
        assert job is not None
        assert job.outcome is not None
        if job.outcome.output and 0 < job.held.pieces == first:
            self.resumed.add("output" if first < len(job.outcome.output.digests) else "end")
        # with what ends the job, as a worker sends small outputs, or in pieces, as earlier ones do
        rides = job.takes_output and fence % 2 == 1
        pieces = job.outcome.output.pieces(first) if job.outcome.output and not rides else ()
        chunks = (Chunk(key[1], fence, p.index, p.body, p.digest) for p in pieces)
        messages = chain(chunks, (job.outcome.final_message(fence, has_output=rides),))
        wanted = takewhile(lambda _: jobs.get(key) is job and job.fence == fence, messages)
        session.outputs.append(wanted)

    # What always holds

    @invariant()
    def a_result_is_accepted_once_and_is_the_right_one(self) -> None:
        for job_id, machine in self.machines.items():
            if machine.state is not JobState.DONE:
                continue
            assert machine.worker is not None
            assert machine.output() == output_of(job_id) == self.seen[job_id]
            assert (machine.worker, job_id) in self.executed
            accepted = self.accepted.setdefault(job_id, (machine.worker, machine.fence))
            assert accepted == (machine.worker, machine.fence)

    @invariant()
    def what_is_seen_of_an_output_is_its_beginning(self) -> None:
        for job_id, seen in self.seen.items():
            assert output_of(job_id).startswith(seen)

    @invariant()
    def fences_only_rise_and_attempts_are_bounded(self) -> None:
        for job_id, machine in self.machines.items():
            assert machine.fence >= self.fences[job_id]
            assert machine.attempts <= MAX_ATTEMPTS
            self.fences[job_id] = machine.fence

    @invariant()
    def what_runs_is_known_to_its_worker_as_running(self) -> None:
        for node in self.nodes.values():
            for key, job in node.runs.items():
                assert node.jobs.get(key) is job
                assert job.state is JobState.RUNNING

    @invariant()
    def a_worker_that_forgets_a_job_says_so(self) -> None:
        for job_id, machine in self.machines.items():
            session = self.sessions.get(machine.worker or "")
            if machine.state.is_final or session is None or machine.worker is None:
                continue
            if session.is_quiet:
                assert self.nodes[machine.worker].jobs.get((SUBMITTER, job_id))

    @invariant()
    def nothing_is_overdue(self) -> None:
        for machine in self.machines.values():
            assert machine.state.is_final or machine.next_deadline > self.now - 32

    def check(self) -> None:
        """Every invariant, for whoever runs this without a search."""
        self.a_result_is_accepted_once_and_is_the_right_one()
        self.what_is_seen_of_an_output_is_its_beginning()
        self.fences_only_rise_and_attempts_are_bounded()
        self.what_runs_is_known_to_its_worker_as_running()
        self.a_worker_that_forgets_a_job_says_so()
        self.nothing_is_overdue()

    def teardown(self) -> None:
        """Once faults end, every job ends, and workers are left with nothing that runs."""
        for _ in range(100):
            for worker in WORKERS:
                self.nodes[worker].is_busy = False
                self.deliver_all(worker)
                self.finish_run(worker, None)
                self.deliver_all(worker)
            self.wait(2.1)
        self.a_result_is_accepted_once_and_is_the_right_one()
        assert all(machine.state.is_final for machine in self.machines.values())
        self.acknowledge()
        for worker in WORKERS:
            self.deliver_all(worker)
            assert not self.nodes[worker].runs
            assert not self.nodes[worker].jobs.unfinished


TestJobs = JobsMachine.TestCase
TestJobs.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


def a_step(world: JobsMachine, rng: random.Random) -> None:  # noqa: C901 - a list of what may be
    """Do something, mostly what makes jobs go on: plain chance reaches deeper than a search."""
    worker = rng.choice(WORKERS)
    job_id = rng.choice(JOBS)
    is_named, is_doubled = rng.random() < 0.2, rng.random() < 0.2
    match rng.choices(range(12), (6, 16, 16, 8, 3, 1, 1, 1, 1, 6, 2, 8))[0]:
        case 0:
            first = rng.sample(WORKERS, len(WORKERS))
            world.submit(job_id, first, is_named, rng.random() < 0.5, rng.random() < 0.3)
        case 1:
            world.deliver_to_worker(worker, is_doubled)
        case 2:
            world.deliver_to_submitter(worker, is_doubled)
        case 3:
            world.finish_run(worker, rng.choice((None, None, None, None, "worker", "input")))
        case 4:
            world.lose_session(worker, is_doubled)
        case 5:
            world.restart_worker(worker)
        case 6:
            world.restart_submitter()
        case 7:
            world.cancel(job_id, True)
        case 8:
            world.get_busy(worker, is_doubled)
        case 9:
            world.wait(rng.choice((0.1, 0.3, 0.3, 2.1, 5.0, 16.0)))
        case 10:
            world.acknowledge()
        case _:
            world.emit(worker, rng.randint(1, 6))


@pytest.mark.parametrize("seed", range(40))
def test_every_schedule_ends_with_each_result_accepted_once(seed: int) -> None:
    rng = random.Random(seed)
    for number in range(5):
        world = JobsMachine()
        world.start(max_kept=1 if number == 0 else MAX_KEPT_OUTCOMES)
        for _ in range(120):
            a_step(world, rng)
            world.check()
        world.teardown()


def test_sessions_that_break_in_the_middle_of_inputs_and_outputs_are_gone_on_with() -> None:
    resumed: set[str] = set()
    for seed in range(100):
        rng, world = random.Random(seed), JobsMachine()
        world.start()
        goes_along, grows = rng.random() < 0.5, rng.random() < 0.5
        world.submit(JOBS[0], list(WORKERS), True, goes_along)
        for _ in range(20):
            for _ in range(rng.randrange(8)):
                world.deliver_to_worker(WORKERS[0], False)
                world.deliver_to_submitter(WORKERS[0], False)
                if grows:
                    world.emit(WORKERS[0], rng.randint(1, 6))
                world.check()
            if not grows or rng.random() < 0.3:
                world.finish_run(WORKERS[0], None)
            if rng.random() < 0.3:
                world.lose_session(WORKERS[0], rng.random() < 0.5)
            elif rng.random() < 0.1:
                world.restart_worker(WORKERS[0])  # what it sends anew may be cut otherwise
        world.teardown()
        resumed |= world.resumed

    assert resumed == {"input", "output", "growing output", "end"}


def test_a_worker_that_gives_up_an_outcome_on_its_way_says_so_and_the_job_is_done_elsewhere() -> (
    None
):
    losses: list[str] = []
    for seed in range(100):
        rng, world = random.Random(seed), JobsMachine()
        world.start(max_kept=1)
        for job_id in JOBS:
            world.submit(job_id, list(WORKERS), False, False)
        world.nodes[WORKERS[1]].is_busy = True
        for _ in range(40):
            world.deliver_to_worker(WORKERS[0], False)
            world.deliver_to_worker(WORKERS[1], False)
            if rng.random() < 0.5:
                world.deliver_to_submitter(rng.choice(WORKERS), False)
            if rng.random() < 0.2:
                world.finish_run(WORKERS[0], None)
            world.check()
        world.teardown()
        losses += [why for machine in world.machines.values() for _, why in machine.losses]
        assert {machine.state for machine in world.machines.values()} == {JobState.DONE}

    assert any("given up" in why for why in losses)
