"""The names of jobs: 32 hexadecimal digits, of which the first six will do where only one job's
begin so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from node.errors import InputError, UnknownError
from protocols.job import JOB_ID_BYTES

WHOLE: Final = re.compile(f"[0-9a-f]{{{2 * JOB_ID_BYTES}}}", re.IGNORECASE)
BEGINNING: Final = re.compile(f"[0-9a-f]{{6,{2 * JOB_ID_BYTES}}}", re.IGNORECASE)
NEW_HINT: Final = "openssl rand -hex 16"
LIST_HINT: Final = "covey job list"
SHOWN: Final = 3  # of several that begin alike


def parse_job_id(text: str) -> bytes:
    """Return the id that a client chose for a new job; raises ``InputError``."""
    if not WHOLE.fullmatch(text):
        raise InputError(
            f"{text[:64]!r} is not a job id: a new one is {2 * JOB_ID_BYTES} random "
            "hexadecimal digits",
            hint=NEW_HINT,
        )
    return bytes.fromhex(text)


def check_beginning(text: str) -> str:
    """Return what may name a job in the form of their list; raises ``InputError``."""
    if not BEGINNING.fullmatch(text):
        raise InputError(
            f"{text[:64]!r} is not a job id: give {2 * JOB_ID_BYTES} hexadecimal digits, or the "
            "first 6",
            hint=LIST_HINT,
        )
    return text.lower()


def job_named(text: str, known: Iterable[bytes]) -> bytes:
    """Return the id of which ``text`` is the whole or the beginning, among ``known`` ones if it is
    not whole. Raises ``InputError``, and ``UnknownError`` where there is none.
    """
    beginning = check_beginning(text)
    if WHOLE.fullmatch(beginning):
        return bytes.fromhex(beginning)
    found = sorted({job_id for job_id in known if job_id.hex().startswith(beginning)})
    if not found:
        raise UnknownError(
            f"there is no job here whose id begins with {beginning}",
            code="unknown-job",
            hint=LIST_HINT,
        )
    if len(found) > 1:
        some = ", ".join(job_id.hex() for job_id in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise InputError(f"{beginning} begins several jobs' ids: {some}{more}", hint="a digit more")
    return found[0]
