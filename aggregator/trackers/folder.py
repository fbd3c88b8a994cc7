"""The folder tracker: issues as Markdown files, ``issues/NNNN-title.md``, for people to read.

The default, because nothing leaves the machine. A person may rename, move (within the folder),
edit or delete a file: it is found by its marker line, and whatever stands below that line is kept.
A number is used once, even by two processes and even if its file is deleted: whoever creates
``.numbers/NNNN`` first owns it. A crash at any moment leaves a whole file or none, and at worst a
number that is never used.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from aggregator.trackers import Draft, Issue, IssueGoneError, Seen, TrackerError
from peer.durable import NotWrittenError, write_durably

T = TypeVar("T")

FOLDER: Final = "issues"
MAX_SLUG_CHARS: Final = 60  # file names stay readable in a listing
MAX_FILE_BYTES: Final = 1 << 20  # a larger one is not ours: a person keeps something big there
NOTES_HINT: Final = (
    "_Everything above is rewritten when it changes. Whatever you write below stays._"
)

_NUMBERED: Final = re.compile(r"(\d{4,})\b")


class FolderTracker:
    """Issues in ``home/issues``; blocking, so use it through ``InThread``."""

    name = "folder"
    settle_s = 0.0  # a file system call has happened or not when it returns

    def __init__(self, home: Path) -> None:
        self._folder = home / FOLDER
        self._numbers = self._folder / ".numbers"

    def find(self, marker: str) -> list[Issue]:
        """Return the issues that have ``marker`` as a line of its own, the lowest number first."""
        return _reporting(
            lambda: sorted(self._issue(path, marker) for path in self._with_marker(marker))
        )

    def survey(self) -> list[Seen]:
        """Return nothing: a file has no state that a person could set."""
        return []

    def create(self, draft: Draft) -> Issue:
        """Write a new file under the next number."""
        return _reporting(lambda: self._create(draft))

    def update(self, number: int, draft: Draft) -> None:
        """Rewrite the file down to its marker; raises ``IssueGoneError`` if it was deleted."""
        _reporting(lambda: self._update(number, draft))

    def _create(self, draft: Draft) -> Issue:
        number = self._take_number(draft.marker)
        path = self._folder / f"{number:04d}-{_slug(draft.title)}.md"
        write_durably(path, f"{_render(draft)}\n{NOTES_HINT}\n".encode())
        return self._issue(path, draft.marker)

    def _update(self, number: int, draft: Draft) -> None:
        path = next(self._with_marker(draft.marker), None)
        if path is None:
            raise IssueGoneError(
                f"the file of issue {number} is gone", hint="deleting it is a way to be rid of it"
            )
        lines = _lines(path)
        notes = lines[lines.index(draft.marker) + 1 :]
        write_durably(path, (_render(draft) + "\n".join(notes)).encode())

    def _take_number(self, marker: str) -> int:
        """Take the next free number, for this marker and for ever."""
        self._numbers.mkdir(parents=True, exist_ok=True)
        _sync(self._folder.parent)  # else a power cut may take the whole new folder back
        number = max(self._known_numbers(), default=0) + 1
        while not self._take(number, marker):
            number += 1
        return number

    def _take(self, number: int, marker: str) -> bool:
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        try:
            handle = os.open(self._numbers / f"{number:04d}", flags, 0o600)
        except FileExistsError:
            return False  # another process took it since we looked
        with open(handle, "w", encoding="utf-8") as file:
            file.write(marker)
        return True

    def _known_numbers(self) -> Iterator[int]:
        """Yield the numbers taken and those of files, which may have come from a backup."""
        for path in (*self._numbers.iterdir(), *self._files()):
            if match := _NUMBERED.match(path.name):
                yield int(match[1])

    def _with_marker(self, marker: str) -> Iterator[Path]:
        for path in self._files():
            if path.stat().st_size > MAX_FILE_BYTES:
                continue
            if marker in _lines(path):
                yield path

    def _files(self) -> list[Path]:
        """Return the issue files, those in folders that a person made too."""
        return sorted(self._folder.rglob("*.md"))

    def _issue(self, path: Path, marker: str) -> Issue:
        match = _NUMBERED.match(path.name)
        number = int(match[1]) if match else self._number_taken_for(marker)
        return Issue(number, str(path.relative_to(self._folder.parent)))

    def _number_taken_for(self, marker: str) -> int:
        """Return the number of a file whose new name does not tell it."""
        taken = [path for path in self._numbers.iterdir() if marker in _lines(path)]
        if not taken:
            raise TrackerError(
                f"no number is known for the file with {marker}",
                hint="begin its name with a number of four digits",
            )
        # A crash may have taken a number before the one under which the file was written at last.
        return max(int(path.name) for path in taken)


def _lines(path: Path) -> list[str]:
    """Return the lines as an editor shows them; no other character may end a marker's line."""
    text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n")
    return text.split("\n")


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _render(draft: Draft) -> str:
    """Return the file down to the end of its marker line."""
    return f"# {heading(draft.title)}\n\n{draft.body}\n{draft.marker}\n"


def heading(title: str) -> str:
    """Return a title so that Markdown shows it letter by letter."""
    return _MARKUP.sub(r"\\\g<0>", title)


# As few as will do, since people read the file as it is too: no underscore inside of a word, no
# bracket that begins no link.
_MARKUP: Final = re.compile(r"[\\`*<&~]|(?<!\w)_|_(?!\w)|\](?=[(\[:])|#(?=#*$)")


def _slug(title: str) -> str:
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain)[:MAX_SLUG_CHARS].strip("-") or "fault"


def _reporting(action: Callable[[], T]) -> T:
    try:
        return action()
    except (OSError, NotWrittenError) as error:
        reason = error.message if isinstance(error, NotWrittenError) else error.strerror
        raise TrackerError(
            f"the issue folder cannot be used: {reason}",
            hint="look at its permissions and at free space",
        ) from error
