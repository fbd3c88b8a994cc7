"""Carriers of kept jobs over the nodes of a ``JobMesh``: one after the other, as daemons are."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from node.accepted import AcceptedJobs
from node.carrier import Carrier
from node.kept_jobs import KeptJobs
from protocols.journal import Entry, RecordBody
from tests.support.jobs import JobMesh, JobNode
from tests.support.records import MemoryJournal
from tests.support.runners import FakeRunnerPool

T = TypeVar("T")


async def at_once(call: Callable[[], T], /) -> T:
    """A disk without threads, in which a virtual clock would run on."""
    await trio.lowlevel.checkpoint()
    return call()


def accepted_by(node: JobNode) -> AcceptedJobs:
    """What a node's next daemon finds in its journal."""
    journal = MemoryJournal()
    for sequence, record in enumerate(node.recorder.records):
        journal.append_soon(Entry.RECORD, RecordBody(1, sequence, record.encode()).encode())
    return AcceptedJobs(journal)


def carrier_of(node: JobNode, folder: Path) -> Carrier:
    """A carrier as the next daemon of this node would make it."""
    accepted = accepted_by(node)
    node.submitter._accepted = accepted
    return Carrier(KeptJobs(folder), node.submitter, accepted, node.effects, at_once)


@asynccontextmanager
async def carrying(node: JobNode, folder: Path) -> AsyncGenerator[Carrier]:
    carrier = carrier_of(node, folder)
    async with trio.open_nursery() as nursery:
        await nursery.start(carrier.run)
        yield carrier
        nursery.cancel_scope.cancel()


def a_pair(runners: FakeRunnerPool | None = None) -> tuple[JobMesh, JobNode, JobNode]:
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    return mesh, submitter, mesh.add("worker", runners=runners)
