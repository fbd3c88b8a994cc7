"""The token of the HTTP API: whoever shows it may spend this mesh's machines, so it lies in a file
of its owner's and appears in no log, record or answer.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from peer.durable import create_durably
from peer.effects import Effects
from protocols.errors import CoveyError

TOKEN_BYTES: Final = 32
TOKEN: Final = re.compile(r"[!-~]{16,256}")  # what fits a header's value, and nobody guesses
MAX_FILE_BYTES: Final = 1_024


class TokenError(CoveyError):
    """The token's file is no use; the API does not start."""

    default_code = "api-token"


def load_or_create(path: Path, effects: Effects) -> str:
    """Return the token in ``path``, made when there is none yet; raise ``TokenError`` if others may
    read it or it holds none.
    """
    if not path.exists():
        create_durably(path, effects.token(TOKEN_BYTES).hex().encode() + b"\n")
    try:
        with path.open("rb") as file:
            is_exposed = os.fstat(file.fileno()).st_mode & 0o077
            content = file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise TokenError(f"{path} cannot be read: {error.strerror}") from error
    if is_exposed:
        raise TokenError(
            f"others may read {path}",
            hint=f"remove it, and the next start makes a new token; or chmod 600 {path}",
        )
    token = content.decode("latin-1").strip()
    if not TOKEN.fullmatch(token):
        raise TokenError(
            f"{path} does not hold a token",
            hint="remove it, and the next start makes one; your own is a word of 16 to 256 signs",
        )
    return token
