"""The body of an issue at GitHub: our text, the marker, a note of what we wrote, and below them
what people wrote, which stays.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import Final

from aggregator.trackers import Draft

MAX_BODY_CHARS: Final = 60_000  # GitHub takes 65,536
MIN_BODY_CHARS: Final = 1_000  # of ours, however much people wrote
FOOTER: Final = "<sub>Rewritten when it changes. What you write below this line stays.</sub>"


@dataclass(frozen=True, slots=True)
class Note:
    """What we wrote last: whether the issue was open, and a checksum of its title."""

    is_open: bool = True
    title_sum: int = -1

    def __str__(self) -> str:
        return f"<!-- covey-wrote {'open' if self.is_open else 'closed'} {self.title_sum} -->"


_NOTE: Final = re.compile(r"^<!-- covey-wrote (open|closed) (-?\d{1,10}) -->$", re.MULTILINE)


def checksum(title: str) -> int:
    """Return what tells a title that a person changed from the one that we wrote."""
    return zlib.crc32(title.encode())


def note_in(body: str) -> Note:
    """Return our last note; where a person took it out, nothing was changed that we could tell."""
    found = _NOTE.search(body)
    return Note(found[1] == "open", int(found[2])) if found else Note()


def below(body: str, marker: str) -> str:
    """Return what stands below the marker and the note."""
    rest = body.partition(f"{marker}\n")[2]
    return _NOTE.sub("", rest, count=1).removeprefix("\n")


def render(draft: Draft, note: Note, below: str) -> str:
    """Return the whole body, ours shortened where it would be too long."""
    rest = f"\n{draft.marker}\n{note}\n{below}"
    return _cut(draft.body, max(MAX_BODY_CHARS - len(rest), MIN_BODY_CHARS)) + rest


def _cut(body: str, room: int) -> str:
    """Shorten the body, and end the fence that the cut leaves open."""
    if len(body) <= room:
        return body
    kept: list[str] = []
    fence = ""
    for line in body[: room - 200].split("\n")[:-1]:  # 200: for what comes after
        kept.append(line)
        ticks = re.match("`{3,100}", line)
        if ticks and not fence:
            fence = ticks[0]
        elif line == fence:
            fence = ""
    return "\n".join([*kept, *([fence] if fence else []), "", "… and more, cut.", ""])
