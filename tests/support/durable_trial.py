"""Does what must be durable when it returns, takes the power, and looks: once for each seed up to
SEEDS. Run where it may mount (``tests.support.mounts``); says what was lost.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from node.models import ModelStore
from peer.durable import create_durably, make_folder_durably, remove_durably, write_durably
from peer.effects import system_effects
from peer.home import Home
from peer.identity import Identity, init_mesh
from peer.journal import Journal
from tests.support.disks import PowerDisk

Look = Callable[[], object]


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


TRIALS = (files, folders, mesh, journal, model)


def main() -> None:
    lost: set[str] = set()
    with tempfile.TemporaryDirectory(prefix="covey-") as root, PowerDisk(Path(root) / "d") as disk:
        for seed in range(int(os.environ.get("SEEDS", 20))):
            for trial in TRIALS:
                folder = disk.path / f"{trial.__name__}-{seed}"
                make_folder_durably(folder)
                look = trial(folder)
                disk.cut()
                disk.boot(seed)
                if not _holds(look):
                    lost.add(f"{trial.__name__} at seed {seed}")
    print("\n".join(sorted(lost)) or "nothing was lost")
    sys.exit(bool(lost))


def _holds(look: Look) -> bool:
    try:
        return bool(look())
    except Exception as error:  # noqa: BLE001 - whatever it is, something is not as it was left
        print(repr(error))
        return False


if __name__ == "__main__":
    main()
