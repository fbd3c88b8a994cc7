"""The node's options: ``covey.toml`` and ``COVEY_…`` variables."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]

DEFAULT_PORT: Final = 4117
DEFAULT_API_PORT: Final = 4118


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where other peers reach this node."""

    host: str = "127.0.0.1"
    port: Port = DEFAULT_PORT


class Discovery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How this node finds others, besides the addresses in its ticket."""

    bootstrap: tuple[str, ...] = ()
    mdns: bool = True


class Runners(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What running jobs may cost this machine, and what they may do to it."""

    idle_unload_s: Annotated[float, msgspec.Meta(gt=0)] = 300.0
    sandbox: Annotated[str, msgspec.Meta(pattern="^(auto|strict|basic|off)$")] = "auto"
    device: Annotated[str, msgspec.Meta(pattern="^(auto|cpu|cuda|xpu|mps)$")] = "auto"


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The index over this node's records."""

    memory_mb: Annotated[int, msgspec.Meta(ge=64)] = 128


class Records(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long records stay here that an aggregator has promised to keep; others always do."""

    keep_days: Annotated[float, msgspec.Meta(ge=0, le=36_500)] = 7.0
    keep_mb: Annotated[int, msgspec.Meta(ge=0)] = 1_024
    """Of them in all: past it the oldest go before their time."""


class Api(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP API for clients over TCP, always behind a token: see ``node.api.access``."""

    enabled: bool = False
    host: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9.:-]+$")] = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)] = DEFAULT_API_PORT
    hosts: tuple[str, ...] = ()
    """Other names by which clients know this machine."""
    origins: tuple[str, ...] = ()
    """Web pages that may ask, such as ``https://chat.example``."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 600.0

    @property
    def address(self) -> str:
        """Where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


UpstreamUrl = Annotated[
    str,
    msgspec.Meta(
        pattern=r"^(https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?(/[A-Za-z0-9._~/-]*)?)?$"
    ),
]


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A server of OpenAI's protocol whose models this node offers; none without a ``url``.

    Its token is no option, so that nothing shows it: see ``node.upstream.token``.
    """

    url: UpstreamUrl = ""
    """Up to what ``/models`` is appended to, such as ``http://127.0.0.1:11434/v1``."""
    models: tuple[str, ...] = ()
    """Those to offer, ``ID`` or ``NAME=ID``; all if empty."""
    embeddings: tuple[str, ...] = ()
    """Those of them, by name, that are for ``embed``; the others are for ``generate``."""
    requests: Annotated[int, msgspec.Meta(ge=1, le=1_024)] = 8
    """At once; more wait here."""
    first_byte_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 120.0
    silence_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] = 30.0


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the daemon says on stderr."""

    level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every option of a node. ``share`` off keeps all records on this machine until it is on
    again.
    """

    share: bool = True
    listen: Listen = Listen()
    discovery: Discovery = Discovery()
    runners: Runners = Runners()
    store: Store = Store()
    records: Records = Records()
    api: Api = Api()
    upstream: Upstream = Upstream()
    log: Log = Log()
