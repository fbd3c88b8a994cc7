"""Addresses as people and peers write them: multiaddrs, with or without the peer at their end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Final

import ifaddr

from protocols.errors import RemoteProtocolError
from protocols.keys import PeerId, public_key_of
from protocols.limits import MAX_ADDRESSES

ANY: Final = "0.0.0.0"
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a peer may be dialled, and who must answer there."""

    peer_id: PeerId
    address: str

    @classmethod
    def parse(cls, text: str) -> PeerAddress:
        """Return what ``/ip4/…/tcp/…/p2p/PEER`` says; raise ``RemoteProtocolError`` with code
        ``address-malformed``.
        """
        address, found, peer_id = text.strip().rpartition("/p2p/")
        if not found or not address.startswith("/"):
            raise _malformed(text)
        try:
            public_key_of(peer_id)
        except RemoteProtocolError as error:
            raise _malformed(text) from error
        return cls(peer_id, address)

    def __str__(self) -> str:
        return f"{self.address}/p2p/{self.peer_id}"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An IPv4 address and TCP port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return IPv4Address(self.host).is_loopback

    @property
    def multiaddr(self) -> str:
        """The endpoint as a multiaddr."""
        return f"/ip4/{self.host}/tcp/{self.port}"


def endpoint_of(address: str) -> Endpoint | None:
    """Return the endpoint that a multiaddr ``/ip4/HOST/tcp/PORT`` names, None for any other."""
    match address.split("/"):
        case ["", "ip4", host, "tcp", port, *_] if port.isdecimal() and int(port) < 1 << 16:
            try:
                return Endpoint(str(IPv4Address(host)), int(port))
            except AddressValueError:
                return None
        case _:
            return None


def announced(listening: Iterable[str]) -> tuple[str, ...]:
    """Return the addresses to tell others when we listen at ``listening``: a listener on every
    interface is named by the address of each, loopback last.
    """
    return tuple(dict.fromkeys(_expanded(listening)))[:MAX_ADDRESSES]


def _expanded(listening: Iterable[str]) -> Iterator[str]:
    for address in listening:
        endpoint = endpoint_of(address)
        if endpoint is None or endpoint.host != ANY:
            yield address
            continue
        for host in interface_hosts():
            yield Endpoint(host, endpoint.port).multiaddr


def interface_hosts() -> list[str]:
    """The IPv4 addresses of this machine's interfaces, loopback last."""
    ips = (ip for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    hosts = {ip.ip for ip in ips if isinstance(ip.ip, str)} | {LOOPBACK}
    return sorted(hosts, key=lambda host: (IPv4Address(host).is_loopback, host))


def _malformed(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"{text[:120]!r} is not the address of a peer",
        code="address-malformed",
        hint="write /ip4/HOST/tcp/PORT/p2p/PEER, as `covey id` prints it",
    )
