"""The token that the upstream wants to see. It is no option, so that nothing shows it; it appears
in no log, record or answer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from peer.config import ConfigError

VARIABLE: Final = "COVEY_UPSTREAM_TOKEN"
FILE: Final = "upstream.token"
MAX_CHARS: Final = 4_096  # signed tokens of identity providers have up to 2,000


def read_token(home: Path, environ: Mapping[str, str]) -> str:
    """Return the token from the environment or from the home's ``upstream.token``; empty where
    there is none. Raises ``ConfigError`` for one that cannot be used.
    """
    token = (environ.get(VARIABLE) or _read_file(home / FILE)).strip()
    if not re.fullmatch("[!-~]*", token):
        raise ConfigError(
            "the upstream's token is not one word",
            hint=f"set {VARIABLE}, or write it into {FILE} in the state directory, mode 0600",
        )
    return token


def _read_file(path: Path) -> str:
    try:
        with path.open(encoding="latin-1") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(f"others may read {path}", hint=f"chmod 600 {path}")
            return file.read(MAX_CHARS)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
