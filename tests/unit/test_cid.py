from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, strategies as st

from protocols.cid import CID, DAG_CBOR, RAW, AnyCID, commitment, is_well_formed
from protocols.errors import RemoteProtocolError


def test_a_cid_is_the_one_that_other_implementations_give() -> None:
    assert str(CID.of(b"hello", RAW)) == (
        "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq"
    )


@given(st.binary(max_size=64), st.sampled_from([RAW, DAG_CBOR]))
def test_a_cid_survives_its_text_and_tells_its_parts(block: bytes, codec: int) -> None:
    cid = CID.of(block, codec)

    assert CID.parse(str(cid)) == cid
    assert CID.of_digest(cid.digest, codec) == cid
    assert cid.codec == codec


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz234567=B", max_size=64))
def test_any_text_is_the_only_form_of_a_cid_or_refused(text: str) -> None:
    try:
        cid = CID.parse("b" + text)
    except RemoteProtocolError:
        return
    assert str(cid) == "b" + text


def test_a_second_text_form_of_the_same_cid_is_refused() -> None:
    text = str(CID.of(b"hello", RAW))

    for other in (text.upper(), text[:-1] + "r", text + "="):
        with pytest.raises(RemoteProtocolError):
            CID.parse(other)


@pytest.mark.parametrize(
    "raw", [b"", bytes(36), b"\x12\x20" + bytes(32), b"\x01\x70\x12\x20" + bytes(32)]
)
def test_a_cid_of_another_profile_is_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        CID(raw)


@given(st.binary(max_size=80))
def test_any_bytes_are_well_formed_or_not(raw: bytes) -> None:
    assert is_well_formed(raw) in (True, False)


def test_well_formed_cids_of_other_codecs_and_hashes_are_known() -> None:
    assert is_well_formed(b"\x12\x20" + bytes(32))
    assert is_well_formed(b"\x01\x70\x13\x40" + bytes(64))
    assert not is_well_formed(b"\x01\x70\x13\x41" + bytes(64))
    assert not is_well_formed(b"\x02\x70\x12\x20" + bytes(32))


def test_a_version_0_cid_reads_as_base58_without_a_prefix() -> None:
    digest = sha256(b"hello").digest()

    assert str(AnyCID(b"\x12\x20" + digest)) == "QmRN6wdp1S2A5EtjW9A3M1vKSBuQQGcgvuhoMUoEz4iiT5"


def test_a_commitment_depends_on_its_salt() -> None:
    assert commitment(b"salt", b"content") == CID.of(b"saltcontent", RAW)
    assert commitment(b"tlas", b"content") != commitment(b"salt", b"content")
