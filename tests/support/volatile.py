"""A disk that promises nothing but what POSIX does: what a file holds is safe once the file was
synced, a name once its directory was. ``power_loss`` leaves one of the states that are allowed.

What was not synced is lost, kept, kept in part and in any order, torn in the middle of a write,
zeroed, garbage, or has a flipped bit; which one, a random number generator decides. That is harsher
than most disks: a synced file whose name was not synced is gone.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

BLOCK_BYTES: Final = 512
"""What a disk writes whole or not at all, though it may not keep to it."""

Change = tuple[int, bytes] | int
"""A write of bytes at an offset, or a cut to a size."""


@dataclass
class File:
    """One file: what readers see, what is safe, and what was done since."""

    number: int
    mode: int
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    changes: list[Change] = field(default_factory=list)

    def write(self, offset: int, data: bytes) -> None:
        """Overwrite or append; a gap is filled with zeros."""
        self.changes.append((offset, data))
        _apply(self.content, (offset, data))

    def resize(self, size: int) -> None:
        """Cut, or extend with zeros."""
        self.changes.append(size)
        _apply(self.content, size)

    def sync(self) -> None:
        """Make what readers see safe."""
        self.synced = bytes(self.content)
        self.changes.clear()

    def lose(self, rng: random.Random) -> None:
        """Keep what is safe, and of the rest what this kind of loss keeps."""
        content = bytearray(self.synced)
        LOSSES[rng.choice(sorted(LOSSES))](content, self.changes, rng)
        self.content = content
        self.sync()


@dataclass
class Folder:
    """One directory: names that readers see, those that are safe, and what was done since."""

    number: int
    mode: int
    names: dict[str, int] = field(default_factory=dict)
    synced: dict[str, int] = field(default_factory=dict)
    changes: list[dict[str, int | None]] = field(default_factory=list)

    def change(self, names: dict[str, int | None]) -> None:
        """Set or remove names in one step: a rename is two names, and never half done."""
        self.changes.append(names)
        _rename(self.names, names)

    def sync(self) -> None:
        """Make these names safe."""
        self.synced = dict(self.names)
        self.changes.clear()

    def lose(self, rng: random.Random) -> None:
        """Keep what is safe, and of the changes since as many as there is luck."""
        names = dict(self.synced)
        for change in self.changes[: rng.randint(0, len(self.changes))]:
            _rename(names, change)
        self.names = names
        self.sync()


Node = File | Folder


class Disk:
    """Files and folders by number; folder 1 is the root."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {1: Folder(1, 0o40755)}
        self._last = 1
        self.losses = 0

    @property
    def root(self) -> Folder:
        return self.folder(1)

    def folder(self, number: int) -> Folder:
        """Return a folder; raises ``NotADirectoryError``, ``FileNotFoundError``."""
        node = self.node(number)
        if isinstance(node, Folder):
            return node
        raise fault(errno.ENOTDIR)

    def file(self, number: int) -> File:
        """Return a file; raises ``IsADirectoryError``, ``FileNotFoundError``."""
        node = self.node(number)
        if isinstance(node, File):
            return node
        raise fault(errno.EISDIR)

    def node(self, number: int) -> Node:
        """Return what has that number; raises ``FileNotFoundError``."""
        if number not in self.nodes:
            raise fault(errno.ENOENT)
        return self.nodes[number]

    def find(self, parent: int, name: str) -> Node:
        """Return what has that name; raises ``FileNotFoundError``."""
        return self.node(self.folder(parent).names.get(name, 0))

    def make(self, parent: int, name: str, mode: int, kind: type[Node]) -> Node:
        """Create a file or folder; raises ``FileExistsError``."""
        folder = self.folder(parent)
        if name in folder.names:
            raise fault(errno.EEXIST)
        self._last += 1
        node = self.nodes[self._last] = kind(self._last, mode)
        folder.change({name: node.number})
        return node

    def power_loss(self, rng: random.Random) -> None:
        """Forget what was not synced, as far as ``rng`` has it; unreachable files are gone."""
        self.losses += 1
        for number in sorted(self.nodes):
            self.nodes[number].lose(rng)
        kept: dict[int, Node] = {}
        waiting = [1]
        while waiting:
            number = waiting.pop()
            node = kept[number] = self.nodes[number]
            if isinstance(node, Folder):
                waiting += [each for each in node.names.values() if each not in kept]
        self.nodes = kept


def fault(code: int) -> OSError:
    """Return the error of that number."""
    return OSError(code, os.strerror(code))


def _rename(names: dict[str, int], change: dict[str, int | None]) -> None:
    for name, number in change.items():
        if number is None:
            names.pop(name, None)
        else:
            names[name] = number


def _apply(content: bytearray, change: Change) -> None:
    if isinstance(change, int):
        del content[change:]
        content.extend(bytes(change - len(content)))
        return
    offset, data = change
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


# What may become of changes that were not synced


def _lost(_content: bytearray, _changes: list[Change], _rng: random.Random) -> None:
    """None of it reached the disk."""


def _kept(content: bytearray, changes: list[Change], _rng: random.Random) -> None:
    """All of it did."""
    for change in changes:
        _apply(content, change)


def _torn(content: bytearray, changes: list[Change], rng: random.Random) -> None:
    """The first few did, and the last of these only in part."""
    count = rng.randint(0, len(changes))
    _kept(content, changes[:count], rng)
    if count < len(changes) and not isinstance(change := changes[count], int):
        offset, data = change
        _apply(content, (offset, data[: rng.randint(0, len(data))]))


def _shuffled(content: bytearray, changes: list[Change], rng: random.Random) -> None:
    """Some blocks did, in whatever order."""
    for change in changes:
        for piece in _pieces(change):
            if rng.random() < 0.5:
                _apply(content, piece)


def _zeroed(content: bytearray, changes: list[Change], rng: random.Random) -> None:
    """The sizes did, and of the data the first few writes."""
    _filled(content, changes, rng, bytes)


def _garbage(content: bytearray, changes: list[Change], rng: random.Random) -> None:
    """The same, with what other files had left there."""
    _filled(content, changes, rng, rng.randbytes)


def _filled(
    content: bytearray,
    changes: list[Change],
    rng: random.Random,
    filling: Callable[[int], bytes],
) -> None:
    count = rng.randint(0, len(changes))
    _kept(content, changes[:count], rng)
    for change in changes[count:]:
        is_cut = isinstance(change, int)
        _apply(content, change if is_cut else (change[0], filling(len(change[1]))))


def _flipped(content: bytearray, changes: list[Change], rng: random.Random) -> None:
    """All of it did, and one bit of it is wrong."""
    _kept(content, changes, rng)
    written = [change for change in changes if not isinstance(change, int) and change[1]]
    if written:
        offset, data = rng.choice(written)
        at = offset + rng.randrange(len(data))
        if at < len(content):
            content[at] ^= 1 << rng.randrange(8)


def _pieces(change: Change) -> list[Change]:
    if isinstance(change, int):
        return [change]
    offset, data = change
    return [
        (offset + start, data[start : start + BLOCK_BYTES])
        for start in range(0, len(data), BLOCK_BYTES)
    ]


LOSSES: Final[dict[str, Callable[[bytearray, list[Change], random.Random], None]]] = {
    "lost": _lost,
    "kept": _kept,
    "torn": _torn,
    "shuffled": _shuffled,
    "zeroed": _zeroed,
    "garbage": _garbage,
    "flipped": _flipped,
}
