"""All attempts at one job as its submitter sees them: the one under way, what came of the output in
any of them, and who may still send a result.

A worker that has the job under a fence may send one result under it whenever it likes, even when
the job has long moved on. A result of an attempt that never was breaks the protocol.
"""

from __future__ import annotations

from protocols.attempt import Attempt
from protocols.errors import RemoteProtocolError
from protocols.job import Chunk, Lease, Terms
from protocols.job_output import JobOutput
from protocols.output_stream import OutputStream
from protocols.pieces import Held
from protocols.session import Grown


class Attempts:
    """Begins with none. ``last_fence`` is the latest of an earlier submission of this job, whose
    workers may still send results.
    """

    def __init__(self, terms: Terms, last_fence: int) -> None:
        self.count = 0
        self.current: Attempt | None = None
        """The one under way, or the one that ended the job."""
        self.losses: list[tuple[str, str]] = []
        """(worker, why) of each that was lost."""
        self._terms = terms
        self._last_fence = last_fence
        self._output = JobOutput(terms.output_salt)
        self._stream: OutputStream | None = None
        self._may_send: dict[tuple[str, int], bool] = {}
        """Who may send a result under which fence, and whether it would be the first."""

    def stream(self) -> None:
        """Tell from now on how the output comes into being."""
        self._stream = OutputStream()

    @property
    def worker(self) -> str | None:
        """Who has the job, or had it when it ended."""
        return self.current.worker if self.current is not None else None

    @property
    def progress(self) -> tuple[int, int]:
        """Items done in the current one, and of how many."""
        return self.current.progress if self.current is not None else (0, self._terms.units)

    def entrust(self, peer: str, fence: int) -> None:
        """This peer may be at work from now on, heard or not."""
        self._may_send[peer, fence] = True

    def refused(self, peer: str, fence: int) -> None:
        """Who was entrusted with the job is not at work."""
        del self._may_send[peer, fence]

    def begin(self, peer: str, fence: int, now: float, lease: Lease | None = None) -> Held:
        """Begin one, with or without a lease; return what this worker need not send again."""
        held = self._output.begin(peer)
        self.current = Attempt(peer, self._terms, now, self._output, lease)
        self.count += 1
        self._may_send[peer, fence] = True
        return held

    def add(self, chunk: Chunk, now: float) -> Grown | None:
        """Take a piece of the output in the current one, which must be there; return what is new to
        who sees it grow. Raises ``RemoteProtocolError`` if it can't be the next.
        """
        assert self.current is not None, "only a worker sends pieces"
        if not self.current.add(chunk, now) or self._stream is None:
            return None
        start = self._output.size_bytes - len(chunk.body)
        is_anew, new = self._stream.add(start, chunk.body)
        return Grown(new, is_anew) if new else None

    def lose(self, why: str) -> bool:
        """The current one is lost; tell whether its worker had begun to send the output."""
        assert self.current is not None, "only an attempt can be lost"
        self.losses.append((self.current.worker, why))
        self.current = None
        return self._output.has_begun

    def output(self) -> bytes:
        """Return what has come of the output in the current one, with what it went on from."""
        return self._output.content()

    def is_first_result(self, peer: str, fence: int) -> bool:
        """Whether a result of an attempt that is past is the first one of it; raises
        ``RemoteProtocolError`` when there was no such attempt.
        """
        if fence <= self._last_fence:
            self._may_send.setdefault((peer, fence), True)
        if (peer, fence) not in self._may_send:
            raise RemoteProtocolError("a result came for a job that the worker does not have")
        is_first, self._may_send[peer, fence] = self._may_send[peer, fence], False
        return is_first
