"""Certificates are renewed by themselves, and goodbyes are heard."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from peer.identity import Identity, init_mesh
from peer.join import Admitter, ask, join, open_admitter
from peer.leaving import check_may_leave, from_ticket, leave
from peer.member import check_membership
from peer.renewal import Renewer, is_due
from peer.revocations import Revocations
from protocols.errors import CoveyError, LocalProtocolError, RemoteProtocolError
from protocols.join import CODEC, JoinRefusal, JoinReply, RenewRequest
from protocols.keys import PeerId
from protocols.limits import RENEW_CHECK_S
from protocols.membership import JOIN_PROTOCOL, Membership, verify_chain
from tests.support.members import DAY_US, Clock, TestPeer, effects_of, key_of, peer_of
from tests.support.memory import MemoryNetwork

US_A_S = 1_000_000


class MovingClock(Clock):
    """A wall clock that follows trio's."""

    def read(self) -> int:
        return self.now_us + int(trio.current_time() * US_A_S)


@dataclass
class Member:
    """A running peer with a home, that renews itself."""

    peer: TestPeer
    identity: Identity
    admitter: Admitter | None
    renewer: Renewer
    revocations: Revocations

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def membership(self) -> Membership:
        return self.identity.member

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.peer.run)
            await nursery.start(self.renewer.run)
            task_status.started()


@dataclass
class World:
    """One mesh: homes, a clock and a network."""

    path: Path
    network: MemoryNetwork
    clock: MovingClock

    def first(self) -> Member:
        identity = self._identity(1)
        init_mesh(identity, effects_of(1, self.clock))
        return self._member(1, identity)

    async def joined(self, number: int, door: Member, *roles: str) -> Member:
        """A member by a ticket of ``door``, whose transport must run."""
        identity = self._identity(number)
        assert door.admitter is not None
        ticket = door.admitter.ticket(
            roles or ("worker",), tuple(door.peer.transport.addresses), ttl_s=86_400
        )
        transport = self.network.transport(identity.key)
        async with trio.open_nursery() as nursery:
            await nursery.start(transport.run)
            effects = effects_of(number, self.clock)
            identity.save(await join(transport, ticket, identity.key, effects))
            nursery.cancel_scope.cancel()
        return self._member(number, identity)

    def _identity(self, number: int) -> Identity:
        home = self.path / str(number)
        home.mkdir()
        (home / "identity.key").write_text(key_of(number).seed.hex())
        (home / "identity.key").chmod(0o600)
        return Identity.load(home)

    def _member(self, number: int, identity: Identity) -> Member:
        effects = effects_of(number, self.clock)
        revocations = Revocations.open(identity.home, identity.member.mesh, effects)
        peer = peer_of(self.network, number, identity.member, self.clock, revocations=revocations)
        peer.identity.home = identity.home
        admitter = None
        if "admitter" in identity.member.roles:
            admitter = open_admitter(peer.identity, effects, revocations)
            admitter.serve(peer.transport)
        renewer = Renewer(
            peer.identity, peer.transport, peer.directory, effects, peer.advertiser.refresh
        )
        return Member(peer, peer.identity, admitter, renewer, revocations)


@asynccontextmanager
async def world(path: Path) -> AsyncGenerator[tuple[World, trio.Nursery]]:
    async with trio.open_nursery() as nursery:
        yield World(path, MemoryNetwork(), MovingClock()), nursery
        nursery.cancel_scope.cancel()


async def test_members_and_admitters_stay_members_for_months_without_anybody_doing_anything(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.run)
        second = await mesh.joined(2, first, "admitter")
        await nursery.start(second.run)
        await second.peer.connect(first.peer)
        member = await mesh.joined(3, second, "submitter", "worker")
        await nursery.start(member.run)
        await member.peer.connect(second.peer)
        everyone = (first, second, member)
        before = [each.membership.ends_us for each in everyone]

        for _ in range(40):
            mesh.clock.now_us += 2 * DAY_US
            await trio.sleep(3 * RENEW_CHECK_S)

            now_us = mesh.clock.read()
            for each in everyone:
                shown = each.membership
                chain = shown.certificate, shown.issuer_certificate
                verify_chain(shown.mesh, *chain, now_us)
                assert shown.ends_us - now_us > 10 * DAY_US
                for other in everyone:
                    known = other.peer.directory.roles(each.peer_id)
                    assert known == shown.roles
        assert all(each.peer.has_met(o.peer) for each in everyone for o in everyone if each != o)
        assert Identity.load(member.identity.home).member == member.membership
        assert all(a.membership.ends_us > b for a, b in zip(everyone, before, strict=True))
        assert member.membership.roles == ("submitter", "worker")
        assert member.membership.bootstrap


async def test_a_certificate_is_due_when_half_of_it_or_of_its_issuers_is_over(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.run)
        mesh.clock.now_us += 14 * DAY_US
        late = await mesh.joined(2, first)

        assert late.membership.certificate.half_life_us > mesh.clock.read() + 14 * DAY_US
        assert not is_due(late.membership, mesh.clock.read())
        assert is_due(late.membership, mesh.clock.read() + 2 * DAY_US)


async def renewal(member: Member, door: Member) -> object:
    """Ask for a renewal by hand and return the answer."""
    shown = member.membership
    chain = shown.certificate.encode(), shown.issuer_certificate.encode()
    transport = member.peer.transport
    await transport.dial(door.peer_id, door.peer.transport.addresses)
    return await ask(transport, door.peer_id, RenewRequest(shown.mesh, *chain))


async def test_a_revoked_member_is_not_renewed(autojump_clock: MockClock, tmp_path: Path):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.peer.transport.run)
        member = await mesh.joined(2, first)
        await nursery.start(member.peer.transport.run)
        assert isinstance(await renewal(member, first), JoinReply)

        first.revocations.revoke(member.peer_id)
        answer = await renewal(member, first)

    assert isinstance(answer, JoinRefusal)
    assert answer.code == "revoked"


async def test_an_expired_or_stolen_certificate_renews_nothing(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.peer.transport.run)
        one, two = await mesh.joined(2, first), await mesh.joined(3, first)
        for member in (one, two):
            await nursery.start(member.peer.transport.run)
        two.identity.membership = one.membership
        stolen = await renewal(two, first)
        mesh.clock.now_us += 31 * DAY_US
        expired = await renewal(one, first)

    assert isinstance(stolen, JoinRefusal)
    assert stolen.code == "wrong-peer"
    assert isinstance(expired, JoinRefusal)
    assert expired.code == "certificate-expired"
    assert "new ticket" in expired.hint


async def test_an_admitter_without_the_root_key_renews_members_and_no_admitters(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.peer.transport.run)
        second = await mesh.joined(2, first, "admitter")
        third = await mesh.joined(3, first, "admitter")
        await nursery.start(second.peer.transport.run)
        member = await mesh.joined(4, second, "observer")
        for each in (third, member):
            await nursery.start(each.peer.transport.run)

        assert isinstance(await renewal(member, second), JoinReply)
        answer = await renewal(third, second)

    assert isinstance(answer, JoinRefusal)
    assert answer.code == "no-root-key"


async def test_an_admitter_that_answers_with_other_roles_is_not_believed(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.run)
        member = await mesh.joined(2, first)
        await nursery.start(member.run)
        await member.peer.connect(first.peer)
        old = member.membership
        own = first.membership.certificate.encode()

        async def forge(stream):  # type: ignore[no-untyped-def]
            await stream.receive()
            await stream.send(CODEC.encode([JoinReply(own, own)]))
            await stream.finish()
            await stream.receive()

        first.peer.transport.serve(JOIN_PROTOCOL, forge, before_hello=True)

        assert not await member.renewer.renew()
        assert member.membership == old


async def test_a_certificate_that_cannot_be_written_is_renewed_later(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.peer.run)
        member = await mesh.joined(2, first)
        await nursery.start(member.peer.run)
        await member.peer.connect(first.peer)
        mesh.clock.now_us += 16 * DAY_US
        for each in (first, member):
            obstacle = each.identity.home / "membership.cbor.new"
            obstacle.mkdir()  # where a full disk would refuse the new file
            assert not await each.renewer.renew()
            obstacle.rmdir()
            assert await each.renewer.renew()


async def test_a_first_admitter_that_was_off_too_long_renews_itself_at_its_start(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, _):
        first = mesh.first()
        mesh.clock.now_us += 90 * DAY_US
        loaded = Identity.load(first.identity.home)

        shown = check_membership(loaded, effects_of(5, mesh.clock))

    assert shown.ends_us > mesh.clock.now_us + 29 * DAY_US
    assert shown.roles == first.membership.roles


async def test_a_member_that_was_off_too_long_is_told_what_to_do(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.peer.transport.run)
        member = await mesh.joined(2, first)
        mesh.clock.now_us += 31 * DAY_US
        with pytest.raises(RemoteProtocolError) as caught:
            check_membership(Identity.load(member.identity.home), effects_of(5, mesh.clock))

    assert caught.value.code == "certificate-expired"
    assert "hours ago" in caught.value.message
    assert "new ticket" in (caught.value.hint or "")


async def test_a_member_that_leaves_is_out_everywhere_and_may_join_again(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.run)
        member = await mesh.joined(2, first)
        await nursery.start(member.run)
        await member.peer.connect(first.peer)
        old = member.membership

        answer = await leave(member.identity, member.peer.transport, from_ticket(old))
        await trio.sleep(5)

        assert answer["told"] == [first.peer_id]
        assert answer["is_void"]
        assert first.peer.directory.get(member.peer_id) is None
        assert first.revocations.holds(old.certificate, old.issuer_certificate)
        assert first.revocations.peers == []
        again = Identity.load(member.identity.home)
        assert again.membership is None
        assert again.key.public == member.identity.key.public
        assert not first.revocations.is_barred(member.peer_id)


async def test_without_anybody_to_tell_a_member_leaves_all_the_same(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        async with trio.open_nursery() as door:
            await door.start(first.peer.transport.run)
            member = await mesh.joined(2, first)
            door.cancel_scope.cancel()
        await nursery.start(member.peer.transport.run)

        admitters = from_ticket(member.membership)
        answer = await leave(member.identity, member.peer.transport, admitters)

    assert (answer["told"], answer["is_void"]) == ([], False)
    assert Identity.load(member.identity.home).membership is None


async def test_whom_a_leaving_admitter_let_in_stays_a_member(
    autojump_clock: MockClock, tmp_path: Path
):
    async with world(tmp_path) as (mesh, nursery):
        first = mesh.first()
        await nursery.start(first.run)
        second = await mesh.joined(2, first, "admitter")
        await nursery.start(second.run)
        member = await mesh.joined(3, second)

        answer = await leave(second.identity, second.peer.transport, from_ticket(second.membership))
        shown = member.membership

        assert (answer["told"], answer["is_void"]) == ([first.peer_id], False)
        assert not first.revocations.holds(shown.certificate, shown.issuer_certificate)


def test_the_holder_of_the_root_key_does_not_leave(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of(1))
    init_mesh(identity, effects_of(1))

    with pytest.raises(LocalProtocolError) as caught:
        check_may_leave(identity)

    assert caught.value.code == "root-holder"
    assert "covey mesh backup" in (caught.value.hint or "")


def test_nobody_leaves_a_mesh_that_it_does_not_belong_to(tmp_path: Path):
    with pytest.raises(CoveyError) as caught:
        check_may_leave(Identity.create(tmp_path, effects_of(1)))

    assert caught.value.code == "no-mesh"
