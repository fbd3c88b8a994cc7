"""Lives that end in the middle of something, as a kill ends them: what had been written by then is
what the next life finds. Deaths come before every step by which a file is synced, renamed or
removed, so between any two of those; which one, the machine's choice says.
"""

from __future__ import annotations

import inspect
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from peer import redactor
from peer.healing import heal, is_healed
from peer.keeping import keep_statements
from protocols.cid import CID
from protocols.journal import Damage
from protocols.membership import AGGREGATOR as AGGREGATOR_ROLE
from tests.support.keeping import OPERATOR, Keeper, KeepingMachine, in_order, redact_own
from tests.support.rot import flip_at
from tests.unit.test_tombstone import certificate, tombstone

STEPS = ("fsync", "fdatasync", "ftruncate", "rename", "replace", "unlink")
"""Of ``os``: what makes something last, or go."""
MANY = 5  # records redacted together; the redactor takes them in parts of two
MOMENTS_MAX = 60  # of one act, which makes 5 to 30 steps: each is a copy of the home


class Moments:
    """Copies a home as it is before each of the first steps, and counts them."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.copies: list[Path] = []

    @contextmanager
    def near(self) -> Iterator[None]:
        """Have them taken while this lasts."""
        with _before_steps(self._take):
            yield

    def _take(self) -> None:
        if len(self.copies) < MOMENTS_MAX:
            self.copies.append(_copied(self._home))


class Death:
    """Copies a home as it is before one step of many; ``found`` is the copy, once it was made."""

    def __init__(self, home: Path, steps_left: int) -> None:
        self._home = home
        self._steps_left = steps_left
        self.found: Path | None = None

    @contextmanager
    def near(self) -> Iterator[None]:
        """Have it come while this lasts, if there are as many steps."""
        with _before_steps(self._step):
            yield

    def _step(self) -> None:
        if self._steps_left == 0:
            self.found = _copied(self._home)
        self._steps_left -= 1


@contextmanager
def _before_steps(act: Callable[[], None]) -> Iterator[None]:
    """Have ``act`` called before each of ``STEPS``."""

    def before(step: Callable[..., Any]) -> Callable[..., Any]:
        def stepped(*args: Any, **named: Any) -> Any:
            act()
            return step(*args, **named)

        return stepped

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, before(getattr(os, name)))
        yield


def _copied(home: Path) -> Path:
    copy = Path(tempfile.mkdtemp(prefix="covey-dying-", dir=home.parent))
    return Path(shutil.copytree(home, copy, dirs_exist_ok=True))


class DyingMachine(KeepingMachine):
    """Whatever a life was at when it ended is done again by the next; nothing that was there before
    is lost by it, and nothing that was redacted comes back.
    """

    deaths: ClassVar[Counter[str]] = Counter()
    """In which rules, of all lives."""
    healed: ClassVar[int] = 0
    """How much damage was let go of, in all lives."""

    @initialize()
    def begin(self) -> None:
        super().begin()
        self.patch.setattr(redactor, "MAX_ERASED_AT_ONCE", 2)

    @precondition(lambda self: self.made)
    @rule(choice=st.data())
    def it_dies_while_many_are_erased(self, choice: Any) -> None:
        chosen = self.some(choice)
        cids = [CID.of(self.made[each].encode()) for each in chosen]
        self.receive(OPERATOR, [tombstone(OPERATOR, "aggregator", *cids, number=self.next())])
        self.dies(choice, Keeper.erased)
        self.life.do(Keeper.erased)
        self.redacted |= set(chosen)

    @precondition(lambda self: self.made)
    @rule(choice=st.data())
    def it_dies_while_it_is_told(self, choice: Any) -> None:
        """An aggregator tells of a tombstone, and of the certificate along, on every stream."""
        chosen = self.some(choice)
        cids = [CID.of(self.made[each].encode()) for each in chosen]
        said = tombstone(OPERATOR, "aggregator", *cids, number=self.next())
        told = self.signed(OPERATOR, [said, certificate(OPERATOR, AGGREGATOR_ROLE)])

        async def hear(keeper: Keeper) -> None:
            await keeper.feeds.add(told)
            await keeper.erased()

        self.dies(choice, hear)
        self.life.do(hear)
        self.redacted |= set(chosen)

    @precondition(lambda self: self.own())
    @rule(choice=st.data())
    def it_dies_while_it_redacts_its_own(self, choice: Any) -> None:
        marker = choice.draw(st.sampled_from(self.own()))
        cid = CID.of(self.made[marker].encode())
        self.dies(choice, lambda keeper: redact_own(keeper, cid))
        self.life.do(lambda keeper: redact_own(keeper, cid))
        self.life.do(Keeper.erased)  # of others, what was cut for it
        self.redacted.add(marker)

    @precondition(lambda self: self.has_rotted)
    @rule(choice=st.data())
    def it_dies_while_it_heals(self, choice: Any) -> None:
        """What the disk spoiled is let go of once none of it is missed: it came again, and a start
        has found where the damage is.
        """
        self.what_rotted_comes_again()
        self.restart()

        async def heal_all(keeper: Keeper) -> None:
            await keeper.index.catch_up()
            damage = [] if self.rotten - self.redacted else keeper.journal.damage
            settled_at = keeper.feeds.settled_at
            healed = [each for each in damage if is_healed(each, (), settled_at)]
            DyingMachine.healed += len(healed)
            await heal(keeper.journal, keeper.index, healed)

        self.dies(choice, heal_all)
        self.life.do(heal_all)

    @rule(choice=st.data())
    def a_copy_of_what_redacts_rots(self, choice: Any) -> None:
        """And is made anew, for its bundle is whole."""
        spoilable = self.life.do(in_order(copies_beside_bundles))
        if not spoilable:
            return
        at = choice.draw(st.sampled_from(spoilable))
        flip_at(self.home / "journal", at + 24)
        self.has_rotted = True

        async def keep(keeper: Keeper) -> None:
            keeper.feeds.quarantine([Damage(at, at + 1)])
            named = keeper.feeds.bodies.redactions.named()
            await keep_statements(keeper.journal, keeper.feeds, named)

        self.dies(choice, keep)
        self.life.do(keep)

    # How

    def some(self, choice: Any) -> list[bytes]:
        made = st.sampled_from(sorted(self.made))
        return choice.draw(st.lists(made, min_size=1, max_size=MANY, unique=True))

    def own(self) -> list[bytes]:
        own = self.life.keeper.feeds.key.public
        return sorted(each for each, record in self.made.items() if record.author == own)

    def dies(self, choice: Any, at: Callable[[Keeper], Awaitable[Any]]) -> None:
        """Be at something, and go on from what was on the disk at one of the steps that it made;
        or at the end of it, where that is drawn or it made none.
        """
        held = self.held()
        moments = Moments(self.home)
        with moments.near():
            self.life.do(at)
        death = choice.draw(st.sampled_from([*moments.copies, None]))
        if death is not None:
            self.deaths[inspect.stack()[1].function] += 1
            self.life.end()
            shutil.rmtree(self.home)
            death.rename(self.home)
            self.life = self.started()
            assert held <= self.held()
        for each in moments.copies:
            shutil.rmtree(each, ignore_errors=True)

    def held(self) -> set[bytes]:
        chains = self.life.keeper.feeds.chains
        return {link.digest for chain in chains.values() for link in chain}


def copies_beside_bundles(keeper: Keeper) -> list[int]:
    """Where the journal has what redacts apart from a bundle that is whole."""
    bodies, feeds = keeper.feeds.bodies, keeper.feeds
    return [
        offset
        for statement in sorted(bodies.kept)
        if feeds.bundle_of(statement) is not None
        for offset in bodies.copies_of(statement)
    ]
