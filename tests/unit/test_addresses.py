"""Addresses as people write them."""

from __future__ import annotations

import pytest

from peer.addresses import Endpoint, PeerAddress, announced, endpoint_of
from peer.mdns import endpoints_to_announce, mesh_tag
from protocols.errors import RemoteProtocolError
from tests.support.members import key_of

PEER = key_of(1).peer_id


def test_an_address_names_the_peer_that_must_answer_there():
    text = f"/ip4/192.0.2.1/tcp/4117/p2p/{PEER}"

    parsed = PeerAddress.parse(f" {text}\n")

    assert parsed == PeerAddress(PEER, "/ip4/192.0.2.1/tcp/4117")
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text", ["", "192.0.2.1:4117", "/ip4/192.0.2.1/tcp/4117", "/ip4/1/tcp/1/p2p/nobody", "/p2p/x"]
)
def test_any_other_text_is_refused_with_the_form_to_write(text: str):
    with pytest.raises(RemoteProtocolError) as caught:
        PeerAddress.parse(text)

    assert caught.value.code == "address-malformed"
    assert "/p2p/PEER" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("/ip4/127.0.0.1/tcp/4117", Endpoint("127.0.0.1", 4117)),
        ("/ip4/127.0.0.1/tcp/4117/p2p/X", Endpoint("127.0.0.1", 4117)),
        ("/ip4/127.0.0.300/tcp/4117", None),
        ("/ip4/127.0.0.1/tcp/70000", None),
        ("/ip6/::1/tcp/4117", None),
        ("/dns4/node.example/tcp/4117", None),
        ("nonsense", None),
    ],
)
def test_only_an_ip4_and_tcp_address_is_an_endpoint(address: str, endpoint: Endpoint | None):
    assert endpoint_of(address) == endpoint


def test_a_listener_on_every_interface_is_announced_by_each_of_their_addresses():
    told = announced(["/ip4/0.0.0.0/tcp/4117", "/ip4/127.0.0.1/tcp/4117"])

    assert "/ip4/127.0.0.1/tcp/4117" in told
    assert not any("0.0.0.0" in address for address in told)
    assert len(set(told)) == len(told)


def test_on_the_network_loopback_is_announced_only_by_those_who_listen_nowhere_else():
    lan, loopback = "/ip4/192.0.2.1/tcp/4117", "/ip4/127.0.0.1/tcp/4117"

    assert endpoints_to_announce([loopback]) == [Endpoint("127.0.0.1", 4117)]
    assert endpoints_to_announce([loopback, lan]) == [Endpoint("192.0.2.1", 4117)]
    assert endpoints_to_announce(["/ip6/::1/tcp/4117"]) == []


def test_the_local_network_learns_no_mesh_name():
    assert key_of(1).public.hex()[:8] not in mesh_tag(key_of(1).public)
    assert mesh_tag(key_of(1).public) != mesh_tag(key_of(2).public)
