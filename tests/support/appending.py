"""A process that appends to the journal named on its command line and tells each entry once it is
durable.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from peer.journal import Journal
from protocols.journal import Entry


async def main(path: Path, already: int) -> None:
    journal = Journal.open(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for writer in range(4):
            nursery.start_soon(_append, journal, already + writer)


async def _append(journal: Journal, number: int) -> None:
    while True:
        await journal.append(Entry.SALT, b"%d" % number)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()
        number += 4


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
