"""Which bundles this peer holds, of its own feed and of others', by feed and epoch.

In memory are only the chains: which ranges are held and where the journal has them. They are never
saved, so there is nothing beside the journal that could disagree with it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

import trio

from peer.absences import BodyPlace
from peer.acknowledged import Acknowledged, FeedEpoch
from peer.bodies import Bodies
from peer.bundle_reader import Arrival, BundleReader
from peer.journal import Journal, JournalDamagedError
from peer.known_epochs import KnownEpochs
from peer.quarantine import damaged_links, within
from peer.statement_places import HeldBundle
from protocols.chain import Chain, Dropped, Link, Range, state_root
from protocols.cid import CID
from protocols.feed import Bundle, ForkProof, Head, Header, SignedHeader, UnverifiedBundle
from protocols.journal import Damage
from protocols.keys import SigningKey, peer_id_of
from protocols.sync import Gone

log = logging.getLogger(__name__)


Vouching = Callable[[bytes], Iterable[Link]]
"""Returns the bundles of our own feed by which we vouch for what we hold of a feed, in order."""

Witness = Callable[[Bundle, Mapping[int, Range]], Awaitable[None]]
"""Takes a verified bundle that its author told of itself, and what that author had acknowledged of
our own feed on the same stream before, by epoch."""


def _vouch_for_nothing(_feed: bytes) -> Iterable[Link]:
    return ()


async def _witness_nothing(_bundle: Bundle, _promised: Mapping[int, Range]) -> None:
    await trio.lowlevel.checkpoint()


class HeldFeeds:
    """What is held, for whoever reads it; what is damaged or dropped is held no longer."""

    def __init__(self, journal: Journal, key: SigningKey, mesh: bytes | None) -> None:
        self.key = key
        self._journal = journal
        self._chains: dict[FeedEpoch, Chain] = {}
        self.bodies = Bodies(mesh, self._chains)
        self.reader = BundleReader(journal)
        self._epochs = KnownEpochs()
        self._proofs: dict[FeedEpoch, ForkProof] = {}
        self.acknowledged = Acknowledged(self._chains)
        self._gone: dict[bytes, dict[FeedEpoch, Gone]] = {}
        self.dropped_records = 0
        """How many records lie in what was let go of after an acknowledgement; of a worker's feed,
        those among them that never came here too.
        """
        self.refused_absent = 0
        """How often a bundle was refused since the start because of the bodies that it lacked."""
        self.quarantined = 0
        """How many bundles turned out to be damaged on the disk since the start."""
        self._damaged: set[tuple[FeedEpoch, int, bytes]] = set()
        self.vouching: Vouching = _vouch_for_nothing
        """What we tell a feed's author that we vouch for; an aggregator sets it."""
        self.witness: Witness = _witness_nothing
        """Who looks at what others vouch for; a node sets it."""
        self._version = 0
        self._changed = trio.Event()

    @property
    def chains(self) -> Mapping[FeedEpoch, Chain]:
        """Which bundles are held, by feed and epoch; not to be changed from outside."""
        return self._chains

    @property
    def damaged_bundles(self) -> int:
        """How many bundles are known to be damaged on the disk and did not come again; of those
        that were so at the start, only our own are known.
        """
        return len(self._damaged)

    @property
    def gone_elsewhere(self) -> dict[FeedEpoch, Gone]:
        """What peers that are up told that they have dropped, of feeds that are held here."""
        return {key: gone for told in self._gone.values() for key, gone in told.items()}

    def note_gone(self, server: bytes, gone: Mapping[FeedEpoch, Gone]) -> None:
        """Take in all that a peer has dropped, in place of what it told before."""
        self._gone[server] = {key: row for key, row in gone.items() if key in self._chains}

    def forget_gone(self, server: bytes) -> None:
        """Forget what a peer told that it has dropped, for it is gone itself."""
        self._gone.pop(server, None)

    def heads(self) -> list[Head]:
        """Return where each unbroken run of each feed stands, sorted."""
        return sorted(
            Head(feed, epoch, run.first_sequence, run.next_sequence, CID.of_digest(run.tip))
            for (feed, epoch), chain in self._chains.items()
            for run in chain.runs()
        )

    def last_seen(self, feed: bytes) -> tuple[int, int] | None:
        """Return the highest (epoch, next sequence) held of a feed, which hello tells its
        author.
        """
        places = [
            (epoch, chain.next_sequence)
            for (key, epoch), chain in self._chains.items()
            if key == feed
        ]
        return max(places, default=None)

    @property
    def holes(self) -> dict[FeedEpoch, list[Range]]:
        """The missing ranges below what is held, of every feed that has any."""
        return {key: holes for key, chain in self._chains.items() if (holes := chain.holes())}

    @property
    def forks(self) -> dict[FeedEpoch, ForkProof]:
        """A proof for every feed and epoch whose author signed two truths."""
        return dict(self._proofs)

    def state_root(self) -> CID:
        """Return the one value that peers share exactly when they hold the same bundles."""
        return state_root(self._chains)

    def read(self, link: Link) -> bytes | None:
        """Return a held bundle's bytes; none when the disk has damaged it since, and then it is
        held no longer.
        """
        try:
            return self.reader.read(link.offset)
        except JournalDamagedError:
            place = link.first_sequence, link.digest
            held = [key for key, chain in self._chains.items() if chain.find(*place) == link]
            self._forget((key, link) for key in held)
            return None

    def quarantine(self, damage: Iterable[Damage]) -> None:
        """Hold no longer what lies in damaged bytes of the journal: it is not served any more, and
        counts as missing, so that whoever has it is asked for it.
        """
        is_damaged = within(damage)
        self._forget(damaged_links(self._chains, self.reader.own, is_damaged))
        self.bodies.lose_copies(is_damaged)

    def note_erased(
        self, cids: Iterable[CID], mark: int, places: Iterable[tuple[BodyPlace, CID]]
    ) -> None:
        """As ``Bodies.erased``, of bodies that stood at these places: they are absent from now on,
        as they are after a start.
        """
        self.bodies.erased(cids, mark)
        lost: dict[HeldBundle, dict[int, CID]] = {}
        for place, cid in places:
            self.bodies.redactions.found(place.feed, [cid])
            chain = self._chains.get((place.feed, place.epoch), Chain())
            for link in chain.over(place.sequence):
                if place.offset in self.reader.entries_of(link.offset):
                    held = HeldBundle(place.feed, place.epoch, link.digest)
                    lost.setdefault(held, {})[place.sequence] = cid
        for held, bodies in lost.items():
            self.bodies.lose(held, bodies)

    def suspect(self, offset: int) -> None:
        """As ``quarantine``, of the entry at ``offset``; for the worker threads that read it."""
        trio.from_thread.run_sync(self.quarantine, [Damage(offset, offset + 1)])

    def _forget(self, links: Iterable[tuple[FeedEpoch, Link]]) -> None:
        for key, link in links:
            self._chains[key].remove(link)
            self.bodies.forget(*key, link.digest)
            self.reader.own.pop(link.offset, None)
            self.quarantined += 1
            self._damaged.add((key, link.first_sequence, link.digest))
            log.error("bundle damaged on disk", extra=self._described(key, link))
            self._note_change()

    def _described(self, key: FeedEpoch, link: Link | Header) -> dict[str, object]:
        is_acked = link.next_sequence <= self.acknowledged.up_to.get(key, 0)
        return {
            "feed": peer_id_of(key[0]),
            "epoch": key[1],
            "sequences": (link.first_sequence, link.next_sequence),
            "acknowledged_by": peer_id_of(self.acknowledged.by[key]) if is_acked else None,
        }

    def arrivals(self, offset: int) -> Iterator[Arrival]:
        """Return every journal entry from ``offset`` on, with its bundle if it completes one.

        In the order in which the bundles came to this disk, which is how followers are served.
        """
        return self.reader.arrivals(offset)

    @property
    def journal_end(self) -> int:
        """Where ``arrivals`` would find what has not come yet."""
        return self._journal.size

    async def wait_changed(self, since: int) -> int:
        """Return the number of changes so far once it is above ``since``."""
        while self._version <= since:
            await self._changed.wait()
        return self._version

    async def wait_quarantined(self, since: int) -> int:
        """Return how many bundles turned out to be damaged once it is above ``since``."""
        while self.quarantined <= since:
            await self._changed.wait()
        return self.quarantined

    def vouched_about(self, feed: bytes, told: set[CID]) -> Iterator[bytes]:
        """Yield, once each, the bundles by which we vouch for what we hold of ``feed``; ``told`` is
        what was yielded before.
        """
        for link in self.vouching(feed):
            header = CID.of_digest(link.digest)
            bundle = None if header in told else self.read(link)
            told.add(header)
            if bundle is not None:
                yield bundle

    def about_redactions_of(self, feed: bytes, hearer: bytes, told: set[CID]) -> Iterator[bytes]:
        """Yield, once each, the bundles by which others than ``hearer`` redacted records of
        ``feed``; ``told`` is what was yielded before.
        """
        for cid in sorted(self.bodies.redactions.found_in(feed)):
            redaction = self.bodies.redactions.of(cid, feed)
            if redaction is None or redaction.by == hearer:
                continue
            for statement in (redaction.certificate, redaction.tombstone):
                if statement is None or statement in told:
                    continue
                bundle = self.bundle_of(statement)
                if bundle is not None:
                    told.add(statement)
                    yield bundle

    def bundle_of(self, statement: CID) -> bytes | None:
        """Return a held bundle in which a tombstone or certificate is."""
        for held, first_sequence in self.bodies.bundles_of(statement):
            link = self._chains[held.feed, held.epoch].find(first_sequence, held.header)
            if link is not None and (bundle := self.read(link)) is not None:
                return bundle
        return None

    def _holds(self, key: FeedEpoch, bundle: Bundle) -> bool:
        return self.holds(key, bundle.header.first_sequence, bundle.cid)

    def holds(self, key: FeedEpoch, first_sequence: int, header: CID) -> bool:
        """Say whether the bundle with that start and header is held, on the disk, or was."""
        if self.is_dropped(*key, first_sequence):
            return True  # once more on its way to us, and as little wanted as before
        chain = self._chains.get(key)
        return chain is not None and chain.find(first_sequence, header.digest) is not None

    def wants(self, bundle: UnverifiedBundle) -> bool:
        """Say whether a bundle brings anything: it is not held, or bodies of it are absent here."""
        key = (bundle.header.feed, bundle.header.epoch)
        if not self.holds(key, bundle.header.first_sequence, bundle.cid):
            return True
        return self.bodies.would_fill(bundle.header, bundle.cid, bundle.absent)

    @property
    def acked(self) -> Mapping[FeedEpoch, int]:
        """Up to which sequence some aggregator has promised to keep each feed."""
        return self.acknowledged.up_to

    def droppable(self, key: FeedEpoch) -> list[Link]:
        """Return the bundles of a feed's epoch that may be dropped, from its start on."""
        return self._chains[key].droppable(self.acked.get(key, 0))

    def _let_go(self, key: FeedEpoch, dropped: Dropped) -> None:
        self._epochs.count(key)
        chain = self._chains.setdefault(key, Chain())
        self.dropped_records += max(0, dropped.next_sequence - chain.dropped_below)
        gone = chain.drop(dropped)
        end = chain.dropped_below
        self._damaged = {each for each in self._damaged if each[0] != key or each[1] >= end}
        for link in gone:
            self.bodies.forget(*key, link.digest)
            self.reader.own.pop(link.offset, None)

    def is_dropped(self, feed: bytes, epoch: int, sequence: int) -> bool:
        """Say whether the record at that place was let go of."""
        chain = self._chains.get((feed, epoch))
        return chain is not None and sequence < chain.dropped_below

    def _hold(self, header: Header, cid: CID, offset: int) -> bool:
        """Hold a durable bundle; say whether it is in conflict with another one."""
        key = (header.feed, header.epoch)
        self._epochs.count(key)
        self._damaged.discard((key, header.first_sequence, cid.digest))
        chain = self._chains.setdefault(key, Chain())
        link = Link.of(header, cid.digest, offset)
        rival = chain.add(link)
        if rival is not None:
            self._prove_fork(key, link, rival)
        self._note_change()
        return rival is not None

    def _note_change(self) -> None:
        self._version += 1
        self._changed.set()
        self._changed = trio.Event()

    def _prove_fork(self, key: FeedEpoch, *links: Link) -> None:
        held = [self.read(link) for link in links]
        if key not in self._proofs and None not in held:
            one, other = (Bundle.decode_verified(data) for data in held if data is not None)
            self._proofs[key] = ForkProof(_signed_header(one), _signed_header(other))
            log.warning("feed forks", extra={"feed": one.feed, "epoch": key[1]})


def _signed_header(bundle: Bundle) -> SignedHeader:
    return SignedHeader(bundle.header_bytes, bundle.signature, bundle.header)
