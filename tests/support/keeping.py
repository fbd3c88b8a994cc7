"""A state machine over all that makes records stay and go: feeds, retention, redaction, rot and
restarts in whatever order. See ``dying`` for kills in the midst of it.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
import trio
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node.store import Store
from peer import segments
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal
from peer.recorder import Recorder
from peer.redactor import Redactor
from peer.retention import Keep, Retention
from peer.service import running
from peer.tables import IN_MEMORY, Rows
from protocols.ack import AckEntry, SignedAck
from protocols.chain import Link
from protocols.cid import CID
from protocols.feed import Bundle, Place, sign_bundle
from protocols.journal import RecordBody
from protocols.membership import AGGREGATOR as AGGREGATOR_ROLE
from protocols.record import Record, kind_of
from protocols.tombstone import STATEMENT_KINDS
from tests.support.feeds import START_US, bundles_of, effects, inline, key
from tests.support.retaining import nothing_needed
from tests.support.rot import flip_at
from tests.unit.test_tombstone import MESH, certificate, tombstone

OWNER, AGGREGATOR, AUTHOR, OPERATOR = key(1), key(2), key(3), key(4)
DAY_US = 86_400_000_000

R = TypeVar("R")


@dataclass
class Keeper:
    """What runs between a start and a stop."""

    journal: Journal
    feeds: Feeds
    index: Index[Store]
    redactor: Redactor

    @classmethod
    @asynccontextmanager
    async def opened(cls, home: Path, index_path: Path, now_us: int) -> AsyncGenerator[Keeper]:
        """Start on what is in ``home``."""
        with closing(Journal.open(home / "journal", offload=inline)) as journal:
            feeds = Feeds(journal, OWNER, effects(start_us=now_us), MESH.root.public)
            open_store = partial(Store.open, memory_mb=64, own=OWNER.public)
            index = Index(journal, index_path, OWNER.public, open_store, lag_bytes_max=1 << 40)
            redactor = Redactor(journal, feeds, index, Recorder(feeds, effects(1)))
            async with running(journal.run), running(index.run):
                yield cls(journal, feeds, index, redactor)

    async def erased(self) -> None:
        """Return when nothing is to be erased any more."""
        while pending := self.feeds.bodies.pending:
            await self.redactor.erase(pending)

    async def rows(self) -> Rows:
        """Return how many rows the index has for all of the journal."""
        await self.index.catch_up()
        return await self.index.ask(lambda store: store.rows())

    def uncut(self) -> Iterable[bytes]:
        """Return our records that no bundle holds."""
        for offset in self.feeds.uncut_offsets():
            yield RecordBody.decode(self.journal.read(offset)).record


class Life:
    """One ``Keeper`` in a thread of its own, for the machine's rules, which are no tasks."""

    def __init__(self, home: Path, index_path: Path, now_us: int) -> None:
        self._of = home, index_path, now_us
        self._started = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._started.wait(60)
        self._raise()

    def do(self, work: Callable[[Keeper], Awaitable[R]]) -> R:
        """Have something done within a minute and return what came of it."""
        self._raise()

        async def done() -> R:
            with trio.fail_after(60):
                return await work(self.keeper)

        return trio.from_thread.run(done, trio_token=self._token)

    def end(self) -> None:
        """Stop as a daemon stops."""
        self._token.run_sync_soon(self._stop.set)
        self._thread.join(60)
        self._raise()

    def _run(self) -> None:
        try:
            trio.run(self._main)
        except BaseException as error:  # noqa: BLE001 - told to whoever asks next
            self._failed = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        self._stop, self._token = trio.Event(), trio.lowlevel.current_trio_token()
        async with Keeper.opened(*self._of) as self.keeper:
            self._started.set()
            await self._stop.wait()

    def _raise(self) -> None:
        if self._failed is not None:
            raise self._failed


class KeepingMachine(RuleBasedStateMachine):
    """Every record has a marker by which its bytes are found, wherever they lie."""

    has_index_file: ClassVar[bool] = False

    @initialize()
    def begin(self) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(segments, "SEGMENT_BYTES", 6_000)
        self.home = Path(tempfile.mkdtemp(prefix="covey-keeping-"))
        self.now_us = START_US
        self.made: dict[bytes, Record] = {}
        self.redacted: set[bytes] = set()
        self.acknowledged: set[bytes] = set()
        self.up_to: dict[tuple[bytes, int], int] = {}
        """How far of each feed and epoch something was acknowledged."""
        self.rotten: set[bytes] = set()
        self.has_rotted = False
        self.sent: list[Bundle] = []
        self.spoiled: list[Bundle] = []
        self.tips: dict[bytes, Bundle] = {}
        self.life = self.started()
        self.receive(OPERATOR, [certificate(OPERATOR, AGGREGATOR_ROLE)])

    def teardown(self) -> None:
        if hasattr(self, "life"):
            self.life.end()
            self.patch.undo()
            shutil.rmtree(self.home)

    # What may happen

    @rule(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=4), is_cut=st.booleans())
    def write(self, sizes: list[int], is_cut: bool) -> None:
        async def write(keeper: Keeper) -> None:
            for record in self.records(OWNER, sizes):
                await keeper.feeds.append(record)
            if is_cut:
                await keeper.feeds.cut_all()
                await keeper.erased()

        self.life.do(write)

    @rule(sizes=st.lists(st.integers(0, 900), min_size=1, max_size=4))
    def another_writes(self, sizes: list[int]) -> None:
        self.receive(AUTHOR, self.records(AUTHOR, sizes))

    @precondition(lambda self: self.sent)
    @rule(choice=st.data())
    def what_was_sent_comes_again(self, choice: Any) -> None:
        bundle = choice.draw(st.sampled_from(self.sent))
        self.life.do(lambda keeper: keeper.feeds.add(bundle))
        link = self.life.do(in_order(lambda keeper: link_of(keeper, bundle)))
        if link is not None:
            self.rotten -= {*markers(bundle.records)} - self.redacted
        self.note_acknowledged(bundle)

    def note_acknowledged(self, bundle: Bundle) -> None:
        """Count what was damaged here when it was acknowledged: it may be dropped like the rest."""
        header = bundle.header
        if header.next_sequence <= self.up_to.get((header.feed, header.epoch), 0):
            self.acknowledged |= {*markers(bundle.records)}

    @rule(choice=st.data())
    def an_aggregator_acknowledges(self, choice: Any) -> None:
        chains = self.life.keeper.feeds.chains
        held = sorted((key, link.next_sequence) for key, chain in chains.items() for link in chain)
        if held:
            (feed, epoch), place = choice.draw(st.sampled_from(held))
            entry = AckEntry(feed, epoch, place)
            ack = SignedAck.sign(AGGREGATOR, [entry], self.now_us)
            below = chains[feed, epoch]
            self.up_to[feed, epoch] = max(place, self.up_to.get((feed, epoch), 0))
            self.acknowledged |= {
                each
                for link in below
                if link.next_sequence <= place
                for each in self.markers_at(link)
            }
            self.life.do(lambda keeper: keeper.feeds.acknowledge(ack))

    @rule(days=st.integers(0, 9), max_bytes=st.sampled_from([0, 5_000, 1 << 30]))
    def time_passes(self, days: int, max_bytes: int) -> None:
        self.now_us += days * DAY_US
        now_us = self.now_us

        async def enforce(keeper: Keeper) -> None:
            keeper.feeds.effects = replace(keeper.feeds.effects, now_us=lambda: now_us)

            async def forewarn(places: Any) -> None:
                await keeper.index.catch_up()
                await keeper.index.ask(lambda store: store.unpin(places))

            keep = Keep(7, max_bytes)
            retention = Retention(keeper.journal, keeper.feeds, keep, nothing_needed, forewarn)
            await retention.enforce()

        self.life.do(enforce)

    @precondition(lambda self: self.made)
    @rule(choice=st.data())
    def one_is_redacted(self, choice: Any) -> None:
        marker = choice.draw(st.sampled_from(sorted(self.made)))
        record = self.made[marker]
        cid = CID.of(record.encode())
        if choice.draw(st.booleans()):
            self.receive(OPERATOR, [tombstone(OPERATOR, "aggregator", cid, number=self.next())])
            self.life.do(lambda keeper: keeper.erased())
        elif record.author == AUTHOR.public:
            self.receive(AUTHOR, [tombstone(AUTHOR, "author", cid, number=self.next())])
            self.life.do(lambda keeper: keeper.erased())
        else:
            self.life.do(partial(redact_own, cid=cid))
        self.redacted.add(marker)

    @rule(choice=st.data())
    def the_disk_rots(self, choice: Any) -> None:
        """Under a bundle, which somebody reads before anything else happens. What redacts others
        may be gone with it for good, and yet holds: all but a certificate that nothing needed yet.
        """
        chains = self.life.keeper.feeds.chains
        links = sorted(link for chain in chains.values() for link in chain)
        held = [link for link in links if not self.life.do(in_order(partial(is_sole, link=link)))]
        if held:
            link = choice.draw(st.sampled_from(held))
            entries = list(self.life.keeper.feeds.reader.entries_of(link.offset))
            self.rot(link, choice.draw(st.sampled_from(entries)))

    @rule(size=st.integers(0, 900))
    def the_end_of_a_segment_rots(self, size: int) -> None:
        """Nothing whole is behind it there."""
        self.receive(AUTHOR, self.records(AUTHOR, [size]))
        self.life.do(lambda keeper: keeper.journal._seal())  # pyright: ignore[reportPrivateUsage]
        link = max(self.life.keeper.feeds.chains[AUTHOR.public, 1])
        self.rot(link, link.offset)

    @rule()
    def restart(self) -> None:
        root = self.life.keeper.feeds.state_root()
        rows = self.life.do(Keeper.rows)
        self.life.end()
        self.life = self.started()
        assert self.life.keeper.feeds.state_root() == root
        if not self.has_rotted:  # an index remembers what lay there
            assert self.life.do(Keeper.rows) == rows

    # What holds

    @invariant()
    def what_is_held_verifies_and_lacks_what_was_redacted(self) -> None:
        if not hasattr(self, "life"):
            return
        held = self.life.do(in_order(lambda keeper: bundles_of(keeper.feeds)))
        gone = {CID.of(self.made[each].encode()) for each in self.redacted}
        for bundle in held:
            absent = set(bundle.absent.values())
            assert absent <= gone
            assert gone.isdisjoint(map(CID.of, filter(None, bundle.records)))
        uncut = self.life.do(in_order(lambda keeper: list(keeper.uncut())))
        here = {*markers(each for bundle in held for each in bundle.records), *markers(uncut)}
        lost = self.made.keys() - here - self.redacted - self.rotten - self.acknowledged
        assert not lost

    @invariant()
    def no_byte_of_what_was_redacted_is_on_the_disk(self) -> None:
        if not hasattr(self, "life"):
            return
        files = [path.read_bytes() for path in self.home.rglob("*") if path.is_file()]
        uncut = self.life.do(in_order(lambda keeper: list(keeper.uncut())))
        gone = self.redacted - {*markers(uncut)}  # without a header nothing of it would be left
        assert not [each for each in gone for content in files if each in content]

    @invariant()
    def our_feed_never_forks(self) -> None:
        if hasattr(self, "life"):
            assert self.life.keeper.feeds.forks == {}

    # How

    def started(self) -> Life:
        index = self.home / "index.duckdb" if self.has_index_file else IN_MEMORY
        return Life(self.home, index, self.now_us)

    def next(self) -> int:
        return len(self.sent) % 256

    def records(self, author: Any, sizes: list[int]) -> list[Record]:
        made: list[Record] = []
        for size in sizes:
            marker = b"<marker %06d>" % len(self.made)
            attributes = {"marker": marker, "filler": bytes(size)}
            record = Record(
                author=author.public, nonce=marker, kind="test", start_us=1, attributes=attributes
            )
            self.made[marker] = record
            made.append(record)
        return made

    def receive(self, author: Any, records: list[Record]) -> None:
        bundle = self.signed(author, records)
        self.life.do(lambda keeper: keeper.feeds.add(bundle))

    def signed(self, author: Any, records: list[Record]) -> Bundle:
        before = self.tips.get(author.public)
        place = Place(1, before.header.next_sequence, before.cid) if before else Place(1, 0, None)
        bundle = sign_bundle(author, place, [each.encode() for each in records], self.now_us)
        self.tips[author.public] = bundle
        self.sent.append(bundle)
        return bundle

    def what_rotted_comes_again(self) -> None:
        for bundle in self.spoiled:
            self.life.do(partial(add, bundle=bundle))
            if self.life.do(in_order(partial(link_of, bundle=bundle))) is not None:
                self.rotten -= {*markers(bundle.records)} - self.redacted
                self.note_acknowledged(bundle)
        self.life.do(Keeper.erased)
        self.spoiled.clear()

    def rot(self, link: Link, offset: int) -> None:
        whole = self.life.do(in_order(lambda keeper: keeper.feeds.read(link)))
        if whole is not None:
            self.spoiled.append(Bundle.decode(whole))
        self.rotten |= self.markers_at(link)
        self.has_rotted = True
        flip_at(self.home / "journal", offset + 24)
        self.life.do(in_order(lambda keeper: keeper.feeds.read(link)))

    def markers_at(self, link: Link) -> set[bytes]:
        held = self.life.do(in_order(lambda keeper: keeper.feeds.read(link)))
        return set() if held is None else {*markers(Bundle.decode(held).records)}


async def add(keeper: Keeper, bundle: Bundle) -> None:
    await keeper.feeds.add(bundle)


async def redact_own(keeper: Keeper, cid: CID) -> None:
    await keeper.redactor.feeds.cut_all()
    await keeper.index.catch_up()
    async with trio.open_nursery() as nursery:
        await nursery.start(keeper.redactor.run)
        await keeper.redactor.redact([cid], "why", "author", is_dropped=True)
        nursery.cancel_scope.cancel()


def is_sole(keeper: Keeper, link: Link) -> bool:
    """Whether a bundle holds a statement that the journal has nowhere else."""
    stored = keeper.feeds.read(link)
    if stored is None:
        return False
    records = Bundle.decode_verified(stored).records
    said = {CID.of(each) for each in records if each and kind_of(each) in STATEMENT_KINDS}
    return bool(said) and not said <= keeper.feeds.bodies.kept


def link_of(keeper: Keeper, bundle: Bundle) -> Link | None:
    chain = keeper.feeds.chains.get((bundle.header.feed, bundle.header.epoch))
    if chain is None:
        return None
    return chain.find(bundle.header.first_sequence, bundle.cid.digest)


def in_order(look: Callable[[Keeper], R]) -> Callable[[Keeper], Awaitable[R]]:
    """Look at a keeper between its other tasks."""

    async def looked(keeper: Keeper) -> R:
        await trio.lowlevel.checkpoint()
        return look(keeper)

    return looked


def markers(records: Iterable[bytes]) -> Iterable[bytes]:
    for record in filter(None, records):
        if (at := record.find(b"<marker ")) >= 0:
            yield record[at : at + 15]
