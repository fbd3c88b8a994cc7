"""Figures ``placement_p99_ratio_…``: how long jobs take in a simulated mesh, beside an oracle that
sees every queue as it is and pays no round trip.

The submitters are ours: ``Placement`` chooses, ``SubmitterJob`` offers, widens and fails over, and
both learn. The network and the workers are simulated: one job at a time, first come first served,
speeds 1, 2, 4 and 8, 70 % busy, refusing past ``MAX_QUEUE_S``. Each submitter has at most
``MAX_SESSIONS`` sessions and dials for others. In the mesh of ten thousand a tenth of the adverts
are of peers that have gone, half of those without a word, a fifth state a wrong speed, and peers
leave and join.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import trio
from trio.testing import MockClock

from node.needs import JobNeeds
from node.placement import Placement
from node.roster import Pool
from node.sessions import CROWDED_SESSIONS
from node.submitted_job import SESSIONS_FULL_RETRY_MS
from peer.directory import Directory, Entry
from protocols.advert import LIFETIME_MS, Advert, ModelOffer, SignedAdvert
from protocols.cid import CID
from protocols.job import BUSY, Accept, Chunk, Done, Lease, Offer, Refuse, Release, Terms
from protocols.limits import (
    ADVERT_LIFETIME_S,
    ADVERT_PERIOD_S,
    BUSY_RETRY_S_MIN,
    DIAL_TIMEOUT_S,
    LEASE_ACCEPT_S,
    MAX_QUEUE_S,
    MAX_SESSIONS,
    PEER_SILENCE_S,
)
from protocols.pieces import Outgoing
from protocols.session import JobState, Send
from protocols.signs import Sign
from protocols.submitter_job import SubmitterJob
from tests.bench.figure import Figure, figure, percentile
from tests.support.members import TestMesh, effects_of, key_of

SPEEDS = (1, 2, 4, 8)
BUSY_SHARE = 0.7
RTT_S = 0.02
DIAL_S = 4 * RTT_S  # TCP, Noise, Yamux and the protocol's name
WARM_UP = 0.3  # of the jobs: queues that begin empty
LARGEST_WORK = 12.0  # a lease that nobody renews lasts fifteen seconds
BUDGET_S = 600.0
LIFETIME_S = 4 * 3_600.0  # of a peer: with adverts of half an hour, a tenth of all are of the gone
WRONG_SHARE = 0.2  # of adverts that state some other speed
GONE_SHARE = 0.1
GIGAFLOPS = 10.0  # of a worker of speed 1
NEEDS = JobNeeds("embed", "m")
OUTPUT = Outgoing.cut(bytes(16), b"")


@dataclass(frozen=True)
class Case:
    """One simulated mesh."""

    name: str
    workers: int
    submitters: int
    seconds: float
    has_churn: bool = False
    knows_size: bool = False
    """Whether a job's length is known before it runs, as an embedding's is."""
    seeds: tuple[int, ...] = (1, 2, 3)


CASES = (
    Case("placement_p99_ratio_1000", 1_000, 1_000, 8.0),
    Case("placement_p99_ratio_1000_m20", 1_000, 20, 8.0),
    Case("placement_p99_ratio_10000", 10_000, 1_000, 4.0, has_churn=True, seeds=(1,)),
)


@dataclass(slots=True, eq=False)
class Worker:
    """A simulated worker: what it has promised and when it will be free."""

    peer: str
    speed: float
    free_at: float = 0.0
    leased_s: dict[bytes, float] = field(default_factory=dict)
    knows_size: bool = False
    gone: str = ""
    """How it went: ``told`` or ``silent``; empty while it is there."""

    def answer(self, offer: Offer, now: float) -> Lease | Refuse:
        """The rule of ``Admission``, with estimates that are right."""
        wait_s = max(0.0, self.free_at - now) + sum(self.leased_s.values())
        if wait_s > MAX_QUEUE_S:
            retry_ms = int(max(wait_s - MAX_QUEUE_S, BUSY_RETRY_S_MIN) * 1_000)
            return Refuse(offer.job_id, offer.fence, BUSY, "work is waiting", retry_ms)
        size = offer.items / 1_000 if self.knows_size else 1.0
        self.leased_s[offer.job_id] = service_s = size / self.speed
        return Lease(offer.job_id, offer.fence, int((wait_s + service_s) * 1_000), 15_000)


@dataclass(slots=True, eq=False)
class Submitter:
    """One of ours: placement, jobs at hand by id, sessions by peer with their jobs."""

    placement: Placement
    jobs: dict[bytes, SubmitterJob] = field(default_factory=dict)
    sessions: OrderedDict[str, set[bytes]] = field(default_factory=OrderedDict)


class Mesh:
    """A simulation: events in the order of their time."""

    def __init__(self, case: Case, seed: int) -> None:
        self.case = case
        self.rng = random.Random(seed)
        self.now = 0.0
        self.times_s: list[float] = []
        self.choose_s: list[float] = []
        self.losses = self.failed = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0
        self.directory = Directory(TestMesh().root.public, "nobody", effects_of())
        self._membership = TestMesh().membership(key_of(1), "worker")
        self.workers: dict[str, Worker] = {}
        for _ in range(case.workers):
            self.join()
        self.alive = list(self.workers.values())
        if case.has_churn:
            for worker in self.rng.sample(self.alive, int(case.workers * GONE_SHARE)):
                self.leave(worker)
                self._age_advert(worker.peer, self._age_of_the_gone())
        self.submitters = [
            Submitter(Placement(self.directory, random.Random(self.rng.random())))
            for _ in range(case.submitters)
        ]
        self._share_pools()

    def _share_pools(self) -> None:
        """Copy the first submitter's pool to the others: each would be the same."""
        first = self.submitters[0].placement._roster.pool(NEEDS)
        for submitter in self.submitters[1:]:
            pool = submitter.placement._roster._pools[NEEDS] = Pool()
            pool.weights, pool.stated = dict(first.weights), first.stated.copy()

    def at(self, when: float, act: Callable[..., None], *args: Any) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, act, args))

    def run(self, arrivals: list[tuple[float, float]]) -> None:
        """Submit a job at each of these moments, of so much work, and wait for them all."""
        for number, (when, work) in enumerate(arrivals):
            self.at(when, self.submit, number, work, number >= len(arrivals) * WARM_UP)
        if self.case.has_churn:
            self.at(self._until_churn(), self.churn, arrivals[-1][0])
        while self._events:
            self.now, _, act, args = heapq.heappop(self._events)
            act(*args)

    # Peers that come and go

    def join(self) -> Worker:
        peer = f"peer-{len(self.workers)}"
        worker = self.workers[peer] = Worker(
            peer, self.rng.choice(SPEEDS), knows_size=self.case.knows_size
        )
        is_wrong = self.case.has_churn and self.rng.random() < WRONG_SHARE
        stated = self.rng.choice(SPEEDS) if is_wrong else worker.speed
        advert = Advert(
            version=1,
            peer=bytes(32),
            boot=1,
            sequence=1,
            lifetime_ms=LIFETIME_MS,
            addresses=(),
            roles=("worker",),
            hardware=CID.of(b"hardware"),
            capabilities={"matmul_gflops": stated * GIGAFLOPS},
            models=(ModelOffer("m", CID.of(b"m"), "embed", ("fp32",)),),
            software="covey 0",
        )
        chain = self._membership.certificate, self._membership.issuer_certificate
        entry = Entry(peer, *chain, SignedAdvert(b"", b"", *chain, advert))
        self.directory._entries[peer] = entry
        self._age_advert(peer, self.rng.uniform(0.0, ADVERT_PERIOD_S))
        self.directory._changed(peer)
        return worker

    def _age_of_the_gone(self) -> float:
        """How old an advert is whose peer went at any time since, if it has not expired yet."""
        while True:
            at_leaving_s = self.rng.uniform(0.0, ADVERT_PERIOD_S)
            age_s = at_leaving_s + self.rng.uniform(0.0, ADVERT_LIFETIME_S)
            if age_s < ADVERT_LIFETIME_S:
                return age_s

    def _age_advert(self, peer: str, age_s: float) -> None:
        expires = trio.current_time() + ADVERT_LIFETIME_S - age_s
        self.directory._entries[peer].advert_expires = expires

    def leave(self, worker: Worker) -> None:
        """Be gone, with a word or without; the adverts stay for half an hour."""
        worker.gone = self.rng.choice(("told", "silent"))
        self.alive.remove(worker)
        for submitter in getattr(self, "submitters", ()):
            if worker.peer in submitter.sessions:
                after = RTT_S if worker.gone == "told" else PEER_SILENCE_S
                self.at(self.now + after, self.lose, submitter, worker.peer)

    def churn(self, until: float) -> None:
        self.leave(self.rng.choice(self.alive))
        self.alive.append(self.join())
        if self.now < until:
            self.at(self.now + self._until_churn(), self.churn, until)

    def _until_churn(self) -> float:
        return self.rng.expovariate(self.case.workers / LIFETIME_S)

    # The submitter's side

    def submit(self, number: int, work: float, is_counted: bool) -> None:
        submitter = self.rng.choice(self.submitters)
        began = time.perf_counter()
        near = [peer for peer, jobs in submitter.sessions.items() if jobs]
        near = list(submitter.sessions) if len(near) >= CROWDED_SESSIONS else []
        choice = submitter.placement.choose(NEEDS, self.now, near)
        self.choose_s.append(time.perf_counter() - began)
        submitter.placement.retries.earn()
        job_id = number.to_bytes(16, "big")
        items = max(1, int(work * 1_000))
        cid = bytes(CID.of(b""))
        terms = Terms(job_id, "embed", "m", "auto", items, 0, cid, bytes(16), bytes(16))
        job = submitter.jobs[job_id] = SubmitterJob(
            terms, choice.peers, self.now + BUDGET_S, last_resorts=choice.last_resorts
        )
        job.may_retry = submitter.placement.retries.take
        self.perform(submitter, job, job.start(self.now))
        submitted_at = self.now if is_counted else None
        self.at(self.now, self.look, submitter, job, submitted_at)

    def look(self, submitter: Submitter, job: SubmitterJob, submitted_at: float | None) -> None:
        """Note in the job what to do when it ends."""
        job.submitted_at = submitted_at  # type: ignore[attr-defined]

    def perform(self, submitter: Submitter, job: SubmitterJob, effects: list[Any]) -> None:
        """Carry out what the job wants, as ``node.submit`` does."""
        for effect in effects:
            if isinstance(effect, Send):
                self.send(submitter, job, effect.peer, effect.message)
        while job.signs:
            peer, sign = job.signs.popleft()
            submitter.placement.note(job.terms, peer, sign, self.now)
        if job.state.is_final:
            self.end(submitter, job)
        elif job.state is JobState.OFFERED:
            self.at(job.next_deadline, self.tick, submitter, job)

    def tick(self, submitter: Submitter, job: SubmitterJob) -> None:
        if not job.state.is_final and job.next_deadline <= self.now:
            self.perform(submitter, job, job.tick(self.now))

    def end(self, submitter: Submitter, job: SubmitterJob) -> None:
        if submitter.jobs.pop(job.terms.job_id, None) is None:
            return
        for jobs in submitter.sessions.values():
            jobs.discard(job.terms.job_id)
        self.losses += len(job.losses)
        self.failed += job.state is not JobState.DONE
        submitted_at = getattr(job, "submitted_at", None)
        if submitted_at is not None:
            self.times_s.append(self.now - submitted_at)

    def send(self, submitter: Submitter, job: SubmitterJob, peer: str, message: Any) -> None:
        worker, delay_s = self.workers[peer], RTT_S / 2
        if peer not in submitter.sessions:
            if not isinstance(message, Offer):
                return
            if worker.gone:
                delay_s = RTT_S if worker.gone == "told" else DIAL_TIMEOUT_S
                self.at(self.now + delay_s, self.unreached, submitter, job, peer)
                return
            if not self.make_room(submitter):
                self.at(self.now, self.turn_away, submitter, job, peer, message)
                return
            delay_s += DIAL_S
            submitter.sessions[peer] = set()
        if isinstance(message, Offer):
            submitter.sessions[peer].add(job.terms.job_id)
            submitter.sessions.move_to_end(peer)
        self.at(self.now + delay_s, self.arrive, submitter, job, worker, message)

    def make_room(self, submitter: Submitter) -> bool:
        """End the session that was idle longest, if there are as many as may be."""
        if len(submitter.sessions) < MAX_SESSIONS:
            return True
        idle = next((peer for peer, jobs in submitter.sessions.items() if not jobs), None)
        if idle is not None:
            del submitter.sessions[idle]
        return idle is not None

    def turn_away(self, submitter: Submitter, job: SubmitterJob, peer: str, offer: Offer) -> None:
        full = Refuse(offer.job_id, offer.fence, BUSY, "sessions full", SESSIONS_FULL_RETRY_MS)
        self.perform(submitter, job, job.receive(peer, full, self.now))

    def unreached(self, submitter: Submitter, job: SubmitterJob, peer: str) -> None:
        job.signs.append((peer, Sign.UNANSWERED))
        self.perform(submitter, job, job.lost(peer, "unreachable", self.now))

    def lose(self, submitter: Submitter, peer: str) -> None:
        """A session was lost."""
        submitter.sessions.pop(peer, None)
        for job in list(submitter.jobs.values()):
            self.perform(submitter, job, job.lost(peer, "lost", self.now))

    def hear(self, submitter: Submitter, job: SubmitterJob, peer: str, message: Any) -> None:
        if job.terms.job_id in submitter.jobs and peer in submitter.sessions:
            self.perform(submitter, job, job.receive(peer, message, self.now))

    # The worker's side

    def arrive(self, submitter: Submitter, job: SubmitterJob, worker: Worker, message: Any) -> None:
        if worker.gone:
            return
        match message:
            case Offer():
                answer = worker.answer(message, self.now)
                self.at(self.now + RTT_S / 2, self.hear, submitter, job, worker.peer, answer)
                if isinstance(answer, Lease):
                    self.at(self.now + LEASE_ACCEPT_S, self.release, worker, message.job_id)
            case Release():
                self.release(worker, message.job_id)
            case Accept() if message.job_id in worker.leased_s:
                del worker.leased_s[message.job_id]
                service_s = job.terms.items / 1_000 / worker.speed
                worker.free_at = max(worker.free_at, self.now) + service_s
                self.at(worker.free_at, self.finish, submitter, job, worker, message.fence)
            case _:
                pass

    def release(self, worker: Worker, job_id: bytes) -> None:
        worker.leased_s.pop(job_id, None)

    def finish(self, submitter: Submitter, job: SubmitterJob, worker: Worker, fence: int) -> None:
        if worker.gone:
            return
        job_id, cid = job.terms.job_id, bytes(OUTPUT.cid)
        for piece in OUTPUT.pieces():
            chunk = Chunk(job_id, fence, piece.index, piece.body, piece.digest)
            self.at(self.now + RTT_S / 2, self.hear, submitter, job, worker.peer, chunk)
        done = Done(job_id, fence, cid, 0, cid)
        self.at(self.now + RTT_S / 2, self.hear, submitter, job, worker.peer, done)


def figures() -> Iterator[Figure]:
    """Simulate every mesh."""
    choosing: dict[int, list[float]] = defaultdict(list)
    for case in CASES:
        ratios: list[float] = []
        n = 0
        for seed in case.seeds:
            ratio, jobs, choose_s = trio.run(_simulated, case, seed, clock=MockClock())
            ratios.append(ratio)
            choosing[case.workers] += choose_s
            n += jobs
        yield figure(case.name, "× oracle", ratios, n=n, baseline="an oracle", baseline_rounds=[1])
    for workers, times_s in choosing.items():
        yield figure(
            f"placement_choose_us_{workers}",
            "µs a job",
            [sum(times_s) / len(times_s) * 1e6],
            n=len(times_s),
        )


async def _simulated(case: Case, seed: int) -> tuple[float, int, list[float]]:
    """Return the 99th percentile over the oracle's, how many jobs, and how long choosing took."""
    mesh = Mesh(case, seed)
    speeds = np.array([worker.speed for worker in mesh.alive], dtype=float)
    rate = BUSY_SHARE * speeds.sum()
    rng, now = random.Random(seed), 0.0
    arrivals: list[tuple[float, float]] = []
    while now < case.seconds:
        now += rng.expovariate(rate)
        arrivals.append((now, min(rng.expovariate(1.0), LARGEST_WORK)))
    mesh.run(arrivals)
    if mesh.failed:
        raise RuntimeError(f"{mesh.failed} jobs failed in {case.name}")
    theirs = percentile(_oracle(arrivals, speeds, case.knows_size), 0.99)
    return percentile(mesh.times_s, 0.99) / theirs, len(mesh.times_s), mesh.choose_s


def _oracle(
    arrivals: list[tuple[float, float]], speeds: Any, knows_size: bool = False
) -> list[float]:
    """How long jobs take when each goes where it is expected to be done first."""
    free_at = np.zeros_like(speeds)
    times_s: list[float] = []
    for now, work in arrivals:
        expected = work if knows_size else 1.0
        best = int((np.maximum(free_at, now) + expected / speeds).argmin())
        free_at[best] = max(free_at[best], now) + work / speeds[best]
        times_s.append(float(free_at[best]) - now)
    return times_s[int(len(times_s) * WARM_UP) :]
