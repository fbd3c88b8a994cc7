"""Trading a ticket for a certificate."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from peer.identity import Identity, init_mesh
from peer.join import Admitter, join, open_admitter
from protocols.errors import LocalProtocolError, Refused, RemoteProtocolError, StreamLostError
from protocols.join import CODEC, JoinRefusal, JoinReply, JoinRequest
from protocols.keys import SigningKey
from protocols.limits import MAX_TICKET_GUESSES, TICKET_GUESS_WINDOW_S
from protocols.membership import JOIN_PROTOCOL, Membership, verify_chain
from protocols.ticket import Ticket
from protocols.transport import Stream
from tests.support.members import DAY_US, NOW_US, Clock, effects_of, key_of
from tests.support.memory import MemoryNetwork, MemoryTransport

HOUR_US = 3_600_000_000


@dataclass
class Door:
    """A mesh of one, and joiners who come to it."""

    home: Path
    network: MemoryNetwork
    clock: Clock
    transport: MemoryTransport
    identity: Identity
    admitter: Admitter
    nursery: trio.Nursery

    @property
    def mesh(self) -> bytes:
        return self.identity.member.mesh

    def ticket(self, *roles: str, ttl_s: int = 3_600) -> Ticket:
        return self.admitter.ticket(
            roles or ("submitter", "worker"), tuple(self.transport.addresses), ttl_s
        )

    async def restart(self) -> None:
        """Read everything from disk again, as after a kill."""
        self.identity = Identity.load(self.home)
        self.admitter = open_admitter(self.identity, effects_of(99, self.clock))
        self.admitter.serve(self.transport)

    async def visitor(self, key: SigningKey) -> MemoryTransport:
        """A running transport of somebody who wants to join, until the door closes."""
        transport = self.network.transport(key)
        await self.nursery.start(transport.run)
        return transport

    async def join(self, ticket: Ticket, key: SigningKey, program: str = "") -> Membership:
        transport = await self.visitor(key)
        try:
            return await join(transport, ticket, key, effects_of(clock=self.clock), program)
        finally:
            assert transport.connected() == set()

    async def refusal(self, ticket: Ticket, key: SigningKey) -> Refused:
        with pytest.raises(Refused) as caught:
            await self.join(ticket, key)
        return caught.value


@asynccontextmanager
async def door(home: Path) -> AsyncGenerator[Door]:
    network, clock = MemoryNetwork(), Clock()
    identity = Identity.create(home, effects_of(1))
    init_mesh(identity, effects_of(2, clock))
    transport = network.transport(identity.key)
    admitter = open_admitter(identity, effects_of(3, clock))
    admitter.serve(transport)
    async with trio.open_nursery() as nursery:
        await nursery.start(transport.run)
        yield Door(home, network, clock, transport, identity, admitter, nursery)
        nursery.cancel_scope.cancel()


async def test_a_ticket_buys_a_certificate_that_anybody_can_verify(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        ticket = Ticket.parse(str(mesh.ticket("worker")))

        membership = await mesh.join(ticket, key_of(1))

        verify_chain(mesh.mesh, membership.certificate, membership.issuer_certificate, NOW_US)
        assert membership.roles == ("worker",)
        assert membership.certificate.peer == key_of(1).public
        assert membership.bootstrap[0].endswith(f"/p2p/{mesh.identity.peer_id}")


async def test_a_ticket_is_good_for_one_peer(autojump_clock: MockClock, tmp_path: Path):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket()
        await mesh.join(ticket, key_of(1))

        refusal = await mesh.refusal(ticket, key_of(2))

        assert refusal.code == "ticket-used"
        assert "new ticket" in (refusal.hint or "")


async def test_the_same_peer_may_ask_again_and_gets_the_same_certificate(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket()
        first = await mesh.join(ticket, key_of(1))
        mesh.clock.now_us += HOUR_US // 2

        second = await mesh.join(ticket, key_of(1))

        assert second == first


async def test_a_used_ticket_stays_used_after_a_restart_of_the_admitter(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket()
        first = await mesh.join(ticket, key_of(1))
        await mesh.restart()

        assert (await mesh.refusal(ticket, key_of(2))).code == "ticket-used"
        assert await mesh.join(ticket, key_of(1)) == first


async def test_an_unused_ticket_outlives_a_restart_of_the_admitter(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket()
        await mesh.restart()

        assert (await mesh.join(ticket, key_of(1))).roles == ("submitter", "worker")


async def test_an_expired_ticket_is_refused_by_the_admitters_clock(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket(ttl_s=60)
        mesh.clock.now_us += 61_000_000

        assert (await mesh.refusal(ticket, key_of(1))).code == "ticket-expired"


async def test_a_ticket_long_expired_is_not_even_shown(autojump_clock: MockClock, tmp_path: Path):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket(ttl_s=60)
        mesh.network.transports.clear()
        mesh.clock.now_us += DAY_US

        assert (await mesh.refusal(ticket, key_of(1))).code == "ticket-expired"


async def test_a_ticket_that_was_never_issued_is_refused(autojump_clock: MockClock, tmp_path: Path):
    async with door(tmp_path) as mesh:
        assert (await mesh.refusal(forged(mesh.ticket(), 0), key_of(1))).code == "ticket-unknown"


def forged(ticket: Ticket, number: int) -> Ticket:
    return Ticket(
        version=1,
        mesh=ticket.mesh,
        admitter_key=ticket.admitter_key,
        addresses=ticket.addresses,
        secret=number.to_bytes(16, "big"),
        roles=ticket.roles,
        expires_us=ticket.expires_us,
    )


async def test_guesses_of_one_peer_are_limited_and_others_are_not_hindered(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket()
        for number in range(MAX_TICKET_GUESSES):
            await mesh.refusal(forged(ticket, number), key_of(1))

        refusal = await mesh.refusal(ticket, key_of(1))

        assert refusal.code == "too-many-guesses"
        assert refusal.retry_after_ms == TICKET_GUESS_WINDOW_S * 1_000
        assert await mesh.join(ticket, key_of(2))


async def test_after_a_minute_a_peer_may_try_again(autojump_clock: MockClock, tmp_path: Path):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket()
        for number in range(MAX_TICKET_GUESSES):
            await mesh.refusal(forged(ticket, number), key_of(1))
        await trio.sleep(TICKET_GUESS_WINDOW_S + 1)

        assert await mesh.join(ticket, key_of(1))


@pytest.mark.parametrize(
    ("role", "wrong", "right"),
    [("aggregator", "node", "aggregator"), ("worker", "aggregator", "node")],
)
async def test_a_ticket_for_the_other_program_is_refused_and_stays_good(
    autojump_clock: MockClock, tmp_path: Path, role: str, wrong: str, right: str
):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket(role)
        with pytest.raises(Refused) as refused:
            await mesh.join(ticket, key_of(1), wrong)

        membership = await mesh.join(ticket, key_of(2), right)

    assert refused.value.code == "ticket-program"
    assert role in membership.roles
    assert ("filer" in membership.roles) == (role == "aggregator")


async def test_when_the_filer_was_revoked_the_next_aggregator_becomes_it(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        lost = await mesh.join(mesh.ticket("aggregator"), key_of(1))
        other = await mesh.join(mesh.ticket("aggregator"), key_of(2))
        mesh.admitter._revocations.revoke(key_of(1).peer_id)

        heir = await mesh.join(mesh.ticket("aggregator"), key_of(2))
        third = await mesh.join(mesh.ticket("aggregator"), key_of(3))

    assert [m.roles for m in (lost, other)] == [("aggregator", "filer"), ("aggregator",)]
    assert [m.roles for m in (heir, third)] == [("aggregator", "filer"), ("aggregator",)]


async def test_a_filer_that_joins_again_is_the_filer_again(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        first = await mesh.join(mesh.ticket("aggregator"), key_of(1))
        again = await mesh.join(mesh.ticket("aggregator"), key_of(1))

    assert first.roles == again.roles == ("aggregator", "filer")


async def test_the_first_aggregator_becomes_the_filer_and_the_second_does_not(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        first = await mesh.join(mesh.ticket("aggregator"), key_of(1))
        await mesh.restart()
        second = await mesh.join(mesh.ticket("aggregator"), key_of(2))

        assert first.roles == ("aggregator", "filer")
        assert second.roles == ("aggregator",)


async def test_only_the_root_makes_admitters_and_they_admit_others(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        membership = await mesh.join(mesh.ticket("admitter", "worker"), key_of(1))

        assert membership.certificate == membership.issuer_certificate
        assert membership.certificate.issuer == mesh.mesh
        verify_chain(mesh.mesh, membership.certificate, membership.certificate, NOW_US)


async def test_without_the_root_key_no_admitter_is_made_and_no_filer(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        (tmp_path / "root.key").unlink()
        await mesh.restart()

        with pytest.raises(LocalProtocolError) as caught:
            mesh.ticket("admitter")
        aggregator = await mesh.join(mesh.ticket("aggregator"), key_of(1))

        assert caught.value.code == "no-root-key"
        assert aggregator.roles == ("aggregator",)


async def test_a_member_who_is_no_admitter_issues_no_tickets(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        home = tmp_path / "member"
        home.mkdir()
        identity = Identity.create(home, effects_of(7))
        identity.save(await mesh.join(mesh.ticket(), identity.key))

        with pytest.raises(LocalProtocolError) as caught:
            open_admitter(identity, effects_of()).ticket(("worker",), ("/ip4/127.0.0.1/tcp/1",))

        assert caught.value.code == "no-admitter"


@pytest.mark.parametrize("ttl_s", [0, -1, 10**9])
async def test_a_ticket_needs_a_sane_lifetime(
    autojump_clock: MockClock, tmp_path: Path, ttl_s: int
):
    async with door(tmp_path) as mesh:
        with pytest.raises(LocalProtocolError) as caught:
            mesh.ticket(ttl_s=ttl_s)

    assert caught.value.code == "ticket-ttl"


async def test_the_admitters_files_never_hold_a_secret(autojump_clock: MockClock, tmp_path: Path):
    async with door(tmp_path) as mesh:
        ticket = mesh.ticket()
        await mesh.join(ticket, key_of(1))

    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert ticket.secret not in kept
    assert ticket.secret.hex().encode() not in kept


async def ask(mesh: Door, frame: bytes) -> JoinReply | JoinRefusal | None:
    transport = await mesh.visitor(key_of(1))
    await transport.dial(mesh.identity.peer_id, mesh.transport.addresses)
    stream = await transport.open_stream(mesh.identity.peer_id, JOIN_PROTOCOL)
    await stream.send(frame)
    try:
        await stream.finish()
        answer = await stream.receive()
    except StreamLostError:
        return None
    decoded = CODEC.decode(answer)[0] if answer else None
    assert decoded is None or isinstance(decoded, JoinReply | JoinRefusal)
    return decoded


async def test_a_ticket_of_another_mesh_is_refused(autojump_clock: MockClock, tmp_path: Path):
    async with door(tmp_path) as mesh:
        request = JoinRequest(key_of(50).public, mesh.ticket().secret)

        answer = await ask(mesh, CODEC.encode([request]))

        assert isinstance(answer, JoinRefusal)
        assert answer.code == "wrong-mesh"


@pytest.mark.parametrize(
    "frame", [b"garbage", CODEC.encode([]), CODEC.encode([JoinReply(b"", b"")])]
)
async def test_garbage_ends_its_own_stream_and_the_admitter_goes_on(
    autojump_clock: MockClock, tmp_path: Path, frame: bytes
):
    async with door(tmp_path) as mesh:
        answer = await ask(mesh, frame)

        assert not isinstance(answer, JoinReply)
        assert await mesh.join(mesh.ticket(), key_of(2))


async def test_a_silent_admitter_ends_the_join_in_time(autojump_clock: MockClock, tmp_path: Path):
    async with door(tmp_path) as mesh:

        async def silence(stream: Stream) -> None:
            await trio.sleep_forever()

        mesh.transport.serve(JOIN_PROTOCOL, silence, before_hello=True)

        with pytest.raises(StreamLostError):
            await mesh.join(mesh.ticket(), key_of(1))


async def test_an_admitter_that_answers_with_a_forged_certificate_is_not_believed(
    autojump_clock: MockClock, tmp_path: Path
):
    async with door(tmp_path) as mesh:
        own = mesh.identity.member.certificate.encode()

        async def forge(stream: Stream) -> None:
            await stream.receive()
            await stream.send(CODEC.encode([JoinReply(own, own)]))
            await stream.finish()
            await stream.receive()

        mesh.transport.serve(JOIN_PROTOCOL, forge, before_hello=True)

        with pytest.raises(RemoteProtocolError):
            await mesh.join(mesh.ticket(), key_of(1))
