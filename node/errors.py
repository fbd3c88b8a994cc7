"""Errors of the node itself.

::

    CoveyError
    ├── InputError          what the user gave cannot be used
    ├── UnknownError        nothing here has that name (codes unknown-…)
    ├── NoWorkerError       nobody took the job; the message says what was looked for
    └── VerificationMismatch    peers computed different outputs; reported, never raised
"""

from __future__ import annotations

from protocols.errors import CoveyError


class InputError(CoveyError):
    """What the user gave cannot be used; nothing was done."""

    default_code = "bad-input"


class UnknownError(CoveyError):
    """Nothing here has the name that was asked for."""

    default_code = "unknown"


class NoWorkerError(CoveyError):
    """Nobody took the job."""

    default_code = "no-worker"


class VerificationMismatch(CoveyError):  # noqa: N818 - an observation about others
    """Peers computed different outputs of one input in the same way: one of them is off."""

    default_code = "verification-mismatch"
