"""The mesh's backup: what it holds, whom it opens to, and what it never replaces."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from nacl import pwhash

from node.cli import covey
from peer import backup as backup_module
from peer.backup import BackupError, back_up, restore, unseal
from peer.identity import Identity, init_mesh, load_root_key
from peer.join import open_admitter
from peer.member import check_membership
from peer.revocations import Revocations
from peer.tickets import TicketBook
from protocols.membership import verify_chain
from tests.support.members import NOW_US, effects_of, key_of

PASSPHRASE = "correct horse battery"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_module, "OPSLIMIT", pwhash.argon2id.OPSLIMIT_MIN)
    monkeypatch.setattr(backup_module, "MEMLIMIT", pwhash.argon2id.MEMLIMIT_MIN)


@pytest.fixture
def first(tmp_path: Path) -> Identity:
    home = tmp_path / "first"
    home.mkdir()
    identity = Identity.create(home, effects_of(1))
    init_mesh(identity, effects_of(2))
    open_admitter(identity, effects_of(3)).ticket(("worker",), ("/ip4/127.0.0.1/tcp/1",))
    known = Revocations.open(home, identity.member.mesh, effects_of())
    known.revoke(key_of(9).peer_id)
    return identity


def backed_up(first: Identity, tmp_path: Path) -> Path:
    target = tmp_path / "mesh.backup"
    back_up(first.home, target, PASSPHRASE, effects_of(4))
    return target


def new_home(tmp_path: Path) -> Path:
    home = tmp_path / "second"
    home.mkdir()
    return home


def code_of(caught: pytest.ExceptionInfo[BackupError]) -> str:
    assert caught.value.hint
    return caught.value.code


def test_a_lost_machine_is_replaced_by_a_new_admitter_of_the_same_mesh(
    first: Identity, tmp_path: Path
):
    source, home = backed_up(first, tmp_path), new_home(tmp_path)

    fresh = restore(home, source, PASSPHRASE, ("submitter",), effects_of(5))
    again = restore(home, source, PASSPHRASE, ("worker",), effects_of(5))

    loaded = Identity.load(home)
    shown = check_membership(loaded, effects_of())
    assert fresh.peer_id == again.peer_id == loaded.peer_id != first.peer_id
    assert shown.mesh == first.member.mesh
    assert shown.roles == ("admitter", "submitter")
    verify_chain(shown.mesh, shown.certificate, shown.issuer_certificate, NOW_US)
    assert Revocations.open(home, shown.mesh, effects_of()).peers == [key_of(9).peer_id]
    kept = (home / "tickets.jsonl").read_bytes()
    assert kept == (first.home / "tickets.jsonl").read_bytes()
    assert open_admitter(loaded, effects_of(6)).ticket(("admitter",), ("/ip4/127.0.0.1/tcp/2",))


def test_tickets_that_were_used_since_the_backup_stay_used(first: Identity, tmp_path: Path):
    source = backed_up(first, tmp_path)
    ticket = open_admitter(first, effects_of(7)).ticket(("worker",), ("/ip4/127.0.0.1/tcp/1",))
    before = (first.home / "tickets.jsonl").read_bytes()

    restore(first.home, source, PASSPHRASE, (), effects_of(5))

    assert (first.home / "tickets.jsonl").read_bytes() == before
    assert ticket.secret
    TicketBook(first.home / "tickets.jsonl", NOW_US)


def test_a_torn_line_of_a_book_is_joined_to_no_other(first: Identity, tmp_path: Path):
    source = backed_up(first, tmp_path)
    book = first.home / "tickets.jsonl"
    before = book.read_bytes()
    book.write_bytes(before[:-9])

    restore(first.home, source, PASSPHRASE, (), effects_of(5))

    assert book.read_bytes() == before
    TicketBook(book, NOW_US)


def test_the_file_is_for_its_owner_and_shows_no_secret(first: Identity, tmp_path: Path):
    target = backed_up(first, tmp_path)
    root = load_root_key(first.home)
    assert root is not None

    content = target.read_bytes()

    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert root.seed not in content
    assert root.seed.hex().encode() not in content
    assert unseal(content, PASSPHRASE).root.public == root.public


def test_a_backup_never_replaces_a_file(first: Identity, tmp_path: Path):
    target = backed_up(first, tmp_path)
    before = target.read_bytes()

    with pytest.raises(BackupError) as caught:
        back_up(first.home, target, PASSPHRASE, effects_of(4))

    assert code_of(caught) == "backup-exists"
    assert target.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (lambda content: content, "wrong-passphrase"),
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "wrong-passphrase"),
        (lambda content: content[:-20], "not-a-backup"),
        (lambda content: b"", "not-a-backup"),
        (lambda content: b"garbage" + content, "not-a-backup"),
    ],
)
def test_a_wrong_passphrase_or_a_damaged_file_restores_nothing(
    first: Identity, tmp_path: Path, damage: object, code: str
):
    source, home = backed_up(first, tmp_path), new_home(tmp_path)
    source.write_bytes(damage(source.read_bytes()))  # type: ignore[operator]

    with pytest.raises(BackupError) as caught:
        restore(home, source, PASSPHRASE[:-1], (), effects_of(5))

    assert code_of(caught) == code
    assert list(home.iterdir()) == []


def test_a_home_of_another_mesh_is_left_as_it_is(first: Identity, tmp_path: Path):
    source, home = backed_up(first, tmp_path), new_home(tmp_path)
    other = Identity.create(home, effects_of(8))
    init_mesh(other, effects_of(9))
    before = {path.name: path.read_bytes() for path in home.iterdir()}

    with pytest.raises(BackupError) as caught:
        restore(home, source, PASSPHRASE, (), effects_of(5))

    assert code_of(caught) == "another-mesh"
    assert {path.name: path.read_bytes() for path in home.iterdir()} == before


def test_without_a_root_key_or_with_a_short_passphrase_there_is_no_backup(
    first: Identity, tmp_path: Path
):
    home, target = new_home(tmp_path), tmp_path / "x"

    with pytest.raises(BackupError) as no_root:
        back_up(home, target, PASSPHRASE, effects_of(4))
    with pytest.raises(BackupError) as short:
        back_up(first.home, target, "short", effects_of(4))

    assert (code_of(no_root), code_of(short)) == ("no-root-key", "short-passphrase")
    assert not target.exists()


def test_the_commands_take_the_passphrase_from_the_environment(first: Identity, tmp_path: Path):
    target, home = tmp_path / "by-command", tmp_path / "third"
    runner = CliRunner()
    environment = {"COVEY_MESH_PASSPHRASE": PASSPHRASE}

    done = runner.invoke(
        covey,
        ["mesh", "backup", str(target), "--json"],
        env={**environment, "COVEY_HOME": str(first.home)},
    )
    back = runner.invoke(
        covey,
        ["mesh", "restore", str(target), "--role", "observer"],
        env={**environment, "COVEY_HOME": str(home)},
    )
    asked = runner.invoke(covey, ["mesh", "restore", str(target)], env={"COVEY_HOME": str(home)})

    assert '"size_bytes"' in done.stdout
    assert "admitter, observer" in back.stdout
    assert "COVEY_MESH_PASSPHRASE" in asked.output
    assert asked.exit_code == 2
