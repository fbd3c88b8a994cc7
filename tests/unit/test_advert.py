"""Adverts: what is signed, what is trusted, which one wins."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, strategies as st

from protocols import dagcbor
from protocols.advert import (
    ADVERT_TYPE,
    LIFETIME_MS,
    Advert,
    ModelOffer,
    SignedAdvert,
    sign_advert,
    supersedes,
)
from protocols.cid import CID
from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.keys import pae
from protocols.limits import MAX_ADVERT_BYTES
from protocols.membership import Membership
from tests.support.members import DAY_US, NOW_US, TestMesh, key_of

MESH = TestMesh()
AUTHOR = key_of(1)
MEMBERSHIP = MESH.membership(AUTHOR, "worker", "submitter")
OFFER = ModelOffer("all-minilm-l6-v2", CID.of(b"manifest"), "embed", ("fp32", "bf16"), 384)


def advert(**changes: object) -> Advert:
    plain = Advert(
        version=1,
        peer=AUTHOR.public,
        boot=3,
        sequence=7,
        lifetime_ms=LIFETIME_MS,
        addresses=("/ip4/192.0.2.1/tcp/4117",),
        roles=("worker",),
        hardware=CID.of(b"hardware"),
        capabilities={"cpu": {"cores": 2, "gflops": 55.25}, "accelerators": []},
        models=(OFFER,),
        software="covey 0.1.0",
    )
    return msgspec.structs.replace(plain, **changes)


def signed(membership: Membership = MEMBERSHIP, **changes: object) -> SignedAdvert:
    return sign_advert(AUTHOR, advert(**changes), membership)


def verify(shown: SignedAdvert, now_us: int = NOW_US) -> None:
    shown.verify(MESH.root.public, now_us)


def test_an_advert_is_trusted_by_a_peer_that_never_met_its_author():
    relayed = SignedAdvert.decode(signed().encode())

    verify(relayed)
    assert relayed.advert == advert()
    assert relayed.advert.models[0].cid == OFFER.cid


def test_links_stay_links_on_the_way():
    decoded = SignedAdvert.decode(signed().encode()).advert

    assert isinstance(decoded.hardware, CID)
    assert isinstance(decoded.models[0].cid, CID)


def test_an_advert_with_another_members_certificate_is_not_trusted():
    with pytest.raises(RemoteProtocolError, match="author"):
        verify(signed(MESH.membership(key_of(2), "worker")))


def test_an_advert_may_not_claim_a_role_beyond_its_certificate():
    with pytest.raises(RemoteProtocolError, match="role"):
        verify(signed(roles=("aggregator",)))


def test_an_advert_of_another_mesh_is_not_trusted():
    stranger = TestMesh(root=key_of(8), admitter=key_of(9))

    with pytest.raises(RemoteProtocolError) as caught:
        verify(signed(stranger.membership(AUTHOR)))

    assert caught.value.code == "wrong-mesh"


def test_an_advert_dies_with_its_authors_certificate():
    with pytest.raises(RemoteProtocolError) as caught:
        verify(signed(), NOW_US + 31 * DAY_US)

    assert caught.value.code == "certificate-expired"


def test_an_advert_signed_by_somebody_else_is_not_trusted():
    forged = sign_advert(key_of(2), advert(), MEMBERSHIP)

    with pytest.raises(RemoteProtocolError, match="signature"):
        verify(forged)


def test_a_signature_for_another_purpose_is_no_advert():
    payload = advert().encode()
    misused = msgspec.structs.replace(signed(), signature=AUTHOR.sign(pae("text/plain", payload)))

    with pytest.raises(RemoteProtocolError, match="signature"):
        verify(misused)


def test_fields_of_a_later_version_are_ignored_and_stay_signed():
    fields = [*dagcbor.decode(advert().encode()), "something new"]
    payload = dagcbor.encode(fields)
    newer = msgspec.structs.replace(
        signed(), payload=payload, signature=AUTHOR.sign(pae(ADVERT_TYPE, payload))
    )

    relayed = SignedAdvert.decode(newer.encode())

    verify(relayed)
    assert relayed.payload == payload
    assert relayed.advert == advert()


def test_an_advert_over_the_limit_is_not_signed():
    offers = tuple(ModelOffer("m" * 100, CID.of(bytes([n])), "embed", ("fp32",)) for n in range(60))

    with pytest.raises(LocalProtocolError) as caught:
        signed(models=offers)

    assert caught.value.code == "advert-too-large"


def test_a_lifetime_beyond_the_limit_is_refused():
    with pytest.raises(RemoteProtocolError):
        SignedAdvert.decode(signed(lifetime_ms=LIFETIME_MS + 1).encode())


@given(st.binary(max_size=600))
def test_any_bytes_are_an_advert_or_are_refused(noise: bytes):
    with pytest.raises(RemoteProtocolError):
        SignedAdvert.decode(noise)


def test_an_oversized_advert_is_refused_by_its_size():
    with pytest.raises(RemoteProtocolError):
        SignedAdvert.decode(bytes(MAX_ADVERT_BYTES + 1))


@given(st.data())
def test_one_flipped_bit_of_an_advert_is_always_noticed(data: st.DataObject):
    encoded = bytearray(signed().encode())
    place = data.draw(st.integers(0, len(encoded) * 8 - 1))
    encoded[place // 8] ^= 1 << place % 8

    with pytest.raises(RemoteProtocolError):
        verify(SignedAdvert.decode(bytes(encoded)))


orders = st.tuples(st.integers(0, 3), st.integers(0, 3))


@given(orders, orders)
def test_a_later_boot_wins_and_within_a_boot_the_later_sequence(
    one: tuple[int, int], other: tuple[int, int]
):
    new = advert(boot=one[0], sequence=one[1])
    old = advert(boot=other[0], sequence=other[1])

    assert supersedes(new, old) == (one > other)
    assert supersedes(new, None)


def test_the_sandbox_is_told_and_empty_from_an_older_covey():
    told = signed(sandbox="strict")
    older = dagcbor.encode(dagcbor.decode(told.payload)[:-1])
    signature = AUTHOR.sign(pae(ADVERT_TYPE, older))
    before = msgspec.structs.replace(told, payload=older, signature=signature)

    decoded = [SignedAdvert.decode(each.encode()).advert for each in (told, before)]

    assert [each.sandbox for each in decoded] == ["strict", ""]
    assert decoded[1] == advert()
