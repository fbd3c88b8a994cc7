"""The outputs that a worker is sending: of each job one at a time, piece by piece, as fast as its
submitter takes them.

Pieces are cut as they are sent, so that an output is in memory once, and only while it is kept and
wanted under this fence: who does not read holds no more than kept outcomes may. A job has one task
however often its submitter asks; its pieces and what ends it stay in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile

import trio

from node.link import SessionLink
from protocols.job import Chunk, Done, Failed
from protocols.pieces import Piece
from protocols.session import JobKey
from protocols.worker_job import WorkerJob
from protocols.worker_jobs import WorkerJobs


@dataclass(slots=True, eq=False)
class _Output:
    """What is sent of one job over one session under one fence."""

    job: WorkerJob
    link: SessionLink
    fence: int
    next_piece: int
    ready: int = 0
    """So many pieces of an output that grows may be sent."""
    is_final: bool = False
    """Whether all of it may, and what ends the job."""
    is_sent: bool = False
    scope: trio.CancelScope | None = None
    """Of the task that sends it, if there is anything to be sent."""

    def is_of(self, job: WorkerJob, link: SessionLink) -> bool:
        return self.job is job and self.link is link and self.fence == job.fence


class Outputs:
    """Sends the outputs of ``jobs``, and tells ``on_end`` when it sends nothing of one any more,
    and whether everything is on its way.
    """

    def __init__(self, jobs: WorkerJobs, on_end: Callable[[WorkerJob, bool], None]) -> None:
        self._jobs = jobs
        self._on_end = on_end
        self._outputs: dict[JobKey, _Output] = {}
        self.sending = 0
        """How many tasks are at it."""

    def go_on(self, nursery: trio.Nursery, job: WorkerJob, link: SessionLink, piece: int) -> None:
        """Send a growing output as far as this piece."""
        output = self._output(job, link, piece)
        output.ready = piece + 1
        self._start(nursery, output)

    def end(self, nursery: trio.Nursery, job: WorkerJob, link: SessionLink, piece: int) -> None:
        """Send a kept outcome: its output from this piece on, or what was not sent of it yet, then
        what ends the job.
        """
        output = self._output(job, link, piece)
        output.is_final = True
        self._start(nursery, output)

    def has(self, job: WorkerJob, link: SessionLink) -> bool:
        """Whether some of an output went this way: the rest must follow it."""
        output = self._outputs.get(job.key)
        return output is not None and output.is_of(job, link)

    def forget(self, key: JobKey) -> None:
        """Send nothing more of this job."""
        output = self._outputs.pop(key, None)
        if output is not None and output.scope is not None:
            output.scope.cancel()

    def _output(self, job: WorkerJob, link: SessionLink, piece: int) -> _Output:
        known = self._outputs.get(job.key)
        if known is not None and known.is_of(job, link):
            return known
        self.forget(job.key)
        output = self._outputs[job.key] = _Output(job, link, job.fence, piece)
        return output

    def _start(self, nursery: trio.Nursery, output: _Output) -> None:
        if output.scope is None:
            output.scope = trio.CancelScope()
            self.sending += 1
            nursery.start_soon(self._send, output, output.scope)

    async def _send(self, output: _Output, scope: trio.CancelScope) -> None:
        try:
            with scope:
                wanted = takewhile(lambda _: self._is_wanted(output), _messages(output))
                await output.link.send_content(wanted)
        finally:
            self.sending -= 1
            output.scope = None
            self._on_end(output.job, output.is_sent)

    def _is_wanted(self, output: _Output) -> bool:
        return self._jobs.get(output.job.key) is output.job and output.job.fence == output.fence


def _messages(output: _Output) -> Iterator[Chunk | Done | Failed]:
    """Yield what is ready, also what becomes so meanwhile."""
    job = output.job
    while not output.is_final and job.grown and output.next_piece < output.ready:
        yield _next(output, next(job.grown.pieces(output.next_piece)))
    if not output.is_final or job.outcome is None:
        return
    for piece in job.outcome.output.pieces(output.next_piece) if job.outcome.output else ():
        yield _next(output, piece)
    yield job.outcome.final_message(output.fence)
    output.is_sent = True


def _next(output: _Output, piece: Piece) -> Chunk:
    output.next_piece += 1
    job_id = output.job.terms.job_id
    return Chunk(job_id, output.fence, piece.index, piece.body, piece.digest)
