from __future__ import annotations

import random

import pytest

from tests.support.volatile import LOSSES, Disk, File, Folder

SEEDS = range(200)


def a_file(disk: Disk, name: str, content: bytes) -> File:
    file = disk.make(1, name, 0o100600, File)
    assert isinstance(file, File)
    file.write(0, content)
    return file


def after_loss(seed: int) -> tuple[bytes | None, bytes | None]:
    """What is left of a file that was synced with its name, and of one that was written only."""
    disk = Disk()
    a_file(disk, "safe", b"safe").sync()
    disk.root.sync()
    a_file(disk, "unsafe", bytes(range(1, 200)))
    disk.power_loss(random.Random(seed))
    return tuple(  # type: ignore[return-value]  # two names make two
        bytes(disk.file(disk.root.names[name]).content) if name in disk.root.names else None
        for name in ("safe", "unsafe")
    )


def test_what_was_synced_with_its_name_is_always_there() -> None:
    assert {after_loss(seed)[0] for seed in SEEDS} == {b"safe"}


def test_what_was_not_synced_is_lost_kept_or_spoilt() -> None:
    left = {after_loss(seed)[1] for seed in SEEDS}

    whole = bytes(range(1, 200))
    assert {None, b"", whole} < left
    assert any(each and whole.startswith(each) and each != whole for each in left)  # torn
    assert bytes(199) in left  # zeroed
    assert any(each and _bits(each, whole) == 1 for each in left)  # flipped


@pytest.mark.parametrize("kind", LOSSES)
def test_no_loss_touches_what_was_synced(kind: str) -> None:
    for seed in SEEDS:
        content = bytearray(b"s" * 100)
        LOSSES[kind](content, [(100, b"u" * 600), (700, b"v")], random.Random(seed))

        assert content[:100] == b"s" * 100


def test_a_name_is_safe_only_when_its_folder_was_synced() -> None:
    left: set[frozenset[str]] = set()
    for seed in SEEDS:
        disk = Disk()
        number = a_file(disk, "old", b"x").number
        disk.root.sync()
        disk.root.change({"old": None, "new": number})  # a rename
        disk.power_loss(random.Random(seed))
        left.add(frozenset(disk.root.names))

    assert left == {frozenset({"old"}), frozenset({"new"})}


def test_a_folder_takes_what_is_in_it_along() -> None:
    left: set[tuple[bool, bool]] = set()
    for seed in SEEDS:
        disk = Disk()
        folder = disk.make(1, "folder", 0o40700, Folder)
        inner = disk.make(folder.number, "inner", 0o100600, File)
        inner.sync()
        folder.sync()
        disk.power_loss(random.Random(seed))
        left.add(("folder" in disk.root.names, inner.number in disk.nodes))

    assert left == {(True, True), (False, False)}


def _bits(one: bytes, other: bytes) -> int:
    if len(one) != len(other):
        return -1
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))
