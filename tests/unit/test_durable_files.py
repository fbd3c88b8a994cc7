from __future__ import annotations

from pathlib import Path

import pytest

from peer.durable import NotWrittenError, replacing


def test_a_file_takes_its_place_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    with replacing(target) as file:
        file.write(b"new")
        before = target.read_bytes()

    assert before == b"old"
    assert target.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_was_not_finished_leaves_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")

    def give_up() -> None:
        with replacing(target) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        give_up()

    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotWrittenError), replacing(tmp_path / "nowhere" / "file"):
        pass
