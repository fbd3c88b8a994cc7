"""The node's options: ``covey.toml`` and ``COVEY_…`` variables."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]

DEFAULT_PORT: Final = 4117


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


class Store(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The index over this node's records."""

    memory_mb: Annotated[int, msgspec.Meta(ge=64)] = 128


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
    log: Log = Log()
