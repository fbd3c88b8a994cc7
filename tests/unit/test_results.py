from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from node import results
from node.errors import InputError
from node.results import check_target, read_files, read_input, read_items, write_file
from node.runner.kinds import embed


def written(folder: Path, content: bytes, name: str = "input.txt") -> str:
    path = folder / name
    path.write_bytes(content)
    return str(path)


def test_each_line_is_one_item_and_empty_ones_keep_their_place(tmp_path: Path) -> None:
    source = written(tmp_path, b"one\r\n\ntwo\n")

    assert read_items(source, is_whole=False) == ["one", "", "two"]


def test_whole_input_is_one_item(tmp_path: Path) -> None:
    assert read_items(written(tmp_path, b"one\ntwo\n"), is_whole=True) == ["one\ntwo\n"]


def test_json_lines_are_strings_or_objects_with_text(tmp_path: Path) -> None:
    source = written(tmp_path, b'"one"\n{"text": "two", "id": 2}\n', "input.jsonl")

    assert read_items(source, is_whole=False) == ["one", "two"]


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (b"", "input.txt", "empty"),
        (b"\n\n", "input.txt", "empty"),
        (b"\xff\xfe\x00", "input.txt", "UTF-8"),
        (b"a\0b", "input.txt", "NUL"),
        (b"{", "input.jsonl", ":1 is not JSON"),
        (b'"a"\n7\n', "input.jsonl", ":2 is neither"),
    ],
)
def test_input_that_is_no_text_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, name: str, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        read_items(written(tmp_path, content, name), is_whole=False)


def test_files_are_one_item_each_whatever_is_in_them(tmp_path: Path) -> None:
    first = written(tmp_path, b"\0\xff", "first.bin")
    second = written(tmp_path, b"", "second.bin")

    assert read_files((first, second), "-") == [b"\0\xff", b""]
    assert read_input(bytes, (), first, is_whole=False) == [b"\0\xff"]


def test_files_where_text_is_wanted_and_files_beside_an_input_are_refused(tmp_path: Path) -> None:
    source = written(tmp_path, b"one\n")

    with pytest.raises(InputError, match="takes text, not files"):
        read_input(str, (source,), "-", is_whole=False)
    with pytest.raises(InputError, match="files and an --input"):
        read_files((source,), source)


def test_files_that_are_too_large_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "MAX_INPUT_BYTES", 3)
    source = written(tmp_path, b"ab")

    with pytest.raises(InputError, match="larger than"):
        read_files((source, source), "-")


def test_a_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_items(str(tmp_path / "none"), is_whole=False)


def test_results_are_written_whole_as_numpy_or_as_json_lines(tmp_path: Path) -> None:
    vectors = np.ones((2, 3), np.float32)
    rows = [{"index": 0, "embedding": [1.0]}]

    write_file(tmp_path / "out.npy", rows, lambda: vectors)
    write_file(tmp_path / "out.jsonl", rows, lambda: vectors)

    assert np.array_equal(np.load(tmp_path / "out.npy"), vectors)
    assert json.loads((tmp_path / "out.jsonl").read_text()) == rows[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.npy"]


def test_a_target_is_checked_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "there.npy").write_bytes(b"kept")

    check_target(tmp_path / "there.npy", embed, "embed")
    check_target(tmp_path / "new.npy", embed, "embed")
    for wrong in (tmp_path, tmp_path / "none" / "out.npy"):
        with pytest.raises(InputError, match="cannot be written"):
            check_target(wrong, embed, "embed")

    assert [path.name for path in tmp_path.iterdir()] == ["there.npy"]
    assert (tmp_path / "there.npy").read_bytes() == b"kept"


def test_a_target_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        write_file(tmp_path / "none" / "out.npy", [], lambda: np.zeros((1, 1), np.float32))
