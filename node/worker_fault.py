"""Whose fault a failed run is: the code that it goes by on the wire, and whether another worker may
well do the job.
"""

from __future__ import annotations

from typing import Final

from node.upstream.errors import WORKER_FAULTS as UPSTREAM_FAULTS
from protocols.errors import CoveyError
from protocols.job import TOO_LITTLE_MEMORY
from protocols.job_checks import CODE
from protocols.limits import MAX_CODE_CHARS

UNEXPECTED: Final = "unexpected"
"""The code of what was not foreseen."""
_CODES: Final = frozenset(
    (*("disk-full", "out-of-memory", "precision-unavailable"), TOO_LITTLE_MEMORY, UNEXPECTED)
)
_PREFIXES: Final = ("journal", "model-", "runner-")


def is_worker_fault(code: str) -> bool:
    """Whether a failure of that code says nothing about the job."""
    return code in _CODES or code in UPSTREAM_FAULTS or code.startswith(_PREFIXES)


def code_of(error: Exception) -> str:
    """Return the code that a failure goes by on the wire."""
    code = error.code if isinstance(error, CoveyError) else UNEXPECTED
    return code if len(code) <= MAX_CODE_CHARS and CODE.fullmatch(code) else UNEXPECTED
