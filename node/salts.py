"""The salts behind the commitments of this node, so that equal content gets an equal commitment
here.

Without it, an output that becomes the next job's input would have two names, and lineage would end
between them. Salts are secret: they lie in the journal, by digest of what they were used for, and
go nowhere but to the worker of a job.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

import cbor2
import msgspec

from peer.effects import Effects
from protocols import dagcbor
from protocols.errors import RemoteProtocolError
from protocols.job import SALT_BYTES
from protocols.journal import Entry
from protocols.limits import MAX_SALTS

if TYPE_CHECKING:
    from peer.journal import Journal, Pending

SECRET: Final = b"\x00" * 32
"""Under this name, which no content has, lies the key from which new salts are derived."""
SECRET_BYTES: Final = 32
_ENTRY_STRINGS: Final = 2_048  # 50 KB: what a second of many jobs leaves, not what a dead disk does


class Salts:
    """Remembers the latest ``MAX_SALTS`` pairs of digest and salt, over restarts."""

    def __init__(self, journal: Journal, effects: Effects) -> None:
        self._journal = journal
        self._effects = effects
        self._salts: OrderedDict[bytes, bytes] = OrderedDict()
        self._joining: list[bytes] = []
        """Digests and their salts in turn that wait for the disk as one entry, which others may
        join."""
        self._entry: Pending | None = None
        """That entry."""
        self._secret = b""
        for _, _, entry, body in journal.scan():
            if entry is Entry.SALT:
                self._restore(body)
        self._secret = self._secret or self._new_secret()

    def of_content(self, digest: bytes) -> bytes:
        """Return the salt of the content with this digest: the one that it came with, as an output,
        or one of ours, which is the same each time: a job that is submitted again must have the
        same commitment.
        """
        salt = self._salts.get(digest)
        if salt is None:
            salt = hmac.digest(self._secret, digest, "sha256")[:SALT_BYTES]
            self._remember(digest, salt)
        else:
            self._salts.move_to_end(digest)
        return salt

    def of_output(self, job_id: bytes) -> bytes:
        """Return the salt of a job's output: the same each time the same job is offered, even
        after a restart.
        """
        return hmac.digest(self._secret, job_id, "sha256")[:SALT_BYTES]

    def keep(self, digest: bytes, salt: bytes) -> None:
        """Remember under which salt the content with this digest is known, unless it has one
        already.
        """
        if digest not in self._salts:
            self._remember(digest, salt)

    def needed_of(self, body: bytes) -> bytes:
        """Return the body of a ``SALT`` entry without the pairs that are not remembered any more;
        empty if that leaves none. What was forgotten may be remembered with another salt since,
        which an older pair must not come behind.
        """
        needed: list[bytes] = []
        for digest, salt in _pairs(cbor2.loads(body)):
            is_secret = digest == SECRET and salt == self._secret
            if is_secret or self._salts.get(digest) == salt:
                needed += digest, salt
        return cbor2.dumps(needed) if needed else b""

    def _remember(self, digest: bytes, salt: bytes) -> None:
        entry = self._entry
        if entry is None or not entry.is_growing or len(self._joining) >= _ENTRY_STRINGS:
            self._joining = []
            # byte strings have one encoding: the plain encoder takes a tenth of the time
            body = partial(cbor2.dumps, self._joining)
            self._entry = entry = self._journal.append_growing(Entry.SALT, body)
        self._journal.join(entry, len(digest) + len(salt))
        self._joining += digest, salt
        self._put(digest, salt)

    def _put(self, digest: bytes, salt: bytes) -> None:
        self._salts[digest] = salt
        if len(self._salts) > MAX_SALTS:
            self._salts.popitem(last=False)

    def _new_secret(self) -> bytes:
        secret = self._effects.token(SECRET_BYTES)
        self._journal.append_soon(Entry.SALT, dagcbor.encode([SECRET, secret]))
        return secret

    def _restore(self, body: bytes) -> None:
        try:
            strings = msgspec.convert(dagcbor.decode(body), list[bytes], builtin_types=(bytes,))
            pairs = list(_pairs(strings))
        except ValueError as error:
            raise RemoteProtocolError(
                "a salt in the journal is malformed", code="journal"
            ) from error
        for digest, salt in pairs:
            if digest == SECRET:
                self._secret = salt
            else:
                self._put(digest, salt)


def _pairs(values: list[bytes]) -> Iterator[tuple[bytes, bytes]]:
    each = iter(values)
    return zip(each, each, strict=True)
