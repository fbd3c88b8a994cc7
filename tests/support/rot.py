"""A disk that forgets what it was told to keep."""

from __future__ import annotations

from pathlib import Path


def flip(journal: Path, marker: bytes) -> None:
    """Flip one bit of the first entry of a journal that holds ``marker``, where it lies."""
    for file in _files(journal):
        content = file.read_bytes()
        at = content.find(marker)
        if at >= 0:
            with file.open("r+b") as opened:
                opened.seek(at)
                opened.write(bytes([content[at] ^ 0x01]))
            return
    raise AssertionError(f"{journal} does not hold {marker!r}")


def flip_at(journal: Path, offset: int) -> None:
    """Flip one bit of the byte at an offset of a journal."""
    segment = max(each for each in _files(journal) if int(each.stem) <= offset)
    at = offset - int(segment.stem)
    with segment.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 0x01]))


def _files(journal: Path) -> list[Path]:
    if not journal.is_dir():
        return [journal]
    return sorted(each for each in journal.rglob("*") if each.is_file())
