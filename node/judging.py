"""Whether what a worker answers can be the answer to a job at all: looked at before it is accepted.

It says nothing about whether it is right, which other peers can (``node.verifier``). An answer that
is none is its worker's fault, as if it had failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, TypeVar

import trio

from node.needs import AUTO
from node.runner.kinds import KINDS, BadInputError, kind_named
from node.upstream.models import PRECISION as UPSTREAM
from protocols.errors import RemoteProtocolError
from protocols.job import Done, Terms

BAD_OUTPUT: Final = "bad-output"
ASIDE_BYTES: Final = 16 << 10  # of many small parts, which take the loop 5 ms: more leaves it
PRECISION: Final = "precision"

T = TypeVar("T")

_judging: Final = trio.CapacityLimiter(2)


def check_precision(terms: Terms, done: Done, advertised: Collection[str] | None) -> None:
    """Raise ``RemoteProtocolError`` unless an output was computed in the precision that was asked
    for, by its worker's word; where any will do, in one that it advertises and that is known here.

    ``advertised`` is None where its worker's advert is not known any more. What it says decides
    with whose output its own is compared: a word that nobody knows would keep it from being.
    """
    stated = done.execution.get(PRECISION)
    if terms.precision != AUTO:
        allowed = {terms.precision}
    else:
        known = {*kind_named(terms.kind).PRECISIONS, UPSTREAM} if terms.kind in KINDS else None
        told = [names for names in (known, advertised) if names is not None]
        if not told:
            return
        allowed = set(told[0]).intersection(*told)
    if stated not in allowed:
        raise RemoteProtocolError(
            f"it was computed in {str(stated)[:40]!r}, where {terms.precision} was asked for",
            code=BAD_OUTPUT,
        )


def check_output(kind: str, output: bytes, content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output can be the answer to an input. Of a kind that
    is not known here, and of an input that is none, nothing can be said. May take its time.
    """
    if kind not in KINDS:
        return
    try:
        kind_named(kind).check(output, content)
    except BadInputError:
        return  # only who submitted it is fooled
    except RemoteProtocolError as error:
        raise RemoteProtocolError(error.message, code=BAD_OUTPUT) from error


async def aside(work: Callable[[], T]) -> T:
    """Judge away from the loop."""
    return await trio.to_thread.run_sync(work, limiter=_judging)
