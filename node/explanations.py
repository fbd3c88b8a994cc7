"""Why the jobs of this daemon went where they went: those under way, and the latest others."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from node.explanation import Explanation

MAX_EXPLANATIONS: Final = 256  # people ask about the job that they have just seen


class Explanations:
    """Those under way are made when somebody asks."""

    def __init__(self) -> None:
        self._explainers: dict[bytes, Callable[[], Explanation]] = {}
        self._past: OrderedDict[bytes, Explanation] = OrderedDict()

    def get(self, job_id: bytes) -> Explanation | None:
        """Return why a job went where it went: one that is under way, or of the last
        ``MAX_EXPLANATIONS``.
        """
        explain = self._explainers.get(job_id)
        return explain() if explain else self._past.get(job_id)

    def ids(self) -> list[bytes]:
        """Return the jobs that ``get`` knows."""
        return [*self._explainers, *self._past]

    def begin(self, job_id: bytes, explain: Callable[[], Explanation]) -> None:
        """A job is under way."""
        self._explainers[job_id] = explain

    def end(self, job_id: bytes) -> None:
        """It is no more."""
        self.add(job_id, self._explainers.pop(job_id)())

    def add(self, job_id: bytes, explanation: Explanation) -> None:
        """Remember what is known of a job that is not under way."""
        self._past[job_id] = explanation
        if len(self._past) > MAX_EXPLANATIONS:
            self._past.popitem(last=False)
