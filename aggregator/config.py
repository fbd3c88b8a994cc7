"""The aggregator's options: ``aggregator.toml`` and ``COVEY_…`` variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

from peer.config import ConfigError

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Repository = Annotated[
    str, msgspec.Meta(pattern=r"^([A-Za-z0-9-]{1,39}/[A-Za-z0-9._-]{1,100})?$", title="OWNER/NAME")
]
# In clear text the token may not leave the machine.
ApiUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(https://[A-Za-z0-9.-]+|http://(127(\.\d{1,3}){3}|localhost))(:\d{1,5})?"
        r"(/[A-Za-z0-9._~/-]*)?$"
    ),
]

DEFAULT_PORT: Final = 4119
MAX_TOKEN_CHARS: Final = 1_000  # GitHub's longest are about 250


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where other peers reach this aggregator."""

    host: str = "127.0.0.1"
    port: Port = DEFAULT_PORT


class Discovery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this aggregator finds others, besides the addresses in its ticket."""

    bootstrap: tuple[str, ...] = ()
    mdns: bool = True


class Filing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When a group of reports becomes an issue; only the mesh's filer looks at it."""

    min_reports: Annotated[int, msgspec.Meta(ge=1)] = 3
    min_peers: Annotated[int, msgspec.Meta(ge=1)] = 2
    age_s: Seconds = 600.0
    per_hour: Annotated[int, msgspec.Meta(ge=0)] = 10
    per_day: Annotated[int, msgspec.Meta(ge=0)] = 50


class Github(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The GitHub repository where the mesh's filer also files; without one nothing goes there.

    The token is no option, so that nothing shows it: see ``read_token``.
    """

    repo: Repository = ""
    api: ApiUrl = "https://api.github.com"
    token_file: str = ""


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/healthz`` and ``/metrics`` over TCP; port 0 leaves them to the control socket alone."""

    host: str = "127.0.0.1"
    port: Port = 0


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the daemon says on stderr."""

    level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"


TOKEN_VARIABLE: Final = "COVEY_GITHUB_TOKEN"


def read_token(config: Github, environ: Mapping[str, str]) -> str:
    """Return GitHub's token from the environment or from ``token_file``; never say what it is.

    Raises ``ConfigError`` where there is none, or where others may read the file.
    """
    token = environ.get(TOKEN_VARIABLE, "")
    if not token and config.token_file:
        token = _read_secret(Path(config.token_file).expanduser())
    token = token.strip()
    if not re.fullmatch("[!-~]+", token):
        raise ConfigError(
            "there is no token for GitHub" if not token else "GitHub's token is not one word",
            hint=f"set {TOKEN_VARIABLE}, or github.token_file to a file that only you may read",
        )
    return token


def _read_secret(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(f"others may read {path}", hint=f"chmod 600 {path}")
            return file.read(MAX_TOKEN_CHARS)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no text") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


class AggregatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every option of an aggregator."""

    listen: Listen = Listen()
    discovery: Discovery = Discovery()
    filing: Filing = Filing()
    github: Github = Github()
    metrics: Metrics = Metrics()
    log: Log = Log()
