"""Errors of the aggregator, below the protocols' own: so far there is one.

::

    CoveyError
    └── NotFoundError         nothing by that name has arrived here
"""

from __future__ import annotations

from protocols.errors import CoveyError


class NotFoundError(CoveyError):
    """The aggregator holds nothing by that name, or not yet; ``code`` begins with ``unknown``."""

    default_code = "unknown"
