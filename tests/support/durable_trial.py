"""Does what must be durable when it returns, takes the power, and looks: once for each seed up to
SEEDS. Run where it may mount (``tests.support.mounts``); says what was lost.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import trio

import peer.segments
from node.models import ModelStore
from peer.durable import create_durably, make_folder_durably, remove_durably, write_durably
from peer.effects import system_effects
from peer.home import Home
from peer.identity import Identity, init_mesh
from peer.journal import Journal, JournalError
from protocols.journal import Entry
from tests.support.disks import PowerDisk

Look = Callable[[], object]

SEGMENT_BYTES = 2_000  # so that a few entries make several
CHANGES_MAX = 60


def files(folder: Path) -> Look:
    """Small files: replaced, created, removed."""
    write_durably(folder / "replaced", b"old")
    write_durably(folder / "replaced", b"new")
    create_durably(folder / "created", b"whole")
    write_durably(folder / "removed", b"x")
    remove_durably(folder / "removed")
    return lambda: (
        (folder / "replaced").read_bytes() == b"new"
        and (folder / "created").read_bytes() == b"whole"
        and not (folder / "removed").exists()
    )


def folders(folder: Path) -> Look:
    """A folder with others above it that were not there."""
    make_folder_durably(folder / "one/two/three")
    return (folder / "one/two/three").is_dir


def mesh(folder: Path) -> Look:
    """What ``covey init`` makes, and a start."""
    home = Home(folder / "state/covey", "covey.toml")
    home.create()
    identity = Identity.create(home.path, system_effects())
    init_mesh(identity, system_effects())
    identity.next_boot()

    def look() -> bool:
        there = Identity.load(home.path)
        return there.peer_id == identity.peer_id and bool(there.member) and there.boot == 1

    return look


def journal(folder: Path) -> Look:
    """A journal that was opened has a name."""
    Journal.open(folder / "journal").close()
    return (folder / "journal").exists


def model(folder: Path) -> Look:
    """A model that was installed stays so."""
    ModelStore(folder / "models").add("noop")
    return lambda: ModelStore(folder / "models").get("noop")


def segments(disk: PowerDisk, seed: int) -> Look:
    """A journal of many segments, some entries of which are erased, until the power goes."""
    path = disk.path / f"segments-{seed}"
    told: dict[int, bytes] = {}
    erasing: set[int] = set()

    async def write() -> None:
        journal = Journal.open(path)
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            for number in range(100):
                body = b"%d" % number * 100
                told[await journal.append(Entry.SALT, body)] = body
                if number % 5 == 4:
                    place = list(told)[-3]
                    erasing.add(place)
                    await journal.rewrite({place: None})

    disk.arm(random.Random(seed).randint(0, CHANGES_MAX))
    try:
        trio.run(write)
    except* (JournalError, OSError):
        pass  # the power went

    def look() -> bool:
        with closing(Journal.open(path)) as journal:
            there = {offset: body for offset, _, _, body in journal.scan()}
        return all(there.get(place) == told[place] for place in told.keys() - erasing)

    return look


TRIALS = (files, folders, mesh, journal, model)


def main() -> None:
    lost: set[str] = set()
    peer.segments.SEGMENT_BYTES = SEGMENT_BYTES  # type: ignore[misc]  # nothing else is as small
    with tempfile.TemporaryDirectory(prefix="covey-") as root, PowerDisk(Path(root) / "d") as disk:
        for seed in range(int(os.environ.get("SEEDS", 20))):
            for trial in TRIALS:
                folder = disk.path / f"{trial.__name__}-{seed}"
                make_folder_durably(folder)
                if not _outlasts(disk, seed, trial(folder)):
                    lost.add(f"{trial.__name__} at seed {seed}")
            if not _outlasts(disk, seed, segments(disk, seed)):
                lost.add(f"segments at seed {seed}")
    print("\n".join(sorted(lost)) or "nothing was lost")
    sys.exit(bool(lost))


def _outlasts(disk: PowerDisk, seed: int, look: Look) -> bool:
    disk.cut()
    disk.boot(seed)
    return _holds(look)


def _holds(look: Look) -> bool:
    try:
        return bool(look())
    except Exception as error:  # noqa: BLE001 - whatever it is, something is not as it was left
        print(repr(error))
        return False


if __name__ == "__main__":
    main()
