"""Errors of the aggregator, below the protocols' own.

::

    CoveyError
    ├── NotFoundError         nothing by that name has arrived here
    └── PageExpiredError      the answer that this page belonged to is no longer kept
"""

from __future__ import annotations

from protocols.errors import CoveyError


class NotFoundError(CoveyError):
    """The aggregator holds nothing by that name, or not yet; ``code`` begins with ``unknown``."""

    default_code = "unknown"


class PageExpiredError(CoveyError):
    """What an answer's earlier pages were made of is gone: ask for the first one again."""

    default_code = "page-expired"
