"""Why a journal did not take or give what was asked of it."""

from __future__ import annotations

from pathlib import Path

from peer.machine import NO_SPACE
from protocols.errors import CoveyError


class JournalError(CoveyError):
    """The journal did not take or give what was asked of it."""

    default_code = "journal"


class JournalFullError(JournalError):
    """The disk is full: nothing of what was refused was kept, and the journal stays usable."""

    default_code = "disk-full"


class JournalBusyError(JournalError):
    """Another process has this journal open."""

    default_code = "journal-busy"


class JournalDamagedError(JournalError):
    """No whole entry is there, or nothing that starts like a journal; it was not touched."""

    default_code = "journal-damaged"


class JournalErasedError(JournalDamagedError):
    """The entry that was there has been erased."""

    default_code = "journal-erased"


def disk_error(path: Path, cause: OSError) -> JournalError:
    """Return what a failed write to the journal at ``path`` means."""
    if cause.errno in NO_SPACE:
        error: JournalError = JournalFullError(
            f"the disk that holds {path.name} is full",
            hint=f"free space on the disk of {path.parent}; nothing has to be restarted",
        )
    else:
        error = JournalError(
            f"the disk failed under {path.name}: {cause.strerror}", code="disk-failed"
        )
    error.__cause__ = cause
    return error
