"""Who is refused at hello, and what becomes of the connection."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from protocols.errors import (
    Refused,
    RemoteProtocolError,
)
from protocols.hello import CODEC, Hello, HelloRefusal, HelloReply, Introduction, Standing
from protocols.membership import HELLO_PROTOCOL, TOLERANCE_US, Membership
from tests.support.members import (
    DAY_US,
    NOW_US,
    Clock,
    TestMesh,
    TestPeer,
    key_of,
    peer_of,
    running,
)
from tests.support.memory import MemoryNetwork

MESH = TestMesh()


def member(network: MemoryNetwork, number: int, *roles: str) -> TestPeer:
    return peer_of(network, number, MESH.membership(key_of(number), *roles))


def introduction_of(peer: TestPeer, **changes: object) -> Introduction:
    shown = peer.identity.member
    fields: dict[str, object] = {
        "versions": (1,),
        "features": (),
        "mesh": shown.mesh,
        "certificate": shown.certificate.encode(),
        "issuer_certificate": shown.issuer_certificate.encode(),
        "standing": Standing(1, 1, 0),
        "seen": Standing(),
        "addresses": (),
    }
    return Introduction(**fields | changes)


async def refused_code(one: TestPeer, two: TestPeer) -> str:
    """Let ``one`` dial ``two`` and return why that failed; neither serves the other afterwards."""
    async with running(one, two):
        with pytest.raises((Refused, RemoteProtocolError)) as caught:
            await one.connect(two)
        await trio.sleep(5)
        assert caught.value.hint
        for peer, other in ((one, two), (two, one)):
            assert not peer.transport.is_admitted(other.peer_id)
            assert other.peer_id not in peer.transport.connected()
            assert peer.directory.get(other.peer_id) is None
    return caught.value.code


async def test_a_peer_of_another_mesh_is_refused_with_what_to_do(autojump_clock: MockClock):
    network = MemoryNetwork()
    stranger = TestMesh(root=key_of(50), admitter=key_of(51)).membership(key_of(2))

    assert await refused_code(member(network, 1), peer_of(network, 2, stranger)) == "wrong-mesh"


async def test_an_expired_certificate_is_refused_by_the_acceptor(autojump_clock: MockClock):
    network = MemoryNetwork()
    clock = Clock(NOW_US + 31 * DAY_US)
    fresh = Membership(
        MESH.membership(key_of(2), now_us=clock.now_us).certificate, MESH.admitter_certificate
    )
    acceptor = peer_of(network, 2, fresh, clock)
    dialer = peer_of(network, 1, MESH.membership(key_of(1)), clock)

    assert await refused_code(dialer, acceptor) == "certificate-expired"


async def test_an_expired_certificate_of_the_acceptor_closes_the_connection_too(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    end_us = NOW_US + 30 * DAY_US
    later = Membership(
        MESH.membership(key_of(1), now_us=end_us).certificate, MESH.admitter_certificate
    )
    dialer = peer_of(network, 1, later, Clock(end_us + TOLERANCE_US + 1))
    acceptor = peer_of(network, 2, MESH.membership(key_of(2)), Clock(end_us))

    assert await refused_code(dialer, acceptor) == "certificate-expired"


@pytest.mark.parametrize("days", [1, -1])
@pytest.mark.parametrize("wrong", [1, 2])
async def test_a_clock_that_is_a_day_off_is_named_by_the_evidence_of_the_neighbours(
    autojump_clock: MockClock, days: int, wrong: int
):
    network = MemoryNetwork()
    off = Clock(NOW_US + days * DAY_US)
    members = {
        n: peer_of(
            network,
            n,
            MESH.membership(key_of(n), now_us=NOW_US - 5 * DAY_US),
            off if n == wrong else None,
        )
        for n in (1, 2)
    }
    friend = peer_of(network, 3, MESH.membership(key_of(3)))
    right = members[3 - wrong]
    friend.seeks = right.seeks = False

    async with running(friend, *members.values()):
        await right.connect(friend)
        with pytest.raises((Refused, RemoteProtocolError)) as caught:
            await members[1].connect(members[2])

    assert caught.value.code == "clock"
    assert f"that of {members[wrong].peer_id} seems wrong" in caught.value.message
    assert "1 days and 0 hours" in caught.value.message
    assert members[wrong].peer_id in (caught.value.hint or "")


async def test_of_two_clocks_the_one_before_a_certificate_was_issued_is_wrong(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    behind = peer_of(network, 1, MESH.membership(key_of(1)), Clock(NOW_US - DAY_US))

    other = member(network, 2)

    async with running(behind, other):
        with pytest.raises((Refused, RemoteProtocolError)) as caught:
            await behind.connect(other)

    assert caught.value.code == "clock"
    assert f"that of {behind.peer_id} seems wrong" in caught.value.message


async def test_minutes_between_two_clocks_are_nobodys_business(autojump_clock: MockClock):
    network = MemoryNetwork()
    late = peer_of(network, 1, MESH.membership(key_of(1)), Clock(NOW_US + TOLERANCE_US))
    other = member(network, 2)

    async with running(late, other):
        await late.connect(other)

        assert late.has_met(other)


async def test_a_stolen_certificate_is_refused_because_the_channel_proves_another_peer(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    thief = peer_of(network, 1, MESH.membership(key_of(9)))

    assert await refused_code(thief, member(network, 2)) == "wrong-peer"


async def test_an_acceptor_with_a_stolen_certificate_is_refused_by_the_dialer(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    thief = peer_of(network, 2, MESH.membership(key_of(9)))

    assert await refused_code(member(network, 1), thief) == "wrong-peer"


async def test_a_certificate_of_a_member_who_is_no_admitter_is_refused(autojump_clock: MockClock):
    network = MemoryNetwork()
    insider = MESH.membership(key_of(9), "admitter")  # by an admitter, not by the root
    forger = TestMesh(root=MESH.root, admitter=key_of(9))
    forged = Membership(forger.membership(key_of(1)).certificate, insider.certificate)

    code = await refused_code(peer_of(network, 1, forged), member(network, 2))

    assert code == "certificate-invalid"


async def ask(one: TestPeer, two: TestPeer, hello: object) -> object:
    """Send ``two`` one handmade frame and return its first answer."""
    await one.transport.dial(two.peer_id, two.transport.addresses)
    stream = await one.transport.open_stream(two.peer_id, HELLO_PROTOCOL)
    await stream.send(hello if isinstance(hello, bytes) else CODEC.encode([hello]))
    frame = await stream.receive()
    await stream.reset()
    return CODEC.decode(frame)[0] if frame else None


async def test_versions_without_overlap_are_refused_in_a_sentence(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        answer = await ask(one, two, Hello(introduction_of(one, versions=(7, 8))))

    assert isinstance(answer, HelloRefusal)
    assert answer.code == "version"
    assert one.peer_id in answer.reason
    assert f"update covey on the machine that is not {one.peer_id}" in answer.hint


async def test_an_older_covey_is_told_by_name_that_it_is_the_older_one(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        answer = await ask(one, two, Hello(introduction_of(one, versions=(0,))))

    assert isinstance(answer, HelloRefusal)
    assert f"update covey on {one.peer_id}" in answer.hint


async def test_of_several_versions_the_common_one_is_chosen(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        answer = await ask(one, two, Hello(introduction_of(one, versions=(1, 2))))

    assert isinstance(answer, HelloReply)
    assert answer.version == 1


@pytest.mark.parametrize("frame", [b"garbage", CODEC.encode([HelloRefusal("x", "y")]), b"\x80"])
async def test_a_frame_that_is_no_hello_is_refused_and_the_connection_closed(
    autojump_clock: MockClock, frame: bytes
):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        answer = await ask(one, two, frame)
        await trio.sleep(5)

        assert isinstance(answer, HelloRefusal)
        assert one.peer_id not in two.transport.connected()


async def test_nobody_is_admitted_for_half_a_hello(autojump_clock: MockClock):
    network = MemoryNetwork()
    one, two = member(network, 1), member(network, 2)

    async with running(one, two):
        await ask(one, two, Hello(introduction_of(one)))
        await trio.sleep(5)

        assert not two.transport.is_admitted(one.peer_id)
        assert two.directory.get(one.peer_id) is None
        assert one.peer_id not in two.transport.connected()
