from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from protocols.errors import LocalProtocolError, RemoteProtocolError
from protocols.keys import SigningKey, pae, peer_id_of, public_key_of, verify


def test_a_peer_id_is_the_one_that_libp2p_gives_to_the_same_key() -> None:
    key = SigningKey.from_seed(b"\1" * 32)

    assert key.peer_id == "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"


@given(st.binary(min_size=32, max_size=32))
def test_a_key_and_its_peer_id_can_be_computed_from_each_other(public: bytes) -> None:
    assert public_key_of(peer_id_of(public)) == public


@given(st.text(max_size=60))
def test_any_text_is_a_peer_id_or_refused(text: str) -> None:
    try:
        public = public_key_of(text)
    except RemoteProtocolError:
        return
    assert peer_id_of(public) == text


def test_a_signature_holds_for_its_message_and_key_only() -> None:
    one, other = SigningKey.from_seed(b"\1" * 32), SigningKey.from_seed(b"\2" * 32)
    signature = one.sign(b"message")

    assert verify(one.public, b"message", signature)
    assert not verify(one.public, b"another", signature)
    assert not verify(other.public, b"message", signature)


@pytest.mark.parametrize("signature", [b"", b"\0" * 64, b"\xff" * 64, b"\0" * 65])
def test_what_is_no_signature_does_not_verify(signature: bytes) -> None:
    assert not verify(SigningKey.from_seed(b"\1" * 32).public, b"message", signature)


def test_a_public_key_of_small_order_verifies_nothing() -> None:
    assert not verify(b"\0" * 32, b"message", b"\0" * 64)


def test_the_encoding_that_is_signed_is_that_of_dsse() -> None:
    # The example of the DSSE protocol document.
    assert pae("http://example.com/HelloWorld", b"hello world") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_a_key_does_not_show_its_secret() -> None:
    key = SigningKey.from_seed(b"\1" * 32)

    assert repr(key) == f"SigningKey({key.peer_id})"


def test_a_seed_of_another_size_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        SigningKey.from_seed(b"short")
