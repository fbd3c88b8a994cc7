from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import example, given, settings, strategies as st
from trio.testing import MockClock

from node.backing import Backing
from node.reading import list_records, show_record
from node.store import Store
from peer.excerpts import Excerpt, reader_of
from peer.feeds import Feeds
from peer.index import Index
from peer.journal import Journal
from peer.recorder import Recorder
from peer.redactor import Redactor
from peer.service import running
from protocols.cid import CID
from protocols.errors import CoveyError
from protocols.feed import Bundle, Place, UnverifiedBundle, sign_bundle
from protocols.keys import SigningKey
from protocols.membership import AGGREGATOR
from protocols.record import Record
from protocols.sync import PROTOCOL, encode, pack_told, want_messages
from tests.support.exchanging import FOLLOWING, OPEN, Meeting, meet, until
from tests.support.feeds import bundles_of, cid_of, effects, key, record
from tests.unit.test_tombstone import MESH, certificate, tombstone

OWNER, AUTHOR, OPERATOR = key(1), key(2), key(3)
MARKER = b"the marker that nobody may find"


def marked(author: SigningKey, number: int = 7) -> Record:
    return Record(
        author=author.public,
        nonce=bytes([number]),
        kind="test",
        start_us=1,
        attributes={"secret": MARKER},
    )


def signed(author: SigningKey, *records: Record, before: Bundle | None = None) -> Bundle:
    place = Place(1, 0, None)
    if before is not None:
        place = Place(1, before.header.next_sequence, before.cid)
    return sign_bundle(author, place, [each.encode() for each in records], 1)


def without(bundle: Bundle, *places: int) -> Bundle:
    """The bundle as somebody has it who lacks these bodies."""
    records = [b"" if at in places else each for at, each in enumerate(bundle.records)]
    return Bundle.decode(bundle.with_records(records).encode())


@dataclass
class Peer:
    home: Path
    feeds: Feeds
    index: Index[Store]
    redactor: Redactor

    def files_with_marker(self) -> list[Path]:
        return [p for p in self.home.rglob("*") if p.is_file() and MARKER in p.read_bytes()]

    async def erased(self) -> None:
        with trio.fail_after(30):
            while self.feeds.bodies.pending:  # noqa: ASYNC110 - threads of index and journal work
                await trio.sleep(0.005)


@asynccontextmanager
async def up(home: Path, *, erases: bool = True) -> AsyncGenerator[Peer]:
    journal = Journal.open(home / "journal")
    try:
        async with running(journal.run):
            feeds = Feeds(journal, OWNER, effects(), MESH.root.public)
            open_store = partial(Store.open, memory_mb=64, own=OWNER.public)
            index = Index(journal, home / "index.duckdb", OWNER.public, open_store)
            redactor = Redactor(journal, feeds, index, Recorder(feeds, effects(1)))
            async with running(index.run, *([redactor.run] if erases else [])):
                yield Peer(home, feeds, index, redactor)
    finally:
        journal.close()


async def test_a_redacted_record_of_ours_leaves_the_disk_and_its_header_stays(
    tmp_path: Path,
) -> None:
    async with up(tmp_path) as peer:
        cids = [await peer.feeds.append(each) for each in (record(OWNER, 1), marked(OWNER))]
        await peer.feeds.cut_all()
        await peer.index.catch_up()
        root = peer.feeds.state_root()
        before = peer.files_with_marker()
        await peer.redactor.redact([cids[1]], "personal", "author")
        left = bundles_of(peer.feeds)
        rows = await peer.index.ask(lambda store: store.rows())
        found = peer.files_with_marker()

    assert before
    assert found == []
    assert list(left[0].absent.values()) == [cids[1]]
    assert left[0].records[0] == record(OWNER, 1).encode()
    assert (rows.records, rows.bodiless) == (2, 1)  # the other record, and the tombstone
    assert root != CID.of(b"")


async def test_what_is_left_of_a_redacted_record_is_listed_and_shown(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        cids = [await peer.feeds.append(each) for each in (record(OWNER, 1), marked(OWNER))]
        await peer.redactor.redact([cids[1]], "personal", "author")
        await peer.index.catch_up()
        backing = Backing.of(peer.redactor.journal, peer.feeds)
        listed, of_a_kind, shown, other = await peer.index.ask(
            lambda store: (
                list_records(store, {}, backing),
                list_records(store, {"kind": "tick"}, backing),
                show_record(store, {"cid": str(cids[1])}, backing),
                show_record(store, {"cid": str(cids[0])}, backing),
            )
        )

    tombstone_, erased, first = listed
    assert (erased["cid"], erased["status"], erased["kind"]) == (str(cids[1]), "redacted", None)
    assert erased["redacted"]["by"] == erased["peer"] == OWNER.peer_id
    assert erased["redacted"]["reason"] == "personal"
    assert erased["redacted"]["tombstone"] == tombstone_["cid"]
    assert first["redacted"] is None
    assert all(row["kind"] == "tick" for row in of_a_kind)
    assert shown["redacted"] == erased["redacted"]
    assert (shown["sequence"], shown["attributes"]) == (1, {})
    assert set(shown) == set(other)


async def test_nothing_comes_back_after_a_restart_or_a_rebuild(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        cid = await peer.feeds.append(marked(OWNER))
        await peer.redactor.redact([cid], "personal", "author")
        root, place = peer.feeds.state_root(), peer.feeds.place
    async with up(tmp_path) as peer:
        await peer.feeds.append(record(OWNER, 9))
        await peer.index.rebuild()
        found = await peer.index.ask(lambda store: store.record(cid))
        again = (peer.feeds.state_root(), peer.feeds.place, peer.feeds.bodies.pending)

    assert found is None
    assert again == (root, place, frozenset())


async def test_what_was_not_erased_before_the_end_is_erased_at_the_next_start(
    tmp_path: Path,
) -> None:
    async with up(tmp_path, erases=False) as peer:
        await peer.feeds.add(signed(AUTHOR, marked(AUTHOR)))
        await peer.index.catch_up()
        first = signed(AUTHOR, marked(AUTHOR))
        burial = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(marked(AUTHOR))), before=first)
        await peer.feeds.add(burial)
        before = peer.files_with_marker()
    async with up(tmp_path) as peer:
        await peer.erased()
        after = peer.files_with_marker()

    assert before
    assert after == []


async def test_a_body_that_comes_after_its_tombstone_is_not_kept(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        first = signed(AUTHOR, record(AUTHOR, 1), marked(AUTHOR))
        burial = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(marked(AUTHOR))), before=first)
        await peer.feeds.add(burial)
        await peer.erased()
        await peer.feeds.add(first)
        kept = bundles_of(peer.feeds)[0]
        found = peer.files_with_marker()

    assert found == []
    assert list(kept.absent) == [1]
    assert peer.feeds.bodies.lacking == []


async def test_an_outsiders_tombstone_erases_nothing(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        await peer.feeds.add(signed(AUTHOR, marked(AUTHOR)))
        for authority in ("author", "aggregator"):
            other = key(5 if authority == "author" else 6)
            await peer.feeds.add(
                signed(other, tombstone(other, authority, cid_of(marked(AUTHOR))))  # type: ignore[arg-type]  # both are authorities
            )
        await peer.erased()
        kept = bundles_of(peer.feeds)

    assert not any(each.absent for each in kept)


async def test_what_several_feeds_name_is_told_of_one_that_did_not_redact_it_itself(
    tmp_path: Path,
) -> None:
    cid = cid_of(marked(AUTHOR))
    ruling = tombstone(OPERATOR, "aggregator", cid)
    whole = signed(AUTHOR, marked(AUTHOR))
    async with up(tmp_path) as peer:
        for outsider in map(key, range(5, 9)):
            burials = (tombstone(outsider, "author", cid, number=each) for each in range(256))
            burial = next(each for each in burials if cid_of(each) < cid_of(ruling))
            named = sign_bundle(outsider, Place(1, 0, None), [marked(AUTHOR).encode()], 1)
            await peer.feeds.add_all(
                [named.with_records([b""]), signed(outsider, burial, before=named)]
            )
        await peer.feeds.add(whole)
        await peer.feeds.add(signed(OPERATOR, ruling, certificate(OPERATOR, AGGREGATOR)))
        await peer.erased()
        await peer.index.catch_up()
        entry_at = reader_of(peer.redactor.journal, peer.feeds.suspect)
        redactions = peer.feeds.bodies.redactions
        [told] = await peer.index.ask(
            lambda store: Excerpt(store, entry_at, (), OWNER, cid, redactions).redacted()
        )

    assert told.signers == (AUTHOR.public,)
    assert told.redaction.by == OPERATOR.public


async def test_a_role_that_shows_late_makes_a_tombstone_count(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        await peer.feeds.add(signed(AUTHOR, marked(AUTHOR)))
        first = signed(OPERATOR, tombstone(OPERATOR, "aggregator", cid_of(marked(AUTHOR))))
        await peer.feeds.add(first)
        await peer.erased()
        early = peer.files_with_marker()
        await peer.feeds.add(signed(OPERATOR, certificate(OPERATOR, AGGREGATOR), before=first))
        await peer.erased()
        late = peer.files_with_marker()

    assert early
    assert late == []


@pytest.mark.parametrize(
    ("author", "kind", "code"),
    [(AUTHOR, "test", "not-author"), (OWNER, "member.certificate", "not-redactable")],
)
async def test_what_may_not_be_redacted_is_refused(
    tmp_path: Path, author: SigningKey, kind: str, code: str
) -> None:
    async with up(tmp_path) as peer:
        thing = record(author, 1, kind)
        if author == OWNER:
            await peer.feeds.append(thing)
        else:
            await peer.feeds.add(signed(author, thing))

        with pytest.raises(CoveyError) as refused:
            await peer.redactor.redact([cid_of(thing)], "why", "author")

    assert refused.value.code == code


async def test_absent_bodies_are_told_and_filled_by_whoever_has_them(tmp_path: Path) -> None:
    whole = signed(AUTHOR, record(AUTHOR, 1), record(AUTHOR, 2), record(AUTHOR, 3))
    async with up(tmp_path) as peer:
        chain_of = peer.feeds.chains
        await peer.feeds.add(without(whole, 0, 2))
        lacking = [each.sequence for each in peer.feeds.bodies.lacking]
        chain = chain_of[AUTHOR.public, 1]
        first = (chain.whole_up_to, chain.whole_ranges(), chain.ranges())
        wants = peer.feeds.wants(UnverifiedBundle.open(without(whole, 1, 2).encode()))
        outcomes = [
            (await peer.feeds.add(each)).name
            for each in (without(whole, 1, 2), without(whole, 1, 2), whole, whole)
        ]
        root = peer.feeds.state_root()
    async with up(tmp_path) as peer:
        kept = bundles_of(peer.feeds)
        second = peer.feeds.chains[AUTHOR.public, 1].whole_up_to
        again = (peer.feeds.state_root(), peer.feeds.bodies.lacking)

    assert lacking == [0, 2]
    assert first == (0, [], [(0, 3)])
    assert wants
    assert outcomes == ["FILLED", "DUPLICATE", "FILLED", "DUPLICATE"]
    assert kept == [whole]
    assert second == 3
    assert again == (root, [])


async def test_filling_a_bundle_body_by_body_takes_its_place_on_the_disk_seven_times_at_most(
    tmp_path: Path,
) -> None:
    whole = signed(AUTHOR, *(record(AUTHOR, number, size=1000) for number in range(60)))
    async with up(tmp_path) as peer:
        for count in range(61):
            some = (*whole.records[:count], *[b""] * (60 - count))
            await peer.feeds.add(whole.with_records(some))
        size = peer.redactor.journal.size
        kept = bundles_of(peer.feeds)

    assert kept == [whole]
    assert size < 8 * len(whole.encode())


@pytest.mark.parametrize("limit", ["MAX_ABSENT_OF_FEED", "MAX_ABSENT_BODIES"])
async def test_bundles_that_lack_too_many_bodies_are_refused_and_counted_until_some_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(f"peer.absences.{limit}", 2)
    first = signed(AUTHOR, record(AUTHOR, 1), record(AUTHOR, 2))
    second = signed(AUTHOR, record(AUTHOR, 3), marked(AUTHOR), before=first)
    burial = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(marked(AUTHOR))), before=second)
    bundles = (without(first, 0, 1), without(second, 0), burial, without(second, 1), first)
    async with up(tmp_path) as peer:
        outcomes = [(await peer.feeds.add(each)).name for each in bundles]
        counts = peer.feeds.refused_absent, peer.feeds.bodies.lacking_count
        later = await peer.feeds.add(without(second, 0, 1))
    async with up(tmp_path) as peer:
        again = peer.feeds.bodies.lacking_count, len(peer.feeds.bodies.lacking)

    assert outcomes == ["NEW", "REFUSED", "NEW", "NEW", "FILLED"]
    assert counts == (1, 0)
    assert later.name == "DUPLICATE"
    assert again == (0, 0)


async def test_a_puller_gets_from_another_what_a_server_lacks_and_acknowledges_only_that(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    whole = signed(AUTHOR, record(AUTHOR, 1), record(AUTHOR, 2))
    meeting = Meeting(tmp_path)
    async with meeting.peer(4) as poor, meeting.peer(5) as rich, meeting.peer(6, FOLLOWING) as us:
        await poor.feeds.add(without(whole, 1))
        await rich.feeds.add(whole)
        await meet(us, poor)
        await until(lambda: bool(us.feeds.chains))
        await trio.sleep(60)
        acked_early = dict(poor.feeds.acked)
        await meet(us, rich)
        await until(lambda: not us.feeds.bodies.lacking)
        await until(lambda: bool(rich.feeds.acked))

    assert acked_early == {(AUTHOR.public, 1): 1}
    assert rich.feeds.acked == {(AUTHOR.public, 1): 2}
    assert bundles_of(us.feeds) == [whole]


HISTORY: list[Bundle] = []
EXPECTED: list[object] = []


def history() -> list[Bundle]:
    """Bundles with records, tombstones of all sorts and certificates, some without bodies."""
    if not HISTORY:
        first = signed(AUTHOR, record(AUTHOR, 1), marked(AUTHOR), record(AUTHOR, 2))
        second = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(marked(AUTHOR))), before=first)
        ruled = signed(OPERATOR, tombstone(OPERATOR, "aggregator", cid_of(record(AUTHOR, 2))))
        shown = signed(OPERATOR, certificate(OPERATOR, AGGREGATOR), before=ruled)
        stray = signed(key(5), tombstone(key(5), "author", cid_of(record(AUTHOR, 1))))
        HISTORY.extend((first, second, ruled, shown, stray, without(first, 1), without(first, 0)))
    return HISTORY


async def visible(home: Path, parts: Iterable[list[Bundle]]) -> list[object]:
    async with up(home) as peer:
        for part in parts:
            await peer.feeds.add_all(part)
        await peer.erased()
        held = [(each.cid, each.records) for each in bundles_of(peer.feeds)]
        return [peer.feeds.state_root(), held, peer.feeds.bodies.lacking, peer.files_with_marker()]


@settings(max_examples=8, deadline=None)
@example([1, 2, 3, 4, 6, 5, 0], 0, 4)  # two forms of one bundle at once
@example([6, 1, 2, 3, 4, 5, 0], 0, 1)  # filled from what was about to be erased
@given(st.permutations(range(7)), st.integers(0, 7), st.integers(1, 4))
def test_any_order_repetition_and_split_gives_one_visible_state(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], again: int, size: int
) -> None:
    bundles = history()
    shuffled = [bundles[index] for index in [*order, *order[:again]]]
    parts = [shuffled[start : start + size] for start in range(0, len(shuffled), size)]

    seen = trio.run(visible, tmp_path_factory.mktemp("seen"), parts)
    if not EXPECTED:
        EXPECTED.extend(trio.run(visible, tmp_path_factory.mktemp("expected"), [bundles]))

    assert seen == EXPECTED
    assert seen[-1] == []
    _root, held, lacking, _ = seen
    assert isinstance(held, list)
    records = dict(held)[bundles[0].cid]
    assert records == (record(AUTHOR, 1).encode(), b"", b"")
    assert lacking == []


@pytest.mark.parametrize(
    ("may_acknowledge", "is_tombstone", "is_kept"),
    [(True, True, True), (False, True, False), (True, False, False)],
)
async def test_a_server_keeps_what_an_aggregator_tells_of_tombstones_and_nothing_else(
    tmp_path: Path,
    autojump_clock: MockClock,
    may_acknowledge: bool,
    is_tombstone: bool,
    is_kept: bool,
) -> None:
    policy = replace(OPEN, may_acknowledge=lambda _: may_acknowledge)
    said = tombstone(OPERATOR, "aggregator") if is_tombstone else record(OPERATOR, 1)
    async with Meeting(tmp_path).peers(node=policy, asker=OPEN) as (node, asker):
        await meet(node, asker)
        stream = await asker.transport.open_stream(node.transport.peer_id, PROTOCOL)
        for want in want_messages({}, follow=True):
            await stream.send(encode([want]))
        await stream.send(encode([pack_told(signed(OPERATOR, said).encode())]))
        await trio.sleep(1)
        held = (OPERATOR.public, 1) in node.feeds.chains

    assert held == is_kept


async def test_whoever_keeps_a_worker_s_records_is_told_that_they_were_redacted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    first = signed(AUTHOR, marked(AUTHOR))
    burial = signed(AUTHOR, tombstone(AUTHOR, "author", cid_of(marked(AUTHOR))), before=first)
    async with Meeting(tmp_path).peers(keeper=OPEN, aggregator=FOLLOWING) as (keeper, aggregator):
        await keeper.feeds.add(first)
        await aggregator.feeds.add_all([burial, without(first, 0)])
        await meet(keeper, aggregator)
        redactions = keeper.feeds.bodies.redactions

        await until(lambda: redactions.of(cid_of(marked(AUTHOR)), AUTHOR.public) is not None)

        await keeper.feeds.add(later := signed(OPERATOR, marked(OPERATOR)))
        said = tombstone(OPERATOR, "author", cid_of(marked(OPERATOR)))
        await aggregator.feeds.add_all([signed(OPERATOR, said, before=later), without(later, 0)])
        await until(lambda: redactions.of(cid_of(marked(OPERATOR)), OPERATOR.public) is not None)
