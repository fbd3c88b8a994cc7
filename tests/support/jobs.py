"""Nodes that do jobs for each other on the in-memory network, with fake runners."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import trio

from node import benchmarks
from node.accepted import AcceptedJobs
from node.admission import Admission
from node.benchmarks.echo import EchoServer
from node.benchmarks.runners import BenchRunners
from node.ledger import JobLedger
from node.models import InstalledModel
from node.placement import Placement
from node.salts import Salts
from node.sessions import Sessions
from node.submit import JobSpec, Submitter
from node.worker import Worker
from peer.capture import Origin
from peer.directory import Directory
from peer.effects import Effects
from protocols.advert import LIFETIME_MS, Advert, ModelOffer, SignedAdvert, sign_advert
from protocols.cid import CID
from protocols.keys import PeerId, SigningKey
from protocols.membership import Membership
from tests.support.benchmarks import FakeMachine
from tests.support.members import TestMesh, effects_of, key_of
from tests.support.memory import MemoryNetwork, MemoryTransport
from tests.support.records import MemoryJournal, MemoryRecorder
from tests.support.runners import FakeModels, FakeRunnerPool, model_of

MODEL = "minilm"
DIMENSION = 4
HARDWARE = CID.of(b"some hardware")


@dataclass
class JobNode:
    """A node with everything that jobs need and nothing else."""

    key: SigningKey
    membership: Membership
    transport: MemoryTransport
    directory: Directory
    effects: Effects
    recorder: MemoryRecorder
    ledger: JobLedger
    sessions: Sessions
    placement: Placement
    submitter: Submitter
    worker: Worker
    runners: FakeRunnerPool
    model: InstalledModel
    """What it advertises."""
    speed: float
    machine: FakeMachine

    @property
    def peer_id(self) -> PeerId:
        return self.key.peer_id

    def advert(self) -> SignedAdvert:
        model = self.model
        advert = Advert(
            version=1,
            peer=self.key.public,
            boot=1,
            sequence=1,
            lifetime_ms=LIFETIME_MS,
            addresses=tuple(self.transport.addresses),
            roles=self.membership.roles,
            hardware=HARDWARE,
            capabilities={"matmul_gflops": self.speed},
            models=(ModelOffer(model.name, model.cid, model.kind, model.precisions, DIMENSION),),
            software="covey 0",
        )
        return sign_advert(self.key, advert, self.membership)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.transport.run)
            await nursery.start(self.sessions.run)
            if "worker" in self.membership.roles:
                await nursery.start(self.worker.run)
            task_status.started()


@dataclass
class JobMesh:
    """Nodes that know each other's adverts; connections come when they are needed."""

    network: MemoryNetwork = field(default_factory=MemoryNetwork)
    mesh: TestMesh = field(default_factory=TestMesh)
    nodes: list[JobNode] = field(default_factory=list)

    def add(
        self,
        *roles: str,
        runners: FakeRunnerPool | None = None,
        speed: float = 10.0,
        models: FakeModels | None = None,
        model: InstalledModel | None = None,
    ) -> JobNode:
        """Make one more node; ``models`` is what it has where that is not what it advertises."""
        key = key_of(len(self.nodes) + 1)
        effects = effects_of(len(self.nodes) + 1)
        transport = self.network.transport(key)
        directory = Directory(self.mesh.root.public, key.peer_id, effects)
        recorder = MemoryRecorder(key, effects)
        ledger = JobLedger(recorder, Origin("covey-node", "0"), effects)
        sessions = Sessions(transport, transport.dial, directory, ledger)
        runners = runners or FakeRunnerPool()
        models = models or FakeModels({each.name: each for each in (model or model_of(MODEL),)})
        admission = Admission(directory, models, runners)
        journal = MemoryJournal()
        salts = Salts(journal, effects)
        placement = Placement(directory, effects.rng)
        machine = FakeMachine()
        benches = BenchRunners(models, runners, transport, machine)
        node = JobNode(
            key=key,
            membership=self.mesh.membership(key, *(roles or ("submitter", "worker"))),
            transport=transport,
            directory=directory,
            effects=effects,
            recorder=recorder,
            ledger=ledger,
            sessions=sessions,
            placement=placement,
            submitter=Submitter(placement, sessions, ledger, salts, AcceptedJobs(journal)),
            worker=Worker(sessions, admission, models, benches, ledger),
            runners=runners,
            model=model or model_of(MODEL),
            speed=speed,
            machine=machine,
        )
        EchoServer(transport, directory, partial(node.submitter.asks, benchmarks.NETWORK))
        transport.on_connection(
            lambda peer, is_up: transport.admit(peer) if is_up else directory.lost(peer)
        )
        self.nodes.append(node)
        return node

    def introduce(self) -> None:
        """Let everyone know everyone's certificate, and every worker's advert."""
        for node in self.nodes:
            for other in self.nodes:
                node.directory.met(other.peer_id, other.membership, ())
                if other is node:
                    node.directory.advertise(other.advert())
                else:
                    node.directory.learn(other.advert())

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Run all nodes until the block ends."""
        self.introduce()
        async with trio.open_nursery() as nursery:
            for node in self.nodes:
                await nursery.start(node.run)
            yield
            nursery.cancel_scope.cancel()


def spec(number: int = 1, **changes: object) -> JobSpec:
    """Job ``number``, with what is usual unless told otherwise."""
    usual: dict[str, object] = {
        "job_id": number.to_bytes(16, "big"),
        "kind": "embed",
        "model": MODEL,
        "input": b"some text",
        "items": 3,
        "budget_ms": 60_000,
    }
    return JobSpec(**{**usual, **changes})  # type: ignore[arg-type]
