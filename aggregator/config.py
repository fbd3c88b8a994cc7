"""The aggregator's options: ``aggregator.toml`` and ``COVEY_…`` variables."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]

DEFAULT_PORT: Final = 4119


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


class Metrics(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``/healthz`` and ``/metrics`` over TCP; port 0 leaves them to the control socket alone."""

    host: str = "127.0.0.1"
    port: Port = 0


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the daemon says on stderr."""

    level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"


class AggregatorConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every option of an aggregator."""

    listen: Listen = Listen()
    discovery: Discovery = Discovery()
    filing: Filing = Filing()
    metrics: Metrics = Metrics()
    log: Log = Log()
