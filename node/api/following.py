"""What a client that waits for a job is told, line by line.

Whoever reads slowly misses nothing: of progress the latest is kept, and what came of an output
meanwhile is put together.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec
import trio

from node.job import JobResult, JobSpec, Progress, summary_of
from node.submitted_job import Listener
from protocols.errors import CoveyError
from protocols.session import Grown

OUTPUT_LINE_BYTES: Final = 192 << 10  # of content, a third more in base64


class Following:
    """One client. With ``streams`` it sees an output grow, without it gets it in the end."""

    def __init__(self, spec: JobSpec, *, streams: bool) -> None:
        self.listener = Listener(self._on_progress, self._on_grown if streams else None)
        self.is_over = False
        """Whether everything was told."""
        self._spec = spec
        self._progress: Progress | None = None
        self._grown = bytearray()
        self._is_anew = False
        self._told_bytes = 0
        self._end: JobResult | CoveyError | None = None
        self._stirred = trio.Event()

    def ended(self, end: JobResult | CoveyError) -> None:
        """The job has its result, or none."""
        self._end = end
        self._stirred.set()

    async def next_lines(self) -> list[dict[str, Any]]:
        """Wait until there is something to tell, and return it. Raises what the job failed with."""
        await self._stirred.wait()
        self._stirred = trio.Event()
        lines = [*self._news(), *self._last_lines()]
        if isinstance(self._end, CoveyError):
            raise self._end
        return lines

    def _on_progress(self, progress: Progress) -> None:
        self._progress = progress
        self._stirred.set()

    def _on_grown(self, grown: Grown) -> None:
        if grown.is_anew:
            self._is_anew = self._told_bytes > 0
            self._told_bytes = 0
            self._grown.clear()
        self._grown += grown.body
        self._stirred.set()

    def _news(self) -> list[dict[str, Any]]:
        lines: list[dict[str, Any]] = []
        if self._progress is not None:
            lines.append({"progress": msgspec.to_builtins(self._progress)})
        if self._is_anew:
            lines.append({"restart": True})
        lines += output_lines(bytes(self._grown))
        self._told_bytes += len(self._grown)
        self._progress, self._is_anew = None, False
        self._grown.clear()
        return lines

    def _last_lines(self) -> list[dict[str, Any]]:
        if not isinstance(self._end, JobResult):
            return []
        self.is_over = True
        lines: list[dict[str, Any]] = []
        if self._told_bytes > len(self._end.output):  # it ended where a lost attempt went on
            lines.append({"restart": True})
            self._told_bytes = 0
        lines += output_lines(self._end.output[self._told_bytes :])
        return [*lines, {"result": summary_of(self._spec, self._end)}]


def output_lines(output: bytes) -> list[dict[str, Any]]:
    """Return content as lines of an answer."""
    return [
        {"output": base64.b64encode(output[start : start + OUTPUT_LINE_BYTES]).decode()}
        for start in range(0, len(output), OUTPUT_LINE_BYTES)
    ]
