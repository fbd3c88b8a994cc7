"""What redacting does beside rot, retention and many records at once."""

from __future__ import annotations

from pathlib import Path

from protocols.feed import Bundle
from tests.node.test_redaction import AUTHOR, Peer, marked, signed, up
from tests.support.feeds import cid_of, record
from tests.unit.test_tombstone import tombstone


def rot(peer: Peer) -> None:
    """Flip a bit in the first journal entry that holds a row of zeros."""
    [segment] = (peer.home / "journal").glob("*.segment")
    at = segment.read_bytes().index(bytes(100))
    with segment.open("r+b") as file:
        file.seek(at)
        file.write(b"\1")


async def redact_what_rotted(peer: Peer) -> None:
    """Have a bundle rot, come again whole, and be redacted."""
    whole = signed(AUTHOR, record(AUTHOR, 1, size=200), marked(AUTHOR))
    await peer.feeds.add(whole)
    await peer.index.catch_up()
    rot(peer)
    [link] = peer.feeds.chains[AUTHOR.public, 1]
    assert peer.feeds.read(link) is None
    await peer.feeds.add(whole)
    await bury(peer, whole)


async def bury(peer: Peer, whole: Bundle) -> None:
    said = tombstone(AUTHOR, "author", cid_of(marked(AUTHOR)))
    await peer.feeds.add(signed(AUTHOR, said, before=whole))


async def test_a_redacted_record_whose_entry_rotted_ends_nothing(tmp_path: Path) -> None:
    async with up(tmp_path) as peer:
        await redact_what_rotted(peer)
        await peer.erased()
        [again, _] = sorted(peer.feeds.chains[AUTHOR.public, 1], key=lambda link: link.offset)
        held = peer.feeds.read(again)
    async with up(tmp_path) as peer:
        await peer.erased()

    assert held is not None
    assert list(Bundle.decode(held).absent) == [1]
