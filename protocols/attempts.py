"""All attempts at one job as its submitter sees them: the one under way, what came of the output in
any of them, and who may still send a result.

A worker that has the job under a fence may send one result under it whenever it likes, even when
the job has long moved on. A result of an attempt that never was breaks the protocol.
"""

from __future__ import annotations

from collections import Counter, deque
from contextlib import suppress

from protocols import job_history as history
from protocols.attempt import Attempt
from protocols.cid import CID
from protocols.errors import RemoteProtocolError
from protocols.job import Ack, Chunk, Done, Lease, Terms
from protocols.job_output import JobOutput
from protocols.limits import MAX_STRAY_RESULTS
from protocols.output_stream import OutputStream
from protocols.pieces import Held, Piece
from protocols.session import Effect, Grown, Late, Lost, Send
from protocols.signs import Sign


class Attempts:
    """Begins with none. ``last_fence`` is the latest of an earlier submission of this job, whose
    workers may still send results. What becomes of attempts is told to ``told`` and ``signs``.
    """

    def __init__(
        self,
        terms: Terms,
        last_fence: int,
        told: history.JobHistory,
        signs: deque[tuple[str, Sign]],
    ) -> None:
        self.current: Attempt | None = None
        """The one under way, or the one that ended the job."""
        self.losses: list[tuple[str, str]] = []
        """(worker, why) of each that was lost, in earlier submissions too if a caller adds them."""
        self._terms = terms
        self._history = told
        self._signs = signs
        self._last_fence = last_fence
        self._output = JobOutput(terms.output_salt)
        self._stream: OutputStream | None = None
        self._may_send: dict[tuple[str, int], bool] = {}
        """Who may send a result under which fence, and whether it would be the first."""
        self._strays: Counter[str] = Counter()
        """How many of an earlier submission each has sent."""

    def stream(self) -> None:
        """Tell from now on how the output comes into being."""
        self._stream = OutputStream()

    @property
    def count(self) -> int:
        """How many there have been."""
        return len(self.losses) + (self.current is not None)

    @property
    def worker(self) -> str | None:
        """Who has the job, or had it when it ended."""
        return self.current.worker if self.current is not None else None

    @property
    def progress(self) -> tuple[int, int]:
        """Items done in the current one, and of how many."""
        return self.current.progress if self.current is not None else (0, self._terms.units)

    @property
    def owed(self) -> frozenset[tuple[str, int]]:
        """Who may still send a result, under which fence."""
        return frozenset(key for key, is_owed in self._may_send.items() if is_owed)

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
        self._history.add(now, history.ACCEPTED, peer, fence)
        self._signs.append((peer, Sign.ACCEPTED))
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

    def finish(self, fence: int, now: float) -> None:
        """The current one, under this fence, has the result."""
        assert self.worker is not None, "only an attempt can end the job"
        self._history.add(now, history.DONE, self.worker, fence)
        self._signs.append((self.worker, Sign.DONE))
        self._may_send[self.worker, fence] = False

    @property
    def has_output(self) -> bool:
        """Whether the worker has begun to send the output."""
        return self._output.has_begun

    def lose(self, why: str, sign: Sign, fence: int, now: float) -> Lost:
        """The current one, under this fence, is lost."""
        worker = self.worker
        assert worker is not None, "only an attempt can be lost"
        self.losses.append((worker, why))
        self._history.add(now, history.LOST, worker, fence, why)
        self._signs.append((worker, sign))
        self.current = None
        return Lost(worker, fence, why)

    def output(self) -> bytes:
        """Return what has come of the output in the current one, with what it went on from."""
        return self._output.content()

    def answer(self, done: Done) -> bytes | None:
        """Return the output in the current one, if it is whole and the one committed to; one that
        is seen growing comes in pieces only.
        """
        if done.output is not None and self._stream is None:
            with suppress(RemoteProtocolError):  # then it is not whole either
                self._output.add(Piece(0, done.output, CID(done.output_cid).digest))
        is_whole = self._output.is_whole(done.size_bytes, done.output_cid)
        return self.output() if is_whole else None

    def stray(self, peer: str, done: Done) -> list[Effect]:
        """Take note of a result of an attempt that is past: it is recorded once, and acknowledged.
        Raises ``RemoteProtocolError`` when there was no such attempt.
        """
        key = (peer, done.fence)
        if key not in self._may_send and done.fence > self._last_fence:
            raise RemoteProtocolError("a result came for a job that the worker does not have")
        is_first = self._may_send.get(key) or self._is_new_stray(key)
        if is_first:
            self._may_send[key] = False
        late = [Late(peer, done.fence, done.output_cid, done.record_cid)] if is_first else []
        return [*late, Send(peer, Ack(done.job_id, done.fence))]

    def _is_new_stray(self, key: tuple[str, int]) -> bool:
        """Whether a result of an earlier submission, of which nothing is known here, is the first;
        only so many of a worker are remembered, and more are none.
        """
        if key in self._may_send or self._strays[key[0]] >= MAX_STRAY_RESULTS:
            return False
        self._strays[key[0]] += 1
        return True
