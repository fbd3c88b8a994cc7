"""Finding peers of our mesh on the local network by mDNS, on no interface but those that we listen
on.

What mDNS says is a hint: whoever answers at such an address must still prove its identity and its
membership. Where multicast does not work, one log line says so and everything else goes on.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Callable
from typing import Final

import trio
import zeroconf

from peer.addresses import Endpoint, PeerAddress, announced, endpoint_of
from protocols.errors import RemoteProtocolError
from protocols.keys import PeerId

log = logging.getLogger(__name__)

SERVICE: Final = "_covey._tcp.local."
RESOLVE_TIMEOUT_MS: Final = 3_000
MESH_TAG_CHARS: Final = 16  # tells meshes apart; the certificate proves

FoundCallback = Callable[[PeerAddress], None]


class Mdns:
    """Announces this peer and reports others of the same mesh to ``found``, in the trio thread."""

    def __init__(self, own: PeerId, mesh: bytes, found: FoundCallback) -> None:
        self._own = own
        self._tag = mesh_tag(mesh)
        self._found = found
        self._limiter = trio.CapacityLimiter(1)

    async def run(
        self,
        listening: list[str],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Announce and browse until cancelled; ``listening`` are the transport's addresses."""
        task_status.started()
        endpoints = endpoints_to_announce(listening)
        if not endpoints:
            log.info("mdns is off", extra={"why": "no IPv4 address to announce"})
            await trio.sleep_forever()
        token = trio.lowlevel.current_trio_token()
        browser = Browser(self._own, self._tag, endpoints, lambda p: self._report(token, p))
        try:
            await trio.to_thread.run_sync(browser.open, limiter=self._limiter)
            await trio.sleep_forever()
        except (OSError, zeroconf.Error) as error:
            log.warning("mdns is off", extra={"why": str(error) or type(error).__name__})
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):  # says goodbye, so that others forget us at once
                await trio.to_thread.run_sync(browser.close, limiter=self._limiter)

    def _report(self, token: trio.lowlevel.TrioToken, found: PeerAddress) -> None:
        """Bring what the browser's thread found to the trio thread."""
        try:
            token.run_sync_soon(self._found, found)
        except trio.RunFinishedError:
            log.debug("found after the end", extra={"peer": found.peer_id})


class Browser(zeroconf.ServiceListener):
    """The blocking side: one ``Zeroconf`` on given interfaces, with its threads."""

    def __init__(
        self, own: PeerId, tag: str, endpoints: list[Endpoint], found: FoundCallback
    ) -> None:
        self._own = own
        self._tag = tag
        self._endpoints = endpoints
        self._found = found
        self._zeroconf: zeroconf.Zeroconf | None = None

    def open(self) -> None:
        """Announce this peer and start to browse; takes about half a second. Raises ``OSError`` or
        ``zeroconf.Error``.
        """
        hosts = [endpoint.host for endpoint in self._endpoints]
        self._zeroconf = zeroconf.Zeroconf(interfaces=hosts, ip_version=zeroconf.IPVersion.V4Only)
        zeroconf.ServiceBrowser(self._zeroconf, SERVICE, listener=self)
        # Two processes of one identity would be one name; the hello is where that is found out.
        self._zeroconf.register_service(self._service(), cooperating_responders=True)

    def close(self) -> None:
        """Withdraw the announcement and end every thread; does nothing when ``open`` failed."""
        if self._zeroconf is not None:
            self._zeroconf.unregister_all_services()
            self._zeroconf.close()

    def add_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """Look up a service that appeared."""
        service = zc.get_service_info(type_, name, timeout=RESOLVE_TIMEOUT_MS)
        for found in self._addresses_of(service):
            self._found(found)

    def update_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """Look up a service whose address changed."""
        self.add_service(zc, type_, name)

    def remove_service(self, zc: zeroconf.Zeroconf, type_: str, name: str) -> None:
        """Leave a goodbye to the connection, which knows better whether the peer is gone."""

    def _service(self) -> zeroconf.ServiceInfo:
        return zeroconf.ServiceInfo(
            SERVICE,
            f"{self._own}.{SERVICE}",
            addresses=[socket.inet_aton(endpoint.host) for endpoint in self._endpoints],
            port=self._endpoints[0].port,
            properties={"peer": self._own, "mesh": self._tag},
            server=f"{self._own}.local.",
        )

    def _addresses_of(self, service: zeroconf.ServiceInfo | None) -> list[PeerAddress]:
        """Where a peer of our mesh may be dialled from here; nothing for any other service."""
        if service is None or service.decoded_properties.get("mesh") != self._tag:
            return []
        peer_id = service.decoded_properties.get("peer")
        hosts = service.parsed_addresses(zeroconf.IPVersion.V4Only)
        endpoints = [Endpoint(host, service.port or 0) for host in hosts]
        reachable = [e for e in endpoints if e.is_loopback == self._endpoints[0].is_loopback]
        try:
            found = [PeerAddress.parse(f"{e.multiaddr}/p2p/{peer_id}") for e in reachable]
        except RemoteProtocolError:
            return []
        return found if peer_id != self._own else []


def endpoints_to_announce(listening: list[str]) -> list[Endpoint]:
    """Return the endpoints of one port that the network can reach, or loopback's if there is no
    other.
    """
    endpoints = [endpoint_of(address) for address in announced(listening)]
    known = [endpoint for endpoint in endpoints if endpoint is not None]
    chosen = [endpoint for endpoint in known if not endpoint.is_loopback] or known
    return [endpoint for endpoint in chosen if endpoint.port == chosen[0].port]


def mesh_tag(mesh: bytes) -> str:
    """What a mesh is called on the local network: a short digest that does not tell its name."""
    return hashlib.sha256(b"covey mdns" + mesh).hexdigest()[:MESH_TAG_CHARS]
