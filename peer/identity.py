"""Who this peer is: its key, its boot counter and its membership, each a small file of the home.

The key never leaves ``identity.key``. The boot counter orders our adverts across restarts without
a clock, so it is on disk before anything is signed with it.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from peer.durable import create_durably, write_durably
from peer.effects import Effects
from protocols.errors import CoveyError, LocalProtocolError, RemoteProtocolError
from protocols.keys import PeerId, SigningKey
from protocols.membership import (
    ADMITTER,
    DEFAULT_ROLES,
    Certificate,
    Membership,
    issue,
)

KEY_FILE: Final = "identity.key"
ROOT_FILE: Final = "root.key"
BOOT_FILE: Final = "boot"
MEMBERSHIP_FILE: Final = "membership.cbor"
SEED_BYTES: Final = 32
MAX_BOOT: Final = 1 << 52


class IdentityError(CoveyError):
    """A file of the identity is missing, damaged, or open to others."""

    default_code = "identity"


@dataclass(slots=True)
class Identity:
    """A peer's key, boot counter and membership, as read from ``home`` at start."""

    home: Path
    key: SigningKey
    boot: int = 0
    """Counts the starts of the daemon; 0 before the first."""
    membership: Membership | None = None
    """None until this peer made or joined a mesh."""

    @classmethod
    def create(cls, home: Path, effects: Effects) -> Identity:
        """Make a new identity in ``home``, which must exist; ``IdentityError`` if it has one."""
        seed = effects.token(SEED_BYTES)
        _create_key(home / KEY_FILE, seed)
        return cls(home, SigningKey.from_seed(seed))

    @classmethod
    def load(cls, home: Path) -> Identity:
        """Read the identity in ``home``; raise ``IdentityError`` if it is missing, damaged or
        readable by others.
        """
        key = _read_key(home / KEY_FILE)
        return cls(home, key, _read_boot(home / BOOT_FILE), _read_membership(home, key))

    @classmethod
    def load_or_create(cls, home: Path, effects: Effects) -> Identity:
        """Read the identity in ``home``, or make one where there is none yet."""
        if (home / KEY_FILE).exists():
            return cls.load(home)
        return cls.create(home, effects)

    @property
    def peer_id(self) -> PeerId:
        """Our peer id."""
        return self.key.peer_id

    @property
    def member(self) -> Membership:
        """Our membership; raise ``IdentityError`` when we have none."""
        if self.membership is None:
            raise IdentityError(
                "this peer belongs to no mesh yet",
                code="no-mesh",
                hint="join one with a ticket, or make one on a node with `covey init`",
            )
        return self.membership

    def next_boot(self, above: int = 0) -> int:
        """Count one more start, above what others saw of us too; durable when it returns."""
        if above >= MAX_BOOT:
            raise LocalProtocolError(f"a boot counter of {above} is not ours", got=above)
        boot = max(self.boot, above) + 1
        write_durably(self.home / BOOT_FILE, b"%d\n" % boot)
        self.boot = boot
        return boot

    def save(self, membership: Membership) -> None:
        """Make ``membership`` ours, durably; ``LocalProtocolError`` if it is another peer's."""
        if membership.certificate.peer != self.key.public:
            raise LocalProtocolError("the certificate is another peer's", code="wrong-peer")
        write_durably(self.home / MEMBERSHIP_FILE, membership.encode())
        self.membership = membership


def init_mesh(
    identity: Identity, effects: Effects, roles: tuple[str, ...] = DEFAULT_ROLES
) -> Membership:
    """Make a closed mesh: a root key in ``root.key``, and this peer as its first admitter.

    ``roles`` are what this peer is besides an admitter. Raises ``IdentityError`` when the peer
    belongs to a mesh already: two meshes would share one identity.
    """
    if identity.membership is not None:
        raise IdentityError(
            "this peer belongs to a mesh already",
            code="already-member",
            hint="use another state directory for another mesh",
        )
    root = _root_key_for(identity.home, effects.token)
    certificate = admitter_certificate(root, identity.key.public, roles, effects.now_us())
    membership = Membership(certificate, certificate)
    identity.save(membership)
    return membership


def admitter_certificate(
    root: SigningKey, peer: bytes, roles: tuple[str, ...], now_us: int
) -> Certificate:
    """Return a root-signed certificate of an admitter with ``roles`` besides."""
    return issue(root, mesh=root.public, peer=peer, roles=(ADMITTER, *roles), now_us=now_us)


def load_root_key(home: Path) -> SigningKey | None:
    """Return the mesh's root key where this home holds it."""
    path = home / ROOT_FILE
    return _read_key(path) if path.exists() else None


def _root_key_for(home: Path, token: Callable[[int], bytes]) -> SigningKey:
    """The root key of an earlier `init` that died before it had a membership, or a new one."""
    known = load_root_key(home)
    if known is not None:
        return known
    seed = token(SEED_BYTES)
    _create_key(home / ROOT_FILE, seed)
    return SigningKey.from_seed(seed)


def _create_key(path: Path, seed: bytes) -> None:
    try:
        create_durably(path, seed.hex().encode() + b"\n")
    except FileExistsError as error:
        raise IdentityError(
            f"{path} exists already", code="key-exists", hint="a key is never replaced: keep it"
        ) from error


def _read_key(path: Path) -> SigningKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        content = path.read_bytes()
    except OSError as error:
        raise IdentityError(
            f"{path} cannot be read: {error.strerror}",
            code="no-identity",
            hint="`covey init` or `covey join TICKET` makes an identity, and"
            " `covey-aggregator join TICKET` an aggregator's",
        ) from error
    if mode & 0o077:
        raise IdentityError(
            f"{path} has mode {mode:04o}: others may read the key",
            code="key-exposed",
            hint=f"run `chmod 600 {path}`, or make a new identity if somebody may have read it",
        )
    return SigningKey.from_seed(_seed_in(path, content))


def _seed_in(path: Path, content: bytes) -> bytes:
    """The seed in a key file, which is raw or hexadecimal."""
    if len(content) == SEED_BYTES:
        return content
    try:
        seed = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        seed = b""
    if len(seed) != SEED_BYTES:
        raise IdentityError(
            f"{path} does not hold a key",
            code="key-damaged",
            hint="restore it from a backup: 64 hexadecimal digits",
        )
    return seed


def _read_boot(path: Path) -> int:
    """The counter, 0 where there is none. Damage is an error: counting anew would make our adverts
    look old.
    """
    try:
        text = path.read_bytes().strip()
    except FileNotFoundError:
        return 0
    if not text.isdigit() or int(text) > MAX_BOOT:
        raise IdentityError(
            f"{path} does not hold a counter",
            code="boot-damaged",
            hint=f"remove {path}: neighbours tell how high it was",
        )
    return int(text)


def _read_membership(home: Path, key: SigningKey) -> Membership | None:
    path = home / MEMBERSHIP_FILE
    try:
        membership = Membership.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except RemoteProtocolError as error:
        raise IdentityError(
            f"{path} is damaged: {error.message}",
            code="membership-damaged",
            hint=f"remove {path}, then join again with a new ticket (`covey init` at the root)",
        ) from error
    if membership.certificate.peer != key.public:
        raise IdentityError(
            f"{path} is another peer's", code="wrong-peer", hint="join with a ticket of your own"
        )
    return membership
