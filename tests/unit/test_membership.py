"""Certificates, chains, roles and tickets."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from protocols import dagcbor
from protocols.errors import LocalProtocolError, Refused, RemoteProtocolError
from protocols.join import CODEC, JoinRefusal, JoinReply, JoinRequest, membership_of
from protocols.keys import SigningKey, pae
from protocols.membership import (
    ALLOWED,
    CERTIFICATE_TYPE,
    FEED_PROTOCOL,
    ROLES,
    SESSION_PROTOCOL,
    TOLERANCE_US,
    Certificate,
    Membership,
    issue,
    may,
    verify_chain,
)
from protocols.ticket import Ticket
from tests.support.members import DAY_US, NOW_US, TestMesh, key_of

MESH = TestMesh()
MEMBER = key_of(1)
SHOWN = MESH.membership(MEMBER, "worker")


def check(certificate: Certificate, issuer: Certificate, now_us: int = NOW_US) -> None:
    verify_chain(MESH.root.public, certificate, issuer, now_us)


def code_of(certificate: Certificate, issuer: Certificate, now_us: int = NOW_US) -> str:
    with pytest.raises(RemoteProtocolError) as caught:
        check(certificate, issuer, now_us)
    assert caught.value.hint
    return caught.value.code


def resigned(certificate: Certificate, signer: SigningKey, **changes: object) -> Certificate:
    changed = msgspec.structs.replace(certificate, **changes)
    signature = signer.sign(pae(CERTIFICATE_TYPE, changed.payload()))
    return msgspec.structs.replace(changed, signature=signature)


def ticket(**changes: object) -> Ticket:
    plain = Ticket(
        version=1,
        mesh=MESH.root.public,
        admitter_key=MESH.admitter.public,
        addresses=("/ip4/127.0.0.1/tcp/4117", "/dns4/node.example/tcp/4117"),
        secret=b"0123456789abcdef",
        roles=("submitter", "worker"),
        expires_us=NOW_US + 3_600_000_000,
    )
    return msgspec.structs.replace(plain, **changes)


def test_a_member_is_verified_offline_by_the_mesh_name_and_its_issuer_certificate():
    check(SHOWN.certificate, SHOWN.issuer_certificate)


def test_an_admitter_is_its_own_issuer_certificate_because_the_root_signed_it():
    check(MESH.admitter_certificate, MESH.admitter_certificate)


def test_a_certificate_survives_encoding():
    assert Certificate.decode(SHOWN.certificate.encode()) == SHOWN.certificate


def test_a_membership_survives_encoding():
    stored = Membership(SHOWN.certificate, SHOWN.issuer_certificate, ("/ip4/10.0.0.1/tcp/1/p2p/X",))

    assert Membership.decode(stored.encode()) == stored


def test_another_mesh_is_told_apart_before_any_signature():
    other = TestMesh(root=key_of(5), admitter=key_of(6)).membership(MEMBER)

    assert code_of(other.certificate, other.issuer_certificate) == "wrong-mesh"


def test_a_clock_ten_minutes_off_is_tolerated_and_no_more():
    begin, end = SHOWN.certificate.not_before_us, SHOWN.certificate.not_after_us

    check(SHOWN.certificate, SHOWN.issuer_certificate, begin - TOLERANCE_US)
    check(SHOWN.certificate, SHOWN.issuer_certificate, end + TOLERANCE_US)
    assert code_of(*chain(), begin - TOLERANCE_US - 1) == "certificate-early"
    assert code_of(*chain(), end + TOLERANCE_US + 1) == "certificate-expired"


def chain() -> tuple[Certificate, Certificate]:
    return SHOWN.certificate, SHOWN.issuer_certificate


def test_a_certificate_lives_thirty_days_and_is_due_for_renewal_at_half_of_them():
    certificate = SHOWN.certificate

    assert certificate.not_after_us - certificate.not_before_us == 30 * DAY_US
    assert certificate.half_life_us == NOW_US + 15 * DAY_US


@pytest.mark.parametrize(
    "changes",
    [
        {"roles": ("aggregator",)},
        {"peer": key_of(2).public},
        {"not_after_us": NOW_US + 99 * DAY_US},
    ],
    ids=["roles", "peer", "time"],
)
def test_a_changed_field_breaks_the_signature(changes: dict[str, object]):
    forged = msgspec.structs.replace(SHOWN.certificate, **changes)

    assert code_of(forged, SHOWN.issuer_certificate) == "certificate-invalid"


def test_a_member_who_is_no_admitter_can_not_issue():
    insider = MESH.membership(key_of(3), "worker")
    forged = issue(
        key_of(3), mesh=MESH.root.public, peer=MEMBER.public, roles=("worker",), now_us=NOW_US
    )

    assert code_of(forged, insider.certificate) == "certificate-invalid"


def test_an_admitter_role_that_the_root_did_not_sign_is_worth_nothing():
    insider = MESH.membership(key_of(3), "admitter")
    forged = issue(
        key_of(3), mesh=MESH.root.public, peer=MEMBER.public, roles=("worker",), now_us=NOW_US
    )

    assert code_of(forged, insider.certificate) == "certificate-invalid"


def test_a_certificate_that_signs_itself_is_worth_nothing():
    forged = issue(
        MEMBER, mesh=MESH.root.public, peer=MEMBER.public, roles=("admitter",), now_us=NOW_US
    )

    assert code_of(forged, forged) == "certificate-invalid"


def test_a_shown_issuer_must_be_the_one_who_signed():
    stranger = issue(
        MESH.root, mesh=MESH.root.public, peer=key_of(4).public, roles=("admitter",), now_us=NOW_US
    )

    assert code_of(SHOWN.certificate, stranger) == "certificate-invalid"


def test_an_unknown_field_is_refused_because_it_could_be_a_restriction():
    fields = dagcbor.decode(SHOWN.certificate.encode())

    with pytest.raises(RemoteProtocolError):
        Certificate.decode(dagcbor.encode([*fields, "only on weekdays"]))


def test_a_certificate_of_another_version_is_refused():
    newer = resigned(SHOWN.certificate, MESH.admitter, version=2)

    with pytest.raises(RemoteProtocolError):
        Certificate.decode(newer.encode())


def test_roles_out_of_order_are_refused_so_that_a_set_has_one_encoding():
    shuffled = resigned(SHOWN.certificate, MESH.admitter, roles=("worker", "submitter"))

    with pytest.raises(RemoteProtocolError):
        Certificate.decode(shuffled.encode())


def test_a_role_of_a_later_version_is_carried_and_grants_nothing():
    newer = resigned(SHOWN.certificate, MESH.admitter, roles=("juggler",))

    check(Certificate.decode(newer.encode()), SHOWN.issuer_certificate)
    assert not any(may(newer.roles, protocol) for protocol in ALLOWED)


def test_a_role_that_does_not_exist_is_not_issued():
    with pytest.raises(LocalProtocolError) as caught:
        MESH.membership(MEMBER, "wroker")

    assert caught.value.code == "unknown-role"
    assert "worker" in (caught.value.hint or "")


@given(st.binary(max_size=400))
def test_any_bytes_decode_to_a_certificate_or_are_refused(noise: bytes):
    with pytest.raises(RemoteProtocolError):
        Certificate.decode(noise)


@given(st.data())
def test_one_flipped_bit_of_a_certificate_is_always_noticed(data: st.DataObject):
    encoded = bytearray(SHOWN.certificate.encode())
    place = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[place // 8] ^= 1 << place % 8

    with pytest.raises(RemoteProtocolError):
        check(Certificate.decode(bytes(encoded)), SHOWN.issuer_certificate)


@pytest.mark.parametrize("role", ROLES)
def test_only_submitters_open_sessions_and_only_aggregators_and_observers_pull_feeds(role: str):
    assert may((role,), SESSION_PROTOCOL) == (role == "submitter")
    assert may((role,), FEED_PROTOCOL) == (role in {"aggregator", "observer"})


def test_a_protocol_that_the_table_does_not_name_is_open_to_nobody():
    assert not may(ROLES, "/covey/unheard-of/1")


def test_a_ticket_survives_being_written_down():
    assert Ticket.parse(str(ticket())) == ticket()
    assert str(ticket()).startswith("covey1")
    assert str(ticket()).isalnum()


def test_a_ticket_may_be_pasted_in_capitals_with_line_breaks():
    text = str(ticket()).upper()

    assert Ticket.parse(f"  {text[:40]}\n {text[40:]} ") == ticket()


@given(st.data())
def test_a_mistyped_ticket_says_so(data: st.DataObject):
    text = str(ticket())
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(
        st.sampled_from("abcdefghijklmnopqrstuvwxyz234567").filter(text[place].__ne__)
    )

    with pytest.raises(RemoteProtocolError) as caught:
        Ticket.parse(text[:place] + other + text[place + 1 :])

    assert caught.value.code == "ticket-malformed"
    assert "covey ticket" in (caught.value.hint or "")


@given(st.text(max_size=200))
def test_any_text_that_is_no_ticket_is_refused(text: str):
    with pytest.raises(RemoteProtocolError):
        Ticket.parse(text)
    with pytest.raises(RemoteProtocolError):
        Ticket.parse("covey1" + text)


def test_a_truncated_ticket_says_that_something_is_missing():
    with pytest.raises(RemoteProtocolError, match="missing"):
        Ticket.parse(str(ticket())[:-3])


def test_an_expired_ticket_is_known_by_the_joiner_beyond_the_tolerance():
    assert not ticket(expires_us=NOW_US).is_expired(NOW_US + TOLERANCE_US)
    assert ticket(expires_us=NOW_US).is_expired(NOW_US + TOLERANCE_US + 1)


def test_a_join_that_is_answered_makes_a_membership_with_the_address_to_come_back_to():
    reply = JoinReply(SHOWN.certificate.encode(), SHOWN.issuer_certificate.encode())

    membership = membership_of(ticket(roles=("worker",)), reply, MEMBER.public, NOW_US)

    assert membership.roles == ("worker",)
    assert membership.bootstrap[0] == f"/ip4/127.0.0.1/tcp/4117/p2p/{MESH.admitter.peer_id}"


def test_an_answer_with_another_peers_certificate_is_not_accepted():
    reply = JoinReply(SHOWN.certificate.encode(), SHOWN.issuer_certificate.encode())

    with pytest.raises(RemoteProtocolError):
        membership_of(ticket(roles=("worker",)), reply, key_of(2).public, NOW_US)


def test_an_answer_without_a_promised_role_is_not_accepted():
    reply = JoinReply(SHOWN.certificate.encode(), SHOWN.issuer_certificate.encode())

    with pytest.raises(RemoteProtocolError):
        membership_of(ticket(roles=("aggregator",)), reply, MEMBER.public, NOW_US)


def test_a_refusal_reaches_the_joiner_with_its_code_and_hint():
    refusal = JoinRefusal("ticket-used", "the ticket was used", "ask for another", 0)

    with pytest.raises(Refused, match="was used") as caught:
        membership_of(ticket(), refusal, MEMBER.public, NOW_US)

    assert (caught.value.code, caught.value.hint) == ("ticket-used", "ask for another")


def test_join_messages_survive_the_wire():
    request = JoinRequest(MESH.root.public, b"0123456789abcdef")

    assert CODEC.decode(CODEC.encode([request])) == [request]
