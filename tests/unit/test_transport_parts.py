"""The transport's pure parts: addresses, the rate limit, what its import costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from protocols.errors import RemoteProtocolError
from protocols.transport.addresses import TcpAddress
from protocols.transport.rate import RateLimiter


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/ip4/127.0.0.1/tcp/4117", TcpAddress("127.0.0.1", 4117)),
        ("/ip6/::1/tcp/0", TcpAddress("::1", 0)),
        ("/dns4/node.example/tcp/80/p2p/12D3", TcpAddress("node.example", 80, "12D3")),
    ],
)
def test_a_tcp_multiaddr_is_read(text: str, address: TcpAddress):
    assert TcpAddress.parse(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "127.0.0.1:4117",
        "/ip4/127.0.0.1",
        "/ip4/127.0.0.1/udp/4117/quic-v1",
        "/ip4/127.0.0.1/tcp/x",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4//tcp/1",
        "/ip4/127.0.0.1/tcp/1/ws",
        "/ip4/127.0.0.1/tcp/1/p2p/12D3/p2p-circuit",
    ],
)
def test_any_other_address_is_refused(text: str):
    with pytest.raises(RemoteProtocolError):
        TcpAddress.parse(text)


def test_an_address_reads_back_as_it_was_written():
    for text in ("/ip4/127.0.0.1/tcp/4117", "/ip6/::1/tcp/4117"):
        assert str(TcpAddress.parse(text)) == text


def test_the_limiter_allows_its_rate_and_one_quiet_second_of_it_at_once():
    limiter = RateLimiter(10)

    assert sum(limiter.take(100.0) for _ in range(30)) == 10
    assert sum(limiter.take(100.5) for _ in range(30)) == 5
    assert sum(limiter.take(200.0) for _ in range(30)) == 10


def test_the_limiter_survives_a_clock_that_goes_back():
    limiter = RateLimiter(10)
    for _ in range(10):
        assert limiter.take(100.0)

    assert not limiter.take(50.0)


def test_importing_the_interface_does_not_import_libp2p():
    program = "import sys, protocols.transport; print('libp2p' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert done.stdout.strip() == "False"
