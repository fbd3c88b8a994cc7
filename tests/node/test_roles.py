"""Every protocol, message, topic and kind of record, times every role: what happens is what the
table says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from aggregator.decisions import Decision, Filed, Intent, Statement, to_attributes
from aggregator.intake import Findings
from node.admission import Admission
from node.benchmarks.echo import EchoServer
from peer.exchange import Exchange, policy_of
from peer.feeds import Feeds
from peer.identity import Identity, init_mesh
from peer.join import join, open_admitter
from peer.rows import RecordRow
from protocols import dagcbor, echo
from protocols.cid import CID
from protocols.errors import StreamLostError
from protocols.job import Refuse
from protocols.keys import SigningKey, pae
from protocols.membership import (
    ACKNOWLEDGEMENT,
    ADVERTS,
    ALLOWED,
    CERTIFICATE_TYPE,
    CHECKPOINT,
    DECISION,
    ECHO_PROTOCOL,
    FEED_PROTOCOL,
    FILING,
    HELLO_PROTOCOL,
    JOIN_PROTOCOL,
    LOSS,
    OFFER,
    RECORD_BY_NAME,
    REVOCATIONS,
    ROLES,
    SESSION_PROTOCOL,
    STRANGERS,
    TOMBSTONE,
    Membership,
    may,
)
from protocols.record import Record
from protocols.roster import CERTIFICATE_KIND, Roster
from protocols.sync import Message, Refuse as FeedRefuse, Seek, Side, encode, want_messages
from protocols.tombstone import Redactions, Tombstone
from protocols.transport import Stream
from protocols.worker_job import Load
from tests.support.feeds import open_journal
from tests.support.jobs import JobMesh
from tests.support.members import NOW_US, TestMesh, TestPeer, effects_of, key_of, peer_of, running
from tests.support.memory import MemoryNetwork
from tests.support.runners import FakeModels, FakeRunnerPool, model_of
from tests.unit.test_admission import offer

MESH = TestMesh()
UNKNOWN = "gardener"
EVERY_ROLE = (*ROLES, UNKNOWN)
US, THEM = key_of(1), key_of(2)

Probe = Callable[[Membership, Path], Awaitable[bool]]
"""Whether a member gets what one row of the table names."""


def member(key: SigningKey, role: str) -> Membership:
    """A member with exactly this role, which need not be one that this covey knows."""
    plain = MESH.membership(key, "worker")
    unsigned = msgspec.structs.replace(plain.certificate, roles=(role,))
    signature = MESH.admitter.sign(pae(CERTIFICATE_TYPE, unsigned.payload()))
    signed = msgspec.structs.replace(unsigned, signature=signature)
    return Membership(signed, plain.issuer_certificate)


def pair(theirs: Membership) -> tuple[TestPeer, TestPeer]:
    network = MemoryNetwork()
    us = peer_of(network, 1, MESH.membership(US), root=MESH.root)
    return us, peer_of(network, 2, theirs)


async def opens_a_session(theirs: Membership, _home: Path) -> bool:
    mesh = JobMesh()
    us, them = mesh.add("worker", "submitter"), mesh.add("submitter")
    us.directory.met(them.peer_id, theirs, ())
    is_open = True
    async with trio.open_nursery() as nursery:
        for run in (us.transport.run, us.sessions.run, them.transport.run):
            await nursery.start(run)
        await them.transport.dial(us.peer_id, us.transport.addresses)
        stream = await them.transport.open_stream(us.peer_id, SESSION_PROTOCOL)
        try:
            await stream.receive()
        except StreamLostError:
            is_open = False
        nursery.cancel_scope.cancel()
    return is_open


async def offers_a_job(theirs: Membership, _home: Path) -> bool:
    us, _ = pair(theirs)
    us.directory.met(THEM.peer_id, theirs, ())
    models = FakeModels({"m": model_of("m")})
    admission = Admission(us.directory, models, FakeRunnerPool())
    return not isinstance(admission.decide(THEM.peer_id, offer(), Load(0, 0)), Refuse)


async def reads_feeds(theirs: Membership, home: Path) -> bool:
    return await is_answered(theirs, home, next(want_messages({}, follow=False)), Side.puller())


async def asks_for_a_record(theirs: Membership, home: Path) -> bool:
    return await is_answered(theirs, home, Seek(1, (bytes(32),)), Side.seeker())


async def is_answered(theirs: Membership, home: Path, first: Message, side: Side) -> bool:
    us, them = pair(theirs)
    with closing(open_journal(home / "journal")) as journal:
        feeds = Feeds(journal, US, effects_of())
        exchange = Exchange(us.transport, feeds, policy_of(us.directory))
        async with running(us, them), trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            await nursery.start(exchange.run)
            await them.connect(us)
            stream = await them.transport.open_stream(us.peer_id, FEED_PROTOCOL)
            await stream.send(encode([first]))
            answers = side.receive(await stream.receive() or b"")
            await stream.reset()
            nursery.cancel_scope.cancel()
    return not any(isinstance(answer, FeedRefuse) for answer in answers)


async def measures_the_connection(theirs: Membership, _home: Path) -> bool:
    us, them = pair(theirs)
    EchoServer(us.transport, us.directory, lambda _: True)
    async with running(us, them):
        await them.connect(us)
        stream = await them.transport.open_stream(us.peer_id, ECHO_PROTOCOL)
        try:
            await stream.send(echo.ping())
            answer = await stream.receive()
        except StreamLostError:
            answer = None
        await stream.reset()
    return answer is not None


async def acknowledges(theirs: Membership, _home: Path) -> bool:
    us, _ = pair(theirs)
    us.directory.met(THEM.peer_id, theirs, ())
    return policy_of(us.directory).may_acknowledge(THEM.peer_id)


async def advertises(theirs: Membership, _home: Path) -> bool:
    us, them = pair(theirs)
    async with running(us, them):
        await them.connect(us)
        await trio.sleep(5)
        return us.knows(them)


async def passes_on_revocations(theirs: Membership, _home: Path) -> bool:
    """A member in the middle of a line carries the list to the far end."""
    network = MemoryNetwork()
    us = peer_of(network, 1, MESH.membership(US), root=MESH.root)
    them, far = peer_of(network, 2, theirs), peer_of(network, 3, MESH.membership(key_of(3)))
    for peer in (us, them, far):
        peer.seeks = False
    async with running(us, them, far):
        await us.connect(them)
        await them.connect(far)
        us.directory.revocations.revoke(key_of(9).peer_id)
        await trio.sleep(5)
        return far.directory.revocations.version == 1


def states(kind: str) -> Probe:
    group = "0" * 12
    statements: dict[str, Statement] = {
        "group.decision": Decision(action="ignore", group=group, revision=1, time_us=1),
        "issue.intent": Intent(group=group, tracker="folder", time_us=1),
        "issue.filed": Filed(group=group, tracker="folder", number=1, where="x", time_us=1),
    }

    async def probe(theirs: Membership, _home: Path) -> bool:
        findings = Findings(Roster(MESH.root.public))
        findings.add(row(kind, to_attributes(statements[kind])))
        findings.add(row(CERTIFICATE_KIND, shown(theirs)))
        return bool([*findings.decided, *findings.statements])

    return probe


async def redacts(theirs: Membership, _home: Path) -> bool:
    redactions = Redactions(MESH.root.public)
    cid = CID.of(b"a record")
    tombstone = Tombstone(records=(cid,), reason="why", authority="aggregator")
    attributes = {TOMBSTONE: tombstone.to_attributes(), CERTIFICATE_KIND: shown(theirs)}
    for kind, content in attributes.items():
        record = Record(
            author=THEM.public, nonce=b"n", kind=kind, start_us=1, attributes=dict(content)
        )
        redactions.take(record.encode(), THEM.public)
    return redactions.of(cid, US.public) is not None


async def vouches(theirs: Membership, _home: Path) -> bool:
    roster = Roster(MESH.root.public)
    roster.add(THEM.public, shown(theirs))
    return roster.may_state(THEM.public, CHECKPOINT)


async def gives_up(theirs: Membership, _path: Path) -> bool:
    roster = Roster(MESH.root.public)
    roster.add(THEM.public, shown(theirs))
    return roster.stating(LOSS) == [THEM.public]


def shown(theirs: Membership) -> dict[str, bytes]:
    return {
        "certificate": theirs.certificate.encode(),
        "issuer_certificate": theirs.issuer_certificate.encode(),
    }


def row(kind: str, attributes: dict[str, object], feed: bytes = THEM.public) -> RecordRow:
    encoded = dagcbor.encode(attributes)
    fields = {
        "cid": bytes(CID.of(kind.encode() + encoded)),
        "feed": feed,
        "kind": kind,
        "attributes": encoded,
    }
    rest = {name: None for name in RecordRow._fields if name not in fields}
    return RecordRow(**{**rest, **fields})  # type: ignore[arg-type]


PROBES: dict[str, Probe] = {
    SESSION_PROTOCOL: opens_a_session,
    OFFER: offers_a_job,
    FEED_PROTOCOL: reads_feeds,
    RECORD_BY_NAME: asks_for_a_record,
    ECHO_PROTOCOL: measures_the_connection,
    ACKNOWLEDGEMENT: acknowledges,
    ADVERTS: advertises,
    REVOCATIONS: passes_on_revocations,
    **{kind: states(kind) for kind in (DECISION, *FILING)},
    TOMBSTONE: redacts,
    CHECKPOINT: vouches,
    LOSS: gives_up,
}


def test_every_row_of_the_table_is_tried():
    assert PROBES.keys() == ALLOWED.keys()


@pytest.mark.parametrize("role", EVERY_ROLE)
@pytest.mark.parametrize("what", PROBES)
async def test_a_role_gets_what_the_table_says_and_nothing_else(
    autojump_clock: MockClock, tmp_path: Path, what: str, role: str
):
    happened = await PROBES[what](member(THEM, role), tmp_path)

    assert happened == may((role,), what)


@pytest.mark.parametrize("what", [SESSION_PROTOCOL, FEED_PROTOCOL, ECHO_PROTOCOL])
async def test_nobody_opens_a_protocol_before_hello(autojump_clock: MockClock, what: str):
    us, them = pair(MESH.membership(THEM, *ROLES))

    async def serve(stream: Stream) -> None:
        await stream.receive()

    us.transport.serve(what, serve)

    async with running(us, them):
        await them.transport.dial(us.peer_id, us.transport.addresses)
        with pytest.raises(Exception, match="does not serve"):
            await them.transport.open_stream(us.peer_id, what)


async def test_a_stranger_may_join_and_say_hello_and_that_is_all(
    autojump_clock: MockClock, tmp_path: Path
):
    us, them = pair(MESH.membership(THEM))
    identity = Identity.create(tmp_path, effects_of(1))
    init_mesh(identity, effects_of(2))
    open_admitter(identity, effects_of(3)).serve(us.transport)

    before_hello = {name for name, (_, is_open) in us.transport._handlers.items() if is_open}

    assert before_hello == STRANGERS == {JOIN_PROTOCOL, HELLO_PROTOCOL}
    assert not STRANGERS & ALLOWED.keys()
    async with running(us, them):
        await them.connect(us)


@pytest.mark.parametrize("role", ["admitter", "worker", "submitter", "aggregator", "observer"])
async def test_only_an_admitter_admits(autojump_clock: MockClock, tmp_path: Path, role: str):
    identity = Identity.create(tmp_path, effects_of(1))
    admitted = MESH.membership(identity.key, role, now_us=NOW_US)
    if role == "admitter":
        certificate = msgspec.structs.replace(MESH.admitter_certificate, peer=identity.key.public)
        signature = MESH.root.sign(pae(CERTIFICATE_TYPE, certificate.payload()))
        signed = msgspec.structs.replace(certificate, signature=signature)
        admitted = Membership(signed, signed)
    identity.save(admitted)
    network = MemoryNetwork()
    door, visitor = network.transport(identity.key), network.transport(THEM)
    admitter = open_admitter(identity, effects_of(2))
    admitter.serve(door)

    async with trio.open_nursery() as nursery:
        await nursery.start(door.run)
        await nursery.start(visitor.run)
        if role == "admitter":
            ticket = admitter.ticket(("worker",), tuple(door.addresses))
            membership = await join(visitor, ticket, THEM, effects_of())
            assert membership.roles == ("worker",)
        else:
            with pytest.raises(Exception, match="no admitter"):
                admitter.ticket(("worker",), tuple(door.addresses))
        nursery.cancel_scope.cancel()


def findings_of(theirs: Membership, *rows: RecordRow) -> Findings:
    findings = Findings(Roster(MESH.root.public))
    for each in (*rows, row(CERTIFICATE_KIND, shown(theirs))):
        findings.add(each)
    return findings


def a_decision() -> RecordRow:
    decision = Decision(action="ignore", group="0" * 12, revision=1, time_us=1)
    return row("group.decision", to_attributes(decision))


def test_a_statement_without_a_certificate_does_not_count_and_is_counted_as_such():
    findings = Findings(Roster(MESH.root.public))
    findings.add(a_decision())

    assert (findings.decided, findings.unheard) == ([], 1)


def test_somebody_elses_certificate_or_that_of_another_mesh_gives_no_role():
    stolen = findings_of(MESH.membership(key_of(3), "aggregator"), a_decision())
    foreign = TestMesh(root=key_of(50), admitter=key_of(51))
    alien = findings_of(foreign.membership(THEM, "aggregator"), a_decision())

    assert (stolen.decided, stolen.malformed) == ([], 1)
    assert (alien.decided, alien.malformed) == ([], 1)
