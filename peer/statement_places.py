"""Where this peer has each tombstone and certificate: in which held bundles, and in which copies
that the journal keeps apart from them.

A bundle is what others can be shown; a copy is what a start still believes when the bundle is
gone. Either may be damaged at any time, and may stand in several places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

from protocols.cid import CID


class HeldBundle(NamedTuple):
    """Which bundle: whose, of which epoch, and its header's digest."""

    feed: bytes
    epoch: int
    header: bytes


class StatementPlaces:
    """Places in bundles are those that are held, whatever came and went before."""

    def __init__(self) -> None:
        self._within: dict[HeldBundle, tuple[int, tuple[CID, ...]]] = {}
        """By bundle, its first sequence and the statements in it."""
        self._bundle: dict[CID, HeldBundle] = {}
        self._others: dict[CID, set[HeldBundle]] = {}
        """Further bundles: few statements are in several, and a set for each takes 200 bytes."""
        self._copies: dict[CID, tuple[int, ...]] = {}
        self._unheld: set[CID] = set()
        self._uncopied: set[CID] = set()
        self._entry: dict[CID, int] = {}

    def note(self, held: HeldBundle, first_sequence: int, statements: Iterable[CID]) -> None:
        """Take in which statements a bundle has that is held."""
        self._within[held] = first_sequence, tuple(statements)
        for each in self._within[held][1]:
            if self._bundle.setdefault(each, held) != held:
                self._others.setdefault(each, set()).add(held)
            self._unheld.discard(each)

    def forget(self, held: HeldBundle) -> list[CID]:
        """Take in that a bundle is held no longer; return which statements are in none now."""
        _, statements = self._within.pop(held, (0, ()))
        gone = [each for each in statements if self._leave(each, held)]
        self._unheld.update(gone)
        return gone

    def _leave(self, statement: CID, held: HeldBundle) -> bool:
        others = self._others.get(statement, set())
        others.discard(held)
        is_last = False
        if self._bundle.get(statement) == held:
            is_last = not others
            if is_last:
                del self._bundle[statement]
            else:
                self._bundle[statement] = others.pop()
        if not others:
            self._others.pop(statement, None)
        return is_last

    def bundles_of(self, statement: CID) -> list[tuple[HeldBundle, int]]:
        """Return in which bundles a statement is, and the first sequence of each."""
        if statement not in self._bundle:
            return []
        held = {self._bundle[statement], *self._others.get(statement, ())}
        return [(each, self._within[each][0]) for each in sorted(held)]

    @property
    def unheld(self) -> Set[CID]:
        """The statements that were in bundles, or are in copies, and are in no bundle held now."""
        return self._unheld

    def drop(self, statement: CID) -> None:
        """Take in that a statement does not count: it is no matter where it is."""
        self._entry.pop(statement, None)
        self._bundle.pop(statement, None)
        self._others.pop(statement, None)
        self._copies.pop(statement, None)
        self._unheld.discard(statement)
        self._uncopied.discard(statement)

    # Copies

    def keep(self, statement: CID, offset: int) -> None:
        """Take in a copy at that offset of the journal."""
        copies = self._copies.get(statement, ())
        if offset not in copies:
            self._copies[statement] = (*copies, offset)
        self._uncopied.discard(statement)
        self._entry.pop(statement, None)
        if statement not in self._bundle:
            self._unheld.add(statement)

    def come_across(self, statement: CID, offset: int) -> None:
        """Take in an entry of the journal that has a statement of which there is no copy yet."""
        if statement not in self._copies:
            self._entry.setdefault(statement, offset)

    def entry_of(self, statement: CID) -> int | None:
        """Return where the journal had a statement when it came: to copy it from where no bundle
        that holds it can be read.
        """
        return self._entry.get(statement)

    def lose_copies(self, is_gone: Callable[[int], bool]) -> None:
        """Take in that no copy is any more at the offsets of which ``is_gone`` says so."""
        for statement, copies in list(self._copies.items()):
            left = tuple(each for each in copies if not is_gone(each))
            if left:
                self._copies[statement] = left
            else:
                del self._copies[statement]
                self._uncopied.add(statement)

    @property
    def copied(self) -> Set[CID]:
        """The statements of which there is a copy."""
        return self._copies.keys()

    def copies_of(self, statement: CID) -> tuple[int, ...]:
        """Return at which offsets of the journal a statement's copies are."""
        return self._copies.get(statement, ())

    def to_copy(self) -> list[CID]:
        """Return the statements of which the last copy was lost and a bundle is held."""
        return [each for each in self._uncopied if each in self._bundle]
