"""What a client that waits for a job is told, line by line.

Whoever reads slowly misses nothing: of progress the latest is kept, and what came of an output
meanwhile is put together.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import trio

from node.job import Progress
from node.submitted_job import Listener
from protocols.errors import CoveyError
from protocols.session import Grown

OUTPUT_LINE_BYTES: Final = 192 << 10  # of content, a third more in base64


@dataclass(frozen=True, slots=True)
class News:
    """What a client was not told yet: how far the job is, whether all output so far is void, what
    comes next of it, and what is known of the result if that was all.
    """

    progress: Progress | None = None
    is_anew: bool = False
    body: bytes = b""
    summary: dict[str, Any] | None = None


NOTHING: Final = News()


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
        news = await self.next_news()
        lines: list[dict[str, Any]] = []
        if news.progress is not None:
            lines.append({"progress": msgspec.to_builtins(news.progress)})
        if news.is_anew:
            lines.append({"restart": True})
        lines += output_lines(news.body)
        return [*lines, {"result": news.summary}] if news.summary is not None else lines

    async def next_news(self) -> News:
        """As ``next_lines``, for who does not speak in lines."""
        while True:
            await self._stirred.wait()
            self._stirred = trio.Event()
            if isinstance(self._end, CoveyError):
                raise self._end
            news = self._news()
            if news != NOTHING:
                return news

    def _on_progress(self, progress: Progress) -> None:
        self._progress = progress
        self._stirred.set()

    def _on_grown(self, grown: Grown) -> None:
        if grown.is_anew:
            self._forget()
        self._grown += grown.body
        self._stirred.set()

    def _forget(self) -> None:
        """What was told is void; a client that was told nothing need not know."""
        self._is_anew = self._is_anew or self._told_bytes > 0
        self._told_bytes = 0
        self._grown.clear()

    def _news(self) -> News:
        summary: dict[str, Any] | None = None
        if self._end is not None and not isinstance(self._end, CoveyError):
            output, summary = self._end
            self.is_over = True
            if self._told_bytes > len(output):  # it ended where a lost attempt went on
                self._forget()
            body = output[self._told_bytes :]
        else:
            body = bytes(self._grown)
        news = News(self._progress, self._is_anew, body, summary)
        self._told_bytes += len(body)
        self._progress, self._is_anew = None, False
        self._grown.clear()
        return news


def output_lines(output: bytes) -> list[dict[str, Any]]:
    """Return content as lines of an answer."""
    return [
        {"output": base64.b64encode(output[start : start + OUTPUT_LINE_BYTES]).decode()}
        for start in range(0, len(output), OUTPUT_LINE_BYTES)
    ]
