"""A revoked peer is out: at once where its neighbours are told, at the next hello elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from peer.identity import Identity, init_mesh
from peer.join import join, open_admitter
from peer.member import check_membership
from peer.revocations import REVOCATIONS_FILE, Revocations, revoke
from protocols.errors import (
    CoveyError,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
    TransportError,
)
from protocols.membership import SESSION_PROTOCOL, revocation_topic
from protocols.revocation import FOREVER_US, signed_list
from protocols.transport import Stream
from tests.support.jobs import JobMesh, spec
from tests.support.members import (
    DAY_US,
    NOW_US,
    Clock,
    TestMesh,
    TestPeer,
    effects_of,
    key_of,
    peer_of,
    running,
)
from tests.support.memory import MemoryNetwork

MESH = TestMesh()
SOON_S = 5.0


def member(network: MemoryNetwork, number: int, *roles: str, is_root: bool = False) -> TestPeer:
    membership = MESH.membership(key_of(number), *roles)
    return peer_of(network, number, membership, root=MESH.root if is_root else None)


def book(home: Path, root: bool = True) -> Revocations:
    if root:
        (home / "root.key").write_text(MESH.root.seed.hex())
        (home / "root.key").chmod(0o600)
    return Revocations.open(home, MESH.root.public, effects_of())


async def meet_all(*peers: TestPeer) -> None:
    for number, one in enumerate(peers):
        for other in peers[number + 1 :]:
            await one.connect(other)


def is_out(peer: TestPeer, everyone: list[TestPeer]) -> bool:
    """Whether nobody has anything to do with ``peer``."""
    return all(
        peer.peer_id not in other.transport.connected()
        and other.directory.get(peer.peer_id) is None
        and other.directory.roles(peer.peer_id) == ()
        for other in everyone
    )


async def test_within_seconds_a_revoked_peer_is_out_everywhere_and_stays_out(
    autojump_clock: MockClock,
):
    network = MemoryNetwork(delay_s=(0.0, 0.05))
    peers = [member(network, n, is_root=n == 1) for n in range(1, 7)]
    *others, revoked = peers

    async with running(*peers):
        await meet_all(*peers)
        others[0].directory.revocations.revoke(revoked.peer_id)
        await trio.sleep(SOON_S)
        assert is_out(revoked, others)
        await trio.sleep(600)
        assert is_out(revoked, others)

        assert [peer.directory.revocations.version for peer in peers] == [1] * 6
        assert revoked.gatekeeper.is_revoked
        assert all(one.has_met(other) for one in others for other in others if one is not other)


async def test_a_list_that_gossip_loses_comes_with_the_next_hello(autojump_clock: MockClock):
    network = MemoryNetwork(gossip_loss=1.0)
    root, friend, revoked = (member(network, n, is_root=n == 1) for n in (1, 2, 3))

    async with running(root, friend, revoked):
        await meet_all(root, friend, revoked)
        root.directory.revocations.revoke(revoked.peer_id)
        await trio.sleep(SOON_S)
        network.reset(root.peer_id, friend.peer_id)
        await trio.sleep(SOON_S)

        assert is_out(revoked, [root, friend])


@pytest.mark.parametrize("knows", ["dialer", "acceptor"])
async def test_a_hello_is_refused_with_a_reason_and_shows_the_list(
    autojump_clock: MockClock, knows: str
):
    network = MemoryNetwork()
    root, revoked = member(network, 1, is_root=True), member(network, 2)
    root.seeks = revoked.seeks = False
    root.directory.revocations.revoke(revoked.peer_id)
    one, two = (root, revoked) if knows == "dialer" else (revoked, root)

    async with running(root, revoked):
        with pytest.raises((Refused, RemoteProtocolError)) as caught:
            await one.connect(two)

        assert caught.value.code == "revoked"
        assert "new peer" in (caught.value.hint or "")
        assert revoked.gatekeeper.is_revoked
        assert not root.transport.is_admitted(revoked.peer_id)


async def test_whoever_is_behind_learns_the_newer_list_before_it_admits_anybody(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    root, late, revoked = (member(network, n, is_root=n == 1) for n in (1, 2, 3))
    for peer in (root, late, revoked):
        peer.seeks = False
    root.directory.revocations.revoke(revoked.peer_id)

    async with running(root, late, revoked):
        await root.connect(late)
        with pytest.raises((Refused, RemoteProtocolError)) as caught:
            await revoked.connect(late)

    assert caught.value.code == "revoked"


async def test_adverts_of_a_revoked_peer_are_dropped_from_hello_and_gossip(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    root, friend = member(network, 1, is_root=True), member(network, 2)
    root.directory.learn(MESH.advert(key_of(9)))
    friend.directory.learn(MESH.advert(key_of(9)))
    root.directory.revocations.revoke(key_of(9).peer_id)

    async with running(root, friend):
        await root.connect(friend)

        for peer in (root, friend):
            assert peer.directory.get(key_of(9).peer_id) is None
            with pytest.raises(RemoteProtocolError) as caught:
                peer.directory.learn(MESH.advert(key_of(9), sequence=7))
            assert caught.value.code == "revoked"


async def test_members_of_a_revoked_admitter_are_out_with_it(autojump_clock: MockClock):
    network = MemoryNetwork()
    root_certificate = TestMesh(root=MESH.root, admitter=key_of(1))
    root = peer_of(network, 1, root_certificate.membership(key_of(1)), root=MESH.root)
    friend = peer_of(network, 2, root_certificate.membership(key_of(2)))
    admitted = member(network, 3)

    async with running(root, friend, admitted):
        await meet_all(root, friend, admitted)
        root.directory.revocations.revoke(MESH.admitter.peer_id)
        await trio.sleep(SOON_S)

        assert is_out(admitted, [root, friend])
        assert root.has_met(friend)


async def test_gossip_passes_on_only_what_is_newer_and_the_roots(autojump_clock: MockClock):
    network = MemoryNetwork()
    one = member(network, 1)
    validator, handler = one.transport._topics[revocation_topic(MESH.root.public)]
    sender = key_of(3).peer_id
    one.directory.met(sender, MESH.membership(key_of(3)), ())
    lists = {
        version: signed_list(MESH.root, {key_of(9).public: FOREVER_US}, version, NOW_US).encode()
        for version in (1, 2)
    }
    foreign = signed_list(MESH.admitter, {key_of(9).public: FOREVER_US}, 3, NOW_US).encode()

    assert not any(validator(sender, payload) for payload in (b"", b"\xff" * 90, foreign))
    assert validator(sender, lists[2])
    handler(sender, lists[2])
    assert not any(validator(sender, payload) for payload in lists.values())
    handler(sender, lists[1])

    assert one.directory.revocations.version == 2


async def test_a_revoked_submitter_loses_its_sessions_and_gets_no_work_done(
    autojump_clock: MockClock,
):
    mesh = JobMesh()
    worker, submitter = mesh.add("worker"), mesh.add("submitter")
    shown = signed_list(mesh.mesh.root, {submitter.key.public: FOREVER_US}, 1, NOW_US).encode()

    async with mesh.running():
        await submitter.transport.dial(worker.peer_id, worker.transport.addresses)
        await submitter.submitter.run(spec(1))
        worker.directory.revocations.learn(shown)

        assert not worker.directory.may(submitter.peer_id, SESSION_PROTOCOL)
        with pytest.raises(CoveyError):
            await submitter.submitter.run(spec(2, budget_ms=3_000))


async def test_a_revoked_worker_is_no_candidate(autojump_clock: MockClock):
    mesh = JobMesh()
    worker, submitter = mesh.add("worker"), mesh.add("submitter")
    shown = signed_list(mesh.mesh.root, {worker.key.public: FOREVER_US}, 1, NOW_US).encode()

    async with mesh.running():
        assert [entry.peer_id for entry in submitter.directory.workers()] == [worker.peer_id]
        submitter.directory.revocations.learn(shown)

        assert submitter.directory.workers() == []


async def test_a_session_ends_with_the_connection_of_a_revoked_peer(autojump_clock: MockClock):
    network = MemoryNetwork()
    root, revoked = member(network, 1, is_root=True), member(network, 2)
    ended = trio.Event()

    async def serve(stream: Stream) -> None:
        try:
            await stream.receive()
        except TransportError:
            ended.set()

    root.transport.serve(SESSION_PROTOCOL, serve)
    async with running(root, revoked):
        await revoked.connect(root)
        await revoked.transport.open_stream(root.peer_id, SESSION_PROTOCOL)
        root.directory.revocations.revoke(revoked.peer_id)
        with trio.fail_after(SOON_S):
            await ended.wait()


async def test_a_certificate_that_expires_on_a_living_connection_closes_it(
    autojump_clock: MockClock,
):
    network = MemoryNetwork()
    clock = Clock()
    one, two = peer_of(network, 1, MESH.membership(key_of(1)), clock), member(network, 2)
    one.seeks = two.seeks = False

    async with running(one, two):
        await one.connect(two)
        clock.now_us += 31 * DAY_US
        await trio.sleep(90)

        assert two.peer_id not in one.transport.connected()


async def test_the_list_outlives_a_restart_and_a_revoked_daemon_does_not_start(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of(1))
    identity.save(MESH.membership(identity.key))
    shown = signed_list(MESH.root, {identity.key.public: FOREVER_US}, 3, NOW_US)
    check_membership(identity, effects_of())
    book(tmp_path, root=False).learn(shown.encode())

    assert book(tmp_path, root=False).version == 3
    with pytest.raises(RemoteProtocolError) as caught:
        check_membership(identity, effects_of())

    assert caught.value.code == "revoked"


def test_only_a_higher_version_replaces_the_list(tmp_path: Path):
    older, newer = (
        signed_list(MESH.root, {key_of(n).public: FOREVER_US}, n, NOW_US).encode() for n in (4, 5)
    )
    known = book(tmp_path, root=False)

    assert [known.learn(shown) for shown in (older, newer, newer, older)] == [
        True,
        True,
        False,
        False,
    ]
    assert known.version == 5


def test_two_holders_of_the_root_key_that_revoked_apart_end_with_both(tmp_path: Path):
    homes = [tmp_path / name for name in ("one", "two")]
    for home in homes:
        home.mkdir()
    one, two = (book(home) for home in homes)
    one.revoke(key_of(8).peer_id)
    two.revoke(key_of(9).peer_id)

    for _ in range(2):
        two.learn(one.encoded or b"")
        one.learn(two.encoded or b"")

    assert one.peers == two.peers == sorted([key_of(8).peer_id, key_of(9).peer_id])
    assert one.version == two.version
    assert not one.learn(two.encoded or b"")


def test_revoking_takes_the_root_key(tmp_path: Path):
    with pytest.raises(LocalProtocolError) as caught:
        book(tmp_path, root=False).revoke(key_of(8).peer_id)

    assert caught.value.code == "no-root-key"
    assert caught.value.hint


def test_revoking_twice_changes_nothing_and_oneself_is_not_possible(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of(1))
    known = book(tmp_path)

    first = revoke(known, identity, key_of(8).peer_id)
    second = revoke(known, identity, key_of(8).peer_id)
    with pytest.raises(LocalProtocolError) as caught:
        revoke(known, identity, identity.peer_id)

    assert (first["is_news"], second["is_news"], known.version) == (True, False, 1)
    assert caught.value.code == "revoke-self"


@pytest.mark.parametrize("text", ["", "nobody", "12D3KooW" + "1" * 44])
def test_a_revocation_of_what_is_no_peer_id_is_refused(tmp_path: Path, text: str):
    with pytest.raises(RemoteProtocolError):
        book(tmp_path).revoke(text)


def test_a_list_that_cannot_be_written_counts_until_the_next_start(tmp_path: Path):
    known = book(tmp_path, root=False)
    (tmp_path / f"{REVOCATIONS_FILE}.new").mkdir()  # where a full disk would refuse the new file

    assert known.learn(signed_list(MESH.root, {key_of(8).public: FOREVER_US}, 1, NOW_US).encode())

    assert known.peers == [key_of(8).peer_id]


def test_a_damaged_file_says_what_to_do(tmp_path: Path):
    (tmp_path / REVOCATIONS_FILE).write_bytes(b"garbage")

    with pytest.raises(CoveyError) as caught:
        book(tmp_path)

    assert caught.value.code == "revocations-damaged"
    assert caught.value.hint


async def test_a_revoked_peer_joins_neither_with_its_old_ticket_nor_with_a_new_one(
    autojump_clock: MockClock, tmp_path: Path
):
    network = MemoryNetwork()
    identity = Identity.create(tmp_path, effects_of(1))
    init_mesh(identity, effects_of(2))
    revocations = Revocations.open(tmp_path, identity.member.mesh, effects_of())
    admitter = open_admitter(identity, effects_of(3), revocations)
    door, visitor = network.transport(identity.key), network.transport(key_of(7))
    admitter.serve(door)
    old, new = (admitter.ticket(("worker",), tuple(door.addresses)) for _ in range(2))

    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        await nursery.start(visitor.run)
        await join(visitor, old, key_of(7), effects_of())
        revocations.revoke(key_of(7).peer_id)
        codes: list[str] = []
        for ticket in (old, new):
            with pytest.raises(Refused) as caught:
                await join(visitor, ticket, key_of(7), effects_of())
            codes.append(caught.value.code)
        nursery.cancel_scope.cancel()

    assert codes == ["revoked", "revoked"]


def test_an_old_list_that_only_holds_what_has_expired_makes_nobody_sign_anew(tmp_path: Path):
    clock = Clock()
    (tmp_path / "root.key").write_text(MESH.root.seed.hex())
    (tmp_path / "root.key").chmod(0o600)
    known = Revocations.open(tmp_path, MESH.root.public, effects_of(1, clock))
    known.revoke(key_of(8).peer_id, NOW_US)
    known.revoke(key_of(9).peer_id)
    old = signed_list(MESH.root, {key_of(8).public: NOW_US}, 1, NOW_US).encode()
    clock.now_us += 40 * DAY_US
    known.revoke(key_of(7).peer_id)

    version = known.version
    assert not any(known.learn(old) for _ in range(3))
    assert known.version == version
