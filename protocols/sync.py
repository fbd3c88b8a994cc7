"""``/covey/feed/1``: one peer pulls what another holds of all feeds, and goes on following it.

::

    puller                                  server
    Want(what I hold, more)…      ──►
                                  ◄──       Have(what I hold, more)…      or Refuse(code) ◄──
                                  Bundle…  Tip                  everything the puller lacks
    Tell(bundle)                  ──►                                     a tombstone for its
    records Ack(signed)           ──►                                     once it is on the puller's
    disk Ask(feed, epoch)              ──►                                     where our histories
    differ
                                  ◄──       Inventory(headers, more)…
    Fetch(headers)                ──►
                                  ◄──       Bundle…  Tip
                                  ◄──       Bundle…                       as they are cut or arrive
                                  ◄──       Tip                           at least every 30 s

    Seek(records)                 ──►       instead of Want: who knows a record by its name
                                  ◄──       Bundle…  Tip                  those that hold them

Ranges say what is held; where both sides hold a range but not the same bundles (a fork), the puller
sees from the tips in ``Have`` that its own do not reach them, and asks. The server decides nothing:
it answers, so a puller that is interrupted simply asks again for what it still lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto
from itertools import islice
from typing import Annotated, Any, Final, TypeAlias

import msgspec
import zstandard

from protocols.ack import MAX_ACK_BYTES, Digest, Epoch
from protocols.chain import Chain, Link
from protocols.decompression import decompressed
from protocols.errors import RemoteProtocolError
from protocols.limits import (
    MAX_BUNDLE_BYTES,
    MAX_HELD_PER_MESSAGE,
    MAX_HELD_RANGES,
    MAX_INVENTORY,
    MAX_SOUGHT,
)
from protocols.record import Count, PublicKey, Word
from protocols.wire import MessageCodec

PROTOCOL: Final = "/covey/feed/1"
VERSION: Final = 1

FeedEpoch = tuple[bytes, int]

_Bounded = msgspec.Meta(max_length=MAX_HELD_RANGES)
_Compressed = Annotated[bytes, msgspec.Meta(max_length=MAX_BUNDLE_BYTES + 1_024)]
_Named = Annotated[tuple[tuple[Count, Digest], ...], msgspec.Meta(max_length=MAX_INVENTORY)]


class _Message(msgspec.Struct, frozen=True, array_like=True):
    """Positional on the wire, with its tag first."""


class HeldRanges(_Message, frozen=True):
    """Which sequences of one feed's epoch the puller holds."""

    feed: PublicKey
    epoch: Epoch
    ranges: Annotated[tuple[tuple[Count, Count], ...], _Bounded]


class HeldRuns(_Message, frozen=True):
    """Which unbroken runs of one feed's epoch the server holds: first, next, last header's
    digest.
    """

    feed: PublicKey
    epoch: Epoch
    runs: Annotated[tuple[tuple[Count, Count, Digest], ...], _Bounded]


class Gone(_Message, frozen=True):
    """Below which sequence the server has dropped one feed's epoch, and which aggregator had said
    before that it keeps it.
    """

    feed: PublicKey
    epoch: Epoch
    next_sequence: Count
    aggregator: PublicKey


class Want(_Message, frozen=True, tag=1):
    """The puller's first words: what it holds, in one message or several."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    held: Annotated[tuple[HeldRanges, ...], msgspec.Meta(max_length=MAX_HELD_PER_MESSAGE)]
    follow: bool
    more: bool


class Have(_Message, frozen=True, tag=2):
    """What the server holds, at the moment from which it answers."""

    held: Annotated[tuple[HeldRuns, ...], msgspec.Meta(max_length=MAX_HELD_PER_MESSAGE)]
    more: bool
    gone: Annotated[tuple[Gone, ...], msgspec.Meta(max_length=MAX_HELD_PER_MESSAGE)] = ()
    """What was dropped of the feeds in ``held``: it is not to be had here any more."""
    hears: bool = False
    """Whether the server understands ``Tell``."""


class BundleMessage(_Message, frozen=True, tag=3):
    """One bundle, compressed with zstd."""

    compressed: _Compressed


class Tip(_Message, frozen=True, tag=4):
    """Everything asked for so far has been sent."""


class Ack(_Message, frozen=True, tag=5):
    """The puller has everything below these places on its disk."""

    payload: Annotated[bytes, msgspec.Meta(max_length=MAX_ACK_BYTES)]
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class Ask(_Message, frozen=True, tag=6):
    """List your bundles of this feed's epoch: they are not the ones that I hold."""

    feed: PublicKey
    epoch: Epoch


class Inventory(_Message, frozen=True, tag=7):
    """The first sequences and header digests of all bundles held of one feed's epoch."""

    feed: PublicKey
    epoch: Epoch
    bundles: _Named
    more: bool


class Fetch(_Message, frozen=True, tag=8):
    """Send exactly these bundles."""

    feed: PublicKey
    epoch: Epoch
    bundles: _Named


class Refuse(_Message, frozen=True, tag=9):
    """The server does not serve this puller, and says why."""

    code: Word
    reason: Annotated[str, msgspec.Meta(max_length=512)]


class Seek(_Message, frozen=True, tag=10):
    """Instead of ``Want``: send the bundles that hold these records, named by their digests."""

    version: Annotated[int, msgspec.Meta(ge=1)]
    records: Annotated[tuple[Digest, ...], msgspec.Meta(min_length=1, max_length=MAX_SOUGHT)]


class Tell(_Message, frozen=True, tag=11):
    """A bundle of somebody's that concerns the server's own records: a tombstone, or the
    certificate that makes one count; or of the puller's own feed, a checkpoint, behind the blocks
    of heads in it that name the server's feed; compressed with zstd.
    """

    compressed: _Compressed


Message: TypeAlias = (
    Want | Have | BundleMessage | Tip | Ack | Ask | Inventory | Fetch | Refuse | Seek | Tell
)

_CODEC: Final[MessageCodec[Message]] = MessageCodec(Message)


class State(Enum):
    """Where one side of the exchange stands, by what it may receive next."""

    AWAITING_WANT = auto()
    SERVING = auto()
    ANSWERING = auto()
    """One question, with which the stream began."""
    AWAITING_HAVE = auto()
    SEEKING = auto()
    PULLING = auto()
    REFUSED = auto()
    ANSWERED = auto()


TRANSITIONS: Final[Mapping[State, Mapping[type[Any], State]]] = {
    State.AWAITING_WANT: {Want: State.SERVING, Seek: State.ANSWERING},
    State.ANSWERING: {},
    State.SERVING: dict.fromkeys((Ack, Ask, Fetch, Tell), State.SERVING),
    State.AWAITING_HAVE: {Have: State.PULLING, Refuse: State.REFUSED},
    State.SEEKING: {
        BundleMessage: State.SEEKING,
        Tip: State.ANSWERED,
        Refuse: State.REFUSED,
    },
    State.ANSWERED: {},
    State.PULLING: {
        BundleMessage: State.PULLING,
        Tip: State.PULLING,
        Inventory: State.PULLING,
        Refuse: State.REFUSED,
    },
    State.REFUSED: {},
}


class Side:
    """One side's view of the order of messages; ``receive`` lets nothing through out of turn."""

    def __init__(self, state: State) -> None:
        self.state = state

    @classmethod
    def server(cls) -> Side:
        """Return the side that answers."""
        return cls(State.AWAITING_WANT)

    @classmethod
    def puller(cls) -> Side:
        """Return the side that asks."""
        return cls(State.AWAITING_HAVE)

    @classmethod
    def seeker(cls) -> Side:
        """Return the side that asks for records by name."""
        return cls(State.SEEKING)

    def receive(self, payload: bytes) -> list[Message]:
        """Return the messages of one frame; raises ``RemoteProtocolError`` and changes nothing."""
        messages = _CODEC.decode(payload)
        state = self.state
        for message in messages:
            following = TRANSITIONS[state].get(type(message))
            if following is None:
                raise RemoteProtocolError(
                    f"{type(message).__name__} was not expected in state {state.name}",
                    code="out-of-turn",
                )
            # A list that goes on in the next message keeps the state in which it may.
            if not (isinstance(message, Want | Have) and message.more):
                state = following
        self.state = state
        return messages


def encode(messages: Iterable[Message]) -> bytes:
    """Return the payload of one frame."""
    return _CODEC.encode(messages)


def want_messages(chains: Mapping[FeedEpoch, Chain], *, follow: bool) -> Iterator[Want]:
    """Say what is held in as many messages as it takes, one a frame; not what is to be filled."""
    held = (
        HeldRanges(feed, epoch, tuple(chain.whole_ranges()[:MAX_HELD_RANGES]))
        for (feed, epoch), chain in sorted(chains.items(), key=_by_feed)
    )
    for part, more in _parts(held, MAX_HELD_PER_MESSAGE):
        yield Want(VERSION, part, follow, more)


def have_messages(chains: Mapping[FeedEpoch, Chain]) -> Iterator[Have]:
    """Say what the server holds in as many messages as it takes, one a frame."""
    held = (
        HeldRuns(feed, epoch, tuple(chain.offered()[:MAX_HELD_RANGES]))
        for (feed, epoch), chain in sorted(chains.items(), key=_by_feed)
    )
    for part, more in _parts(held, MAX_HELD_PER_MESSAGE):
        keys = ((row.feed, row.epoch) for row in part)
        dropped = ((key, chains[key].dropped) for key in keys)
        gone = (Gone(*key, d.next_sequence, d.aggregator) for key, d in dropped if d is not None)
        yield Have(part, more, tuple(gone), hears=True)


def inventory_messages(key: FeedEpoch, chain: Iterable[Link]) -> Iterator[Inventory]:
    """List the bundles of one feed's epoch in as many messages as it takes, one a frame."""
    named = ((link.first_sequence, link.digest) for link in chain)
    for part, more in _parts(named, MAX_INVENTORY):
        yield Inventory(*key, part, more)


def fetch_messages(key: FeedEpoch, named: Sequence[tuple[int, bytes]]) -> Iterator[Fetch]:
    """Ask for bundles in as many messages as it takes, one a frame; for none when there are
    none.
    """
    for start in range(0, len(named), MAX_INVENTORY):
        yield Fetch(*key, tuple(named[start : start + MAX_INVENTORY]))


def pack(bundle: bytes) -> BundleMessage:
    """Return the message that carries a bundle."""
    return BundleMessage(_compress(bundle))


def pack_told(bundle: bytes) -> Tell:
    """Return the message that tells a server of a bundle."""
    return Tell(_compress(bundle))


def _compress(bundle: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(bundle)


def size_bytes(message: BundleMessage | Tell) -> int:
    """Return the size that a bundle will have; raises ``RemoteProtocolError`` if it is not told."""
    try:
        size = zstandard.get_frame_parameters(message.compressed).content_size
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"a compressed bundle is damaged: {error}") from error
    if not 0 < size <= MAX_BUNDLE_BYTES:
        raise RemoteProtocolError("a compressed bundle does not tell its size or is too large")
    return size


def unpack(message: BundleMessage | Tell) -> bytes:
    """Return the bundle that a message carries; raises ``RemoteProtocolError``.

    The size is read before anything is expanded: a kilobyte of zstd can stand for gigabytes.
    """
    size_bytes(message)
    try:
        return decompressed(message.compressed)
    except zstandard.ZstdError as error:
        raise RemoteProtocolError(f"a compressed bundle is damaged: {error}") from error


def _by_feed(item: tuple[FeedEpoch, Chain]) -> FeedEpoch:
    return item[0]


def _parts(items: Iterable[Any], size: int) -> Iterator[tuple[tuple[Any, ...], bool]]:
    """Yield ``items`` in parts and whether more follow; one empty part when there are none."""
    iterator = iter(items)
    part = tuple(islice(iterator, size))
    while True:
        following = tuple(islice(iterator, size))
        yield part, bool(following)
        if not following:
            return
        part = following
