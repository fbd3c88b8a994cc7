"""The list of those who are out: what it voids, and which of two lists holds."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.limits import MAX_REVOCATIONS_BYTES, MAX_REVOKED
from protocols.membership import issue
from protocols.revocation import FOREVER_US, Barred, RevocationList, merged, signed_list
from tests.support.members import DAY_US, NOW_US, TestMesh, key_of

MESH = TestMesh()
PEER = key_of(1)
SHOWN = MESH.membership(PEER)
CHAIN = SHOWN.certificate, SHOWN.issuer_certificate

moments = st.dictionaries(
    st.integers(1, 6).map(lambda n: key_of(n).public), st.integers(0, FOREVER_US), max_size=6
)


def listed(*keys: bytes, version: int = 1) -> RevocationList:
    return signed_list(MESH.root, dict.fromkeys(keys, FOREVER_US), version, NOW_US)


def test_a_list_survives_encoding_and_is_verified_offline():
    shown = RevocationList.decode(listed(PEER.public).encode())

    shown.verify(MESH.root.public)

    assert shown.moments == {PEER.public: FOREVER_US}


@pytest.mark.parametrize("change", [{"version": 9}, {"peers": ()}, {"time_us": 1}])
def test_a_changed_list_is_not_the_roots(change: dict[str, object]):
    forged = msgspec.structs.replace(listed(PEER.public), **change)

    with pytest.raises(RemoteProtocolError) as caught:
        forged.verify(MESH.root.public)

    assert caught.value.code == "revocations-invalid"


def test_a_list_that_an_admitter_signed_is_not_believed():
    with pytest.raises(RemoteProtocolError):
        signed_list(MESH.admitter, {}, 1, NOW_US).verify(MESH.root.public)


def test_peers_out_of_order_are_refused_so_that_one_list_has_one_encoding():
    shown = listed(*(key_of(number).public for number in (1, 2)))
    swapped = msgspec.structs.replace(shown, peers=shown.peers[::-1])

    with pytest.raises(RemoteProtocolError):
        RevocationList.decode(swapped.encode())


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(content: bytes):
    with pytest.raises(RemoteProtocolError):
        RevocationList.decode(content)


def test_a_revoked_peer_is_out_with_every_certificate_now_and_later():
    barred = Barred({PEER.public: FOREVER_US})
    later = MESH.membership(PEER, now_us=NOW_US + 900 * DAY_US)

    assert barred.holds(*CHAIN)
    assert barred.holds(later.certificate, later.issuer_certificate)
    assert barred.is_barred(PEER.peer_id, NOW_US + 900 * DAY_US)


def test_members_fall_with_the_admitter_that_let_them_in():
    barred = Barred({MESH.admitter.public: FOREVER_US})

    with pytest.raises(RemoteProtocolError) as caught:
        barred.check(*CHAIN)

    assert caught.value.code == "revoked"
    assert "another admitter" in (caught.value.hint or "")
    assert not barred.is_barred(PEER.peer_id, NOW_US)


def test_a_peer_that_left_may_come_back_with_a_certificate_issued_later():
    barred = Barred({PEER.public: NOW_US})
    later = issue(
        MESH.admitter, mesh=MESH.root.public, peer=PEER.public, roles=("worker",), now_us=NOW_US + 1
    )

    assert barred.holds(*CHAIN)
    assert not barred.holds(later, SHOWN.issuer_certificate)
    assert barred.is_barred(PEER.peer_id, NOW_US)
    assert not barred.is_barred(PEER.peer_id, NOW_US + 1)


def test_an_empty_list_bars_nobody():
    Barred({}).check(*CHAIN)


def test_entries_whose_every_certificate_has_expired_are_left_out_of_the_next_list():
    gone, revoked = key_of(2).public, key_of(3).public

    shown = signed_list(MESH.root, {gone: NOW_US, revoked: FOREVER_US}, 2, NOW_US + 31 * DAY_US)

    assert shown.moments == {revoked: FOREVER_US}


def test_the_largest_list_is_one_gossip_message_and_a_larger_one_is_refused():
    keys = [number.to_bytes(32, "big") for number in range(MAX_REVOKED + 1)]

    largest = signed_list(MESH.root, dict.fromkeys(keys[1:], FOREVER_US), 1, NOW_US).encode()
    with pytest.raises(LocalProtocolError) as caught:
        signed_list(MESH.root, dict.fromkeys(keys, FOREVER_US), 1, NOW_US)

    assert len(largest) <= MAX_REVOCATIONS_BYTES
    assert RevocationList.decode(largest).version == 1
    assert caught.value.code == "too-many-revoked"


@given(moments, moments, moments)
def test_merging_is_commutative_associative_and_idempotent(
    one: dict[bytes, int], two: dict[bytes, int], three: dict[bytes, int]
):
    assert merged(one, two) == merged(two, one)
    assert merged(one, merged(two, three)) == merged(merged(one, two), three)
    assert merged(one, one) == one
