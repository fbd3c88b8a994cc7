"""What a client that waits for a job is told, line by line.

Whoever reads slowly misses nothing: of progress the latest is kept, and what came of an output
meanwhile is put together.
"""

from __future__ import annotations

import base64
from typing import Any, Final

import msgspec
import trio

from node.job import Progress
from node.submitted_job import Listener
from protocols.errors import CoveyError
from protocols.session import Grown

OUTPUT_LINE_BYTES: Final = 192 << 10  # of content, a third more in base64


class Following:
    """One client. With ``streams`` it sees an output grow, without it gets it in the end."""

    def __init__(self, *, streams: bool) -> None:
        self.listener = Listener(self._on_progress, self._on_grown if streams else None)
        self.is_over = False
        """Whether everything was told."""
        self._progress: Progress | None = None
        self._grown = bytearray()
        self._is_anew = False
        self._told_bytes = 0
        self._end: tuple[bytes, dict[str, Any]] | CoveyError | None = None
        self._stirred = trio.Event()

    def succeeded(self, output: bytes, summary: dict[str, Any]) -> None:
        """The job has its result."""
        self._end = (output, summary)
        self._stirred.set()

    def failed(self, error: CoveyError) -> None:
        """The job has none."""
        self._end = error
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
        if self._end is None or isinstance(self._end, CoveyError):
            return []
        output, summary = self._end
        self.is_over = True
        lines: list[dict[str, Any]] = []
        if self._told_bytes > len(output):  # it ended where a lost attempt went on
            lines.append({"restart": True})
            self._told_bytes = 0
        lines += output_lines(output[self._told_bytes :])
        return [*lines, {"result": summary}]


def output_lines(output: bytes) -> list[dict[str, Any]]:
    """Return content as lines of an answer."""
    return [
        {"output": base64.b64encode(output[start : start + OUTPUT_LINE_BYTES]).decode()}
        for start in range(0, len(output), OUTPUT_LINE_BYTES)
    ]
