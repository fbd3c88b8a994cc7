"""What is said of a file that somebody wants verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from peer.excerpt_commands import verify_file
from protocols.errors import CoveyError
from tests.support.excerpts import a_job, car_of


@pytest.mark.parametrize("content", [b"", b"\n", b'{"prefix": {}}', b"PAR1\x15\x04", b"a text\n"])
def test_what_is_no_car_file_is_said_to_be_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)

    with pytest.raises(CoveyError, match="is no CAR file") as refused:
        verify_file(file, None)

    assert refused.value.code == "not-a-car"
    assert "export car" in (refused.value.hint or "")


def test_a_car_file_that_was_cut_gets_a_verdict(tmp_path: Path) -> None:
    file = tmp_path / "file.car"
    whole = car_of(a_job()[1])
    file.write_bytes(whole[:-1])

    verdict = verify_file(file, None)

    assert not verdict["ok"]
    assert verdict["records"] > 0
