from __future__ import annotations

import pytest

from node.errors import InputError, UnknownError
from node.job_ids import job_named, parse_job_id

FIRST = bytes.fromhex("abcdef0" + "1" * 25)
SECOND = bytes.fromhex("abcdef0" + "2" * 25)
OTHER = bytes.fromhex("12" * 16)
KNOWN = [FIRST, SECOND, OTHER]


def test_six_digits_name_a_job_that_alone_begins_so() -> None:
    assert job_named("121212", KNOWN) == OTHER
    assert job_named("ABCDEF01", KNOWN) == FIRST


def test_a_whole_id_names_a_job_also_where_it_is_not_known() -> None:
    assert job_named("ff" * 16, KNOWN) == b"\xff" * 16


def test_a_beginning_of_several_or_none_is_refused() -> None:
    with pytest.raises(InputError, match=f"{FIRST.hex()}, {SECOND.hex()}"):
        job_named("abcdef", KNOWN)
    with pytest.raises(UnknownError, match="begins with fedcba"):
        job_named("fedcba", KNOWN)


@pytest.mark.parametrize("text", ["", "abcde", "../../etc", "ab" * 17, "zzzzzz", "12 34 56"])
def test_what_names_no_job_is_refused_with_where_to_look(text: str) -> None:
    with pytest.raises(InputError, match="is not a job id") as caught:
        job_named(text, KNOWN)

    assert caught.value.hint == "covey job list"


@pytest.mark.parametrize("text", ["abcdef", "", "ab" * 15 + " ab"])
def test_a_new_id_is_whole(text: str) -> None:
    with pytest.raises(InputError, match="is not a job id") as caught:
        parse_job_id(text)

    assert caught.value.hint == "openssl rand -hex 16"
