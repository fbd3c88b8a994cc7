from __future__ import annotations

import stat
from pathlib import Path

import pytest

from node.api.token import TokenError, load_or_create
from tests.support.members import effects_of


def test_the_first_start_makes_a_token_that_only_the_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "api.token"

    token = load_or_create(path, effects_of(1))
    again = load_or_create(path, effects_of(2))

    assert token == again
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_token_that_others_may_read_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    token = load_or_create(path, effects_of(1))
    path.chmod(0o640)

    with pytest.raises(TokenError, match="others may read") as caught:
        load_or_create(path, effects_of(1))

    assert token not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"two words of a token", b"\xff" * 20])
def test_a_file_that_holds_no_token_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "api.token"
    path.write_bytes(content)
    path.chmod(0o600)

    with pytest.raises(TokenError, match="does not hold a token"):
        load_or_create(path, effects_of(1))


def test_a_token_of_ones_own_is_used(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    path.write_text("my-very-own-token\n")
    path.chmod(0o600)

    assert load_or_create(path, effects_of(1)) == "my-very-own-token"
