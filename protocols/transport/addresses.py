"""The part of multiaddrs that covey speaks: ``/ip4|ip6|dns…/HOST/tcp/PORT`` with an optional
``/p2p/PEER``.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocols.errors import RemoteProtocolError

_HOST_KINDS = frozenset({"ip4", "ip6", "dns", "dns4", "dns6"})


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """Where to connect, and whom the address claims to reach there."""

    host: str
    port: int
    peer_id: str | None = None

    @classmethod
    def parse(cls, address: str) -> TcpAddress:
        """Read a multiaddr; raises ``RemoteProtocolError`` for anything but TCP, which is all that
        we can dial.
        """
        parts = address.split("/")
        is_tcp = (
            len(parts) >= 5 and parts[0] == "" and parts[1] in _HOST_KINDS and parts[3] == "tcp"
        )
        tail = parts[5:]
        if not is_tcp or not (tail == [] or (len(tail) == 2 and tail[0] in ("p2p", "ipfs"))):
            raise RemoteProtocolError(f"{address!r} is not a TCP multiaddr", address=address)
        if (
            not parts[2]
            or not parts[4].isascii()
            or not parts[4].isdigit()
            or int(parts[4]) > 65_535
        ):
            raise RemoteProtocolError(f"{address!r} has no valid host and port", address=address)
        return cls(parts[2], int(parts[4]), tail[1] if tail else None)

    def __str__(self) -> str:
        kind = "ip6" if ":" in self.host else "ip4"
        return f"/{kind}/{self.host}/tcp/{self.port}"
