"""The files of an identity."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from peer.durable import create_durably, write_durably
from peer.identity import Identity, IdentityError, init_mesh, load_root_key
from peer.member import check_membership
from protocols.errors import LocalProtocolError
from protocols.membership import verify_chain
from tests.support.members import NOW_US, TestMesh, effects_of, key_of

MESH = TestMesh()


def code_of(home: Path) -> str:
    with pytest.raises(IdentityError) as caught:
        Identity.load(home)
    assert caught.value.hint
    return caught.value.code


def test_an_identity_is_the_same_after_a_restart(tmp_path: Path):
    created = Identity.create(tmp_path, effects_of())

    loaded = Identity.load(tmp_path)

    assert loaded.peer_id == created.peer_id
    assert loaded.membership is None


def test_the_key_is_readable_by_its_owner_alone(tmp_path: Path):
    Identity.create(tmp_path, effects_of())

    assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600


def test_a_key_that_others_may_read_is_refused_with_what_to_do(tmp_path: Path):
    Identity.create(tmp_path, effects_of())
    (tmp_path / "identity.key").chmod(0o640)

    with pytest.raises(IdentityError, match="0640") as caught:
        Identity.load(tmp_path)

    assert caught.value.code == "key-exposed"
    assert "chmod 600" in (caught.value.hint or "")


def test_a_key_is_never_replaced(tmp_path: Path):
    Identity.create(tmp_path, effects_of())

    with pytest.raises(IdentityError) as caught:
        Identity.create(tmp_path, effects_of(1))

    assert caught.value.code == "key-exists"


def test_a_missing_key_says_how_to_make_one(tmp_path: Path):
    assert code_of(tmp_path) == "no-identity"


@pytest.mark.parametrize("content", [b"", b"zz" * 32, b"ab" * 31, bytes(31)])
def test_a_damaged_key_is_refused(tmp_path: Path, content: bytes):
    create_durably(tmp_path / "identity.key", content)

    assert code_of(tmp_path) == "key-damaged"


def test_a_raw_key_is_read_too(tmp_path: Path):
    create_durably(tmp_path / "identity.key", key_of(7).seed)

    assert Identity.load(tmp_path).peer_id == key_of(7).peer_id


def test_the_boot_counter_rises_with_every_start(tmp_path: Path):
    Identity.create(tmp_path, effects_of())

    boots = [Identity.load(tmp_path).next_boot() for _ in range(3)]

    assert boots == [1, 2, 3]


def test_the_boot_counter_continues_above_what_neighbours_saw(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of())

    identity.next_boot(above=41)

    assert Identity.load(tmp_path).boot == 42


def test_a_damaged_boot_counter_is_not_counted_anew(tmp_path: Path):
    Identity.create(tmp_path, effects_of())
    (tmp_path / "boot").write_bytes(b"\0\0")

    assert code_of(tmp_path) == "boot-damaged"


def test_a_boot_counter_that_nobody_can_have_reached_is_not_believed(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of())

    with pytest.raises(LocalProtocolError):
        identity.next_boot(above=1 << 60)


def test_init_makes_a_mesh_with_this_peer_as_its_first_admitter(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of())

    init_mesh(identity, effects_of(1))

    loaded = Identity.load(tmp_path)
    shown = check_membership(loaded, effects_of())
    root = load_root_key(tmp_path)
    assert root is not None
    assert shown.roles == ("admitter", "submitter", "worker")
    assert shown.mesh == root.public
    assert stat.S_IMODE((tmp_path / "root.key").stat().st_mode) == 0o600
    verify_chain(root.public, shown.certificate, shown.issuer_certificate, NOW_US)


def test_whoever_makes_a_mesh_is_its_admitter_whatever_roles_it_chose(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of())

    assert init_mesh(identity, effects_of(1), ("observer",)).roles == ("admitter", "observer")


def test_a_member_makes_no_second_mesh(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of())
    init_mesh(identity, effects_of(1))

    with pytest.raises(IdentityError) as caught:
        init_mesh(identity, effects_of(2))

    assert caught.value.code == "already-member"


def test_an_init_that_died_half_way_goes_on_with_its_root_key(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of())
    first = init_mesh(identity, effects_of(1))
    (tmp_path / "membership.cbor").unlink()

    second = init_mesh(Identity.load(tmp_path), effects_of(2))

    assert second.mesh == first.mesh


def test_a_peer_without_a_mesh_is_told_how_to_get_one(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of())

    with pytest.raises(IdentityError, match="no mesh") as caught:
        check_membership(identity, effects_of())

    assert "covey init" in (caught.value.hint or "")


def test_a_membership_of_another_peer_is_not_taken(tmp_path: Path):
    identity = Identity.create(tmp_path, effects_of())
    foreign = MESH.membership(key_of(2))

    with pytest.raises(LocalProtocolError):
        identity.save(foreign)
    write_durably(tmp_path / "membership.cbor", foreign.encode())

    assert code_of(tmp_path) == "wrong-peer"


def test_a_damaged_membership_says_to_join_again(tmp_path: Path):
    Identity.create(tmp_path, effects_of())
    write_durably(tmp_path / "membership.cbor", b"torn")

    assert code_of(tmp_path) == "membership-damaged"


def test_load_or_create_keeps_what_is_there(tmp_path: Path):
    first = Identity.load_or_create(tmp_path, effects_of(1))

    assert Identity.load_or_create(tmp_path, effects_of(2)).peer_id == first.peer_id


def test_a_leftover_of_a_crash_neither_shows_a_secret_nor_stands_in_the_way(tmp_path: Path):
    leftover = tmp_path / "identity.key.new"
    leftover.write_bytes(b"half a key")
    leftover.chmod(0o644)

    Identity.create(tmp_path, effects_of())

    assert not leftover.exists()
    assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600
