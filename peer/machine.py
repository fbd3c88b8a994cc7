"""Errors that the machine is to blame for (its disk, its limits), as one sentence and a hint."""

from __future__ import annotations

import errno
from typing import Final

from protocols.errors import CoveyError

NO_SPACE: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))

_OWNER: Final = "its owner must be the user who runs this command"
_HINTS: Final = {
    **dict.fromkeys(NO_SPACE, "free space there; a daemon that runs goes on by itself"),
    errno.EROFS: "it must lie on a disk that can be written to",
    errno.EACCES: _OWNER,
    errno.EPERM: _OWNER,
    errno.EIO: "the disk fails: look at the system's log",
    errno.EMFILE: "raise the limit of open files: ulimit -n 4096",
    errno.ENFILE: "too many files are open on this machine",
    errno.ENOTDIR: "a file is in the way of a directory",
    errno.EISDIR: "a directory is in the way of a file",
}


def error_of_machine(error: OSError) -> CoveyError | None:
    """Return what a person can act on; none for errors of which our own code is the likely cause,
    which need their traceback.
    """
    if error.errno not in _HINTS:
        return None
    code = "disk-full" if error.errno in NO_SPACE else "machine"
    where = f"{error.filename}: " if error.filename else ""
    return CoveyError(f"{where}{error.strerror}", code=code, hint=_HINTS[error.errno])
