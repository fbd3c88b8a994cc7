"""The mesh's backup: root key, tickets book and revocations in one file that a passphrase opens.

Whoever has the root key owns the mesh, so the file is encrypted (XSalsa20-Poly1305 under a key that
argon2id derives) and says nothing but how to derive that key. It holds no peer's identity: two
machines with one identity would be two instances of one peer.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta
from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from peer.durable import create_durably, write_durably
from peer.effects import Effects
from peer.identity import (
    ROOT_FILE,
    Identity,
    admitter_certificate,
    load_root_key,
)
from peer.revocations import REVOCATIONS_FILE, Revocations
from peer.tickets import TICKETS_FILE
from protocols import dagcbor
from protocols.errors import CoveyError, RemoteProtocolError
from protocols.keys import SigningKey
from protocols.membership import Membership, VersionOne, decode_fields, to_fields

MAGIC: Final = b"covey-mesh-backup-1\n"
MAX_BACKUP_BYTES: Final = 64 << 20  # a book of MAX_TICKETS used tickets has about 16 MB
MIN_PASSPHRASE_CHARS: Final = 8  # the file may lie anywhere; argon2id slows guessing, no more
OPSLIMIT: Final = pwhash.argon2id.OPSLIMIT_MODERATE
MEMLIMIT: Final = pwhash.argon2id.MEMLIMIT_MODERATE  # 256 MiB and about a second

Salt = Annotated[
    bytes, Meta(min_length=pwhash.argon2id.SALTBYTES, max_length=pwhash.argon2id.SALTBYTES)
]
Ops = Annotated[int, Meta(ge=1, le=pwhash.argon2id.OPSLIMIT_SENSITIVE)]
Memory = Annotated[int, Meta(ge=8_192, le=pwhash.argon2id.MEMLIMIT_SENSITIVE)]


class BackupError(CoveyError):
    """A backup can't be written, read or restored."""

    default_code = "backup"


class Backup(msgspec.Struct, frozen=True, array_like=True):
    """What the root key's machine must not lose."""

    version: VersionOne
    root_seed: Annotated[bytes, Meta(min_length=32, max_length=32)]
    tickets: bytes
    revocations: bytes

    @property
    def root(self) -> SigningKey:
        """The mesh's root key."""
        return SigningKey.from_seed(self.root_seed)


class _Sealed(msgspec.Struct, frozen=True, array_like=True):
    opslimit: Ops
    memlimit: Memory
    salt: Salt
    box: bytes


def back_up(home: Path, target: Path, passphrase: str, effects: Effects) -> SigningKey:
    """Write the backup of the mesh whose root key lies in ``home`` to ``target``, mode 0600;
    return that key. Raises ``BackupError`` rather than replace a file.
    """
    root = load_root_key(home)
    if root is None:
        raise BackupError(
            "there is no root key on this machine",
            code="no-root-key",
            hint="run `covey mesh backup` where `covey init` was run",
        )
    _check_passphrase(passphrase)
    kept = Backup(1, root.seed, _content(home / TICKETS_FILE), _content(home / REVOCATIONS_FILE))
    _create(target, seal(kept, passphrase, effects))
    return root


def restore(
    home: Path, source: Path, passphrase: str, roles: tuple[str, ...], effects: Effects
) -> Identity:
    """Put a backup into ``home``, which the caller has locked, and make its peer an admitter signed
    by the root key; return it. Safe to repeat.

    Raises ``BackupError`` for a wrong passphrase or file, and when the home has another root key or
    belongs to another mesh: nothing is changed then.
    """
    backup = unseal(_read(source), passphrase)
    root = backup.root
    known = load_root_key(home)
    identity = Identity.load_or_create(home, effects)
    mesh = identity.membership.mesh if identity.membership else root.public
    if mesh != root.public or (known is not None and known.public != root.public):
        raise BackupError(
            f"{home} belongs to another mesh",
            code="another-mesh",
            hint="restore into another state directory: COVEY_HOME=… covey mesh restore …",
        )
    if known is None:
        create_durably(home / ROOT_FILE, root.seed.hex().encode() + b"\n")
    _add_tickets(home / TICKETS_FILE, backup.tickets)
    if backup.revocations:
        Revocations.open(home, root.public, effects).learn(backup.revocations)
    roles = identity.membership.roles if identity.membership else roles
    bootstrap = identity.membership.bootstrap if identity.membership else ()
    certificate = admitter_certificate(root, identity.key.public, roles, effects.now_us())
    identity.save(Membership(certificate, certificate, bootstrap))
    return identity


def seal(backup: Backup, passphrase: str, effects: Effects) -> bytes:
    """Encrypt a backup under a passphrase."""
    salt, nonce = (
        effects.token(size) for size in (pwhash.argon2id.SALTBYTES, SecretBox.NONCE_SIZE)
    )
    key = _key(passphrase, salt, OPSLIMIT, MEMLIMIT)
    content = dagcbor.encode(to_fields(backup), max_bytes=MAX_BACKUP_BYTES)
    box = bytes(SecretBox(key).encrypt(content, nonce))
    sealed = _Sealed(OPSLIMIT, MEMLIMIT, salt, box)
    return MAGIC + dagcbor.encode(to_fields(sealed), max_bytes=MAX_BACKUP_BYTES)


def unseal(content: bytes, passphrase: str) -> Backup:
    """Decrypt a backup; raise ``BackupError`` when it is none, damaged, or the passphrase wrong."""
    if not content.startswith(MAGIC):
        raise _not_a_backup()
    try:
        sealed = decode_fields(_Sealed, content.removeprefix(MAGIC), MAX_BACKUP_BYTES)
        key = _key(passphrase, sealed.salt, sealed.opslimit, sealed.memlimit)
        opened = SecretBox(key).decrypt(sealed.box)
        return decode_fields(Backup, opened, MAX_BACKUP_BYTES)
    except RemoteProtocolError as error:
        raise _not_a_backup() from error
    except CryptoError as error:
        raise BackupError(
            "the passphrase does not open this backup, or the file is damaged",
            code="wrong-passphrase",
            hint="check the passphrase; COVEY_MESH_PASSPHRASE is used where it is set",
        ) from error


def _key(passphrase: str, salt: bytes, opslimit: int, memlimit: int) -> bytes:
    return pwhash.argon2id.kdf(
        SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit=opslimit, memlimit=memlimit
    )


def _check_passphrase(passphrase: str) -> None:
    if len(passphrase) < MIN_PASSPHRASE_CHARS:
        raise BackupError(
            f"a passphrase has at least {MIN_PASSPHRASE_CHARS} characters",
            code="short-passphrase",
            hint="four random words are easy to keep and hard to guess",
        )


def _not_a_backup() -> BackupError:
    return BackupError(
        "this is no backup that this covey can read",
        code="not-a-backup",
        hint="name the file that `covey mesh backup` wrote",
    )


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def _read(source: Path) -> bytes:
    try:
        if source.stat().st_size > MAX_BACKUP_BYTES:
            raise _not_a_backup()
        return source.read_bytes()
    except OSError as error:
        raise BackupError(
            f"{source} cannot be read: {error.strerror}", code="unreadable", hint="check the path"
        ) from error


def _create(target: Path, content: bytes) -> None:
    """Write a file that must not exist; a USB stick may know no links, so not by way of another."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(target, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError as error:
        raise BackupError(
            f"{target} exists already",
            code="backup-exists",
            hint="a backup never replaces a file: choose another name",
        ) from error
    except OSError as error:
        with suppress(OSError):
            target.unlink(missing_ok=True)  # a torn one looks like a backup, until it is needed
        raise BackupError(
            f"{target} cannot be written: {error.strerror}", code="unwritable", hint="check it"
        ) from error


def _whole_lines(content: bytes) -> list[bytes]:
    """Return the lines of a book, but for a last one that a crash or a copy tore."""
    return [line for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def _add_tickets(path: Path, lines: bytes) -> None:
    """Add the book's lines that are not there yet: a ticket used at either place stays used."""
    known, shown = _whole_lines(_content(path)), _whole_lines(lines)
    news = [line for line in shown if line not in set(known)]
    if news:
        write_durably(path, b"".join([*known, *news]))
