"""What goes into a job from a file and what comes out of it to one."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from node.errors import InputError
from node.runner.kinds import BadInputError, Item, Items, Kind

if TYPE_CHECKING:
    import numpy as np

MAX_INPUT_BYTES: Final = 64 << 20  # as much as a worker takes in one job

JSON_LINES: Final = (".jsonl", ".ndjson")
ARRAY: Final = ".npy"


def read_input(
    item_type: type[str] | type[bytes] | None,
    files: Sequence[str],
    source: str,
    *,
    is_whole: bool,
) -> Items:
    """Return the items of a job: texts from ``source``, bytes, one item a file of ``files``, or
    none, of a kind that takes none.

    Raises ``InputError`` for what cannot be read, and for files where a kind takes no files.
    """
    if item_type is None:
        return _no_items(files, source)
    if item_type is bytes:
        return read_files(files, source)
    if files:
        raise InputError(
            "this kind takes text, not files",
            hint=f"give it one text a line: --input {files[0]}",
            parameter="files",
        )
    return read_items(source, is_whole=is_whole)


def _no_items(files: Sequence[str], source: str) -> Items:
    """Standard input is left alone: a person at a terminal need not end it."""
    if files or source != "-":
        raise InputError("this kind takes no input", hint="see what it can be told with --help")
    return []


def read_files(files: Sequence[str], source: str) -> list[bytes]:
    """Return the bytes of each of ``files``, or else of ``source`` as the only item.

    Raises ``InputError`` when one cannot be read, or all together are too large.
    """
    if files and source != "-":
        raise InputError(
            "there are files and an --input", hint="give all of them as files", parameter="input"
        )
    if not files and source == "-" and _is_terminal():
        raise _no_files()
    items: list[bytes] = []
    for path in files or (source,):
        items.append(_read(path, "stdin" if path == "-" else path))
        if sum(map(len, items)) > MAX_INPUT_BYTES:
            raise _too_large(f"the input up to {path}")
    if not files and source == "-" and not items[0]:
        raise _no_files()
    return items


def _is_terminal() -> bool:
    """Whether somebody would have to type a file's bytes."""
    return sys.stdin is not None and sys.stdin.isatty()


def _no_files() -> InputError:
    return InputError(
        "no files were given, and stdin holds none",
        hint="name them: covey run KIND --model NAME FILE...",
        parameter="files",
    )


def read_items(source: str, *, is_whole: bool) -> list[Item]:
    """Return the items of ``source`` (a path, or ``-`` for stdin): lines, JSON lines, or one whole.

    Raises ``InputError`` when it cannot be read, is empty, too large or not UTF-8 text.
    """
    name = "stdin" if source == "-" else source
    text = _decode(_read(source, name), name)
    items: list[Item]
    if is_whole:
        items = [text]
    elif source.endswith(JSON_LINES):
        items = [_item_of(line, number, name) for number, line in enumerate(text.splitlines(), 1)]
    else:
        lines = text.split("\n")
        if lines[-1] == "":
            lines.pop()
        items = [line.removesuffix("\r") for line in lines]
    if not items or not any(items):
        raise InputError(f"{name} is empty", hint="give at least one line of text")
    return items


@contextmanager
def naming_items(files: Sequence[str], source: str, *, is_whole: bool) -> Generator[None]:
    """Have an error about an item of ``read_input`` say which line or file that is."""
    try:
        yield
    except BadInputError as error:
        what, item = error.details.get("what"), error.details.get("item")
        if what is None or item is None:
            raise
        place = _place_of(item, files, source, is_line=not is_whole)
        raise InputError(f"{place}{what}", hint=error.hint) from error


def _place_of(item: int, files: Sequence[str], source: str, *, is_line: bool) -> str:
    if files:
        return files[item]
    name = "stdin" if source == "-" else source
    return f"{name}:{item + 1}" if is_line else name


def _read(source: str, name: str) -> bytes:
    try:
        if source == "-" and sys.stdin is None:
            raise InputError("stdin is closed", hint="give --input FILE, or something on stdin")
        if source == "-":
            content = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        else:
            with Path(source).open("rb") as file:
                content = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}") from error
    if len(content) > MAX_INPUT_BYTES:
        raise _too_large(name)
    return content


def _too_large(name: str) -> InputError:
    return InputError(
        f"{name} is larger than {MAX_INPUT_BYTES >> 20} MiB", hint="split it into several jobs"
    )


def _decode(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name} is not UTF-8 text (byte {error.start})", hint="convert it, e.g. with iconv"
        ) from error
    if "\0" in text:
        raise InputError(f"{name} is not text: it holds NUL bytes")
    return text


def _item_of(line: str, number: int, name: str) -> Item:
    if not line.strip():
        raise InputError(f"{name}:{number} is blank", hint="remove it: every line is one item")
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{name}:{number} is not JSON: {error.msg}") from error
    is_item = isinstance(value, str)
    if isinstance(value, dict):
        fields = cast("dict[str, Any]", value)
        value = fields.get("messages", fields.get("text"))
        is_item = isinstance(value, (str, list))
    if not is_item:
        raise InputError(
            f'{name}:{number} is neither a string nor an object with a "text" or "messages"'
        )
    return cast("Item", value)


def check_target(path: Path, codec: Kind, kind: str) -> None:
    """Raise ``InputError`` if a result of ``kind`` could not be written there; nothing stays
    behind.
    """
    if path.suffix == ARRAY and not codec.IS_ARRAY:
        raise InputError(
            f"the output of {kind} is no array, which {path} would be",
            hint=f"--output {path.with_suffix('.jsonl')}",
            parameter="output",
        )
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        partial = _partial(path)
        partial.touch()
        partial.unlink()
    except OSError as error:
        raise _unwritable(path, error) from error


def write_file(path: Path, rows: Iterable[Any], array: Callable[[], np.ndarray]) -> None:
    """Write a result whole or not at all: NumPy when ``path`` ends in ``.npy``, else JSON lines."""
    import numpy as np

    partial = _partial(path)
    try:
        if path.suffix == ARRAY:
            with partial.open("wb") as file:
                np.save(file, array(), allow_pickle=False)
        else:
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be written: {error.strerror}")


def print_lines(rows: Iterable[Any]) -> None:
    """Print rows as JSON lines."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")


def print_json(value: Any) -> None:
    """Print one JSON value."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
