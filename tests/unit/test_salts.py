import hashlib

import pytest

from node.salts import Salts
from protocols import dagcbor
from protocols.errors import RemoteProtocolError
from protocols.journal import Entry
from protocols.limits import MAX_SALTS
from tests.support.members import effects_of
from tests.support.records import MemoryJournal


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def test_equal_content_has_one_salt_even_after_a_restart() -> None:
    journal = MemoryJournal()
    before = Salts(journal, effects_of(1))
    salt = before.of_content(sha256(b"text"))

    after = Salts(journal, effects_of(2))

    assert before.of_content(sha256(b"text")) == after.of_content(sha256(b"text")) == salt
    assert after.of_content(sha256(b"other")) != salt
    assert len(salt) == 16


def test_an_output_keeps_its_salt_when_it_becomes_an_input() -> None:
    journal = MemoryJournal()
    salts = Salts(journal, effects_of(1))
    salt = salts.of_output(b"j" * 16)

    salts.keep(sha256(b"an output"), salt)
    salts.keep(sha256(b"an output"), b"x" * 16)

    assert salts.of_content(sha256(b"an output")) == salt
    assert Salts(journal, effects_of(2)).of_content(sha256(b"an output")) == salt


def test_outputs_of_one_job_have_one_salt_over_restarts_and_of_two_jobs_two() -> None:
    journal = MemoryJournal()
    one = Salts(journal, effects_of(1)).of_output(b"j" * 16)

    assert Salts(journal, effects_of(2)).of_output(b"j" * 16) == one
    assert Salts(journal, effects_of(2)).of_output(b"k" * 16) != one
    assert Salts(MemoryJournal(), effects_of(3)).of_output(b"j" * 16) != one


def test_the_oldest_salts_are_forgotten_and_the_secret_never() -> None:
    journal = MemoryJournal()
    salts = Salts(journal, effects_of(1))
    secret_salt = salts.of_output(b"j" * 16)
    salts.keep(sha256(b"an output"), b"x" * 16)
    first = salts.of_content(sha256(b"0"))
    for number in range(1, MAX_SALTS + 1):
        salts.of_content(sha256(str(number).encode()))

    again = Salts(journal, effects_of(2))

    assert again.of_output(b"j" * 16) == secret_salt
    assert salts.of_content(sha256(b"an output")) != b"x" * 16
    assert salts.of_content(sha256(b"0")) == again.of_content(sha256(b"0")) == first


def test_salts_that_come_at_once_share_an_entry_which_is_needed_for_any_of_them() -> None:
    journal = MemoryJournal()
    salts = Salts(journal, effects_of(1))
    for content in (b"one", b"two"):
        salts.of_content(sha256(content))

    bodies = [body for _, _, _, body in journal.scan()]
    for number in range(MAX_SALTS - 1):
        salts.of_content(sha256(str(number).encode()))

    assert len(bodies) == 2  # the secret's, and theirs
    assert salts.needed_of(bodies[1])
    salts.of_content(sha256(b"one more"))
    assert not salts.needed_of(bodies[1])
    assert salts.needed_of(bodies[0]) == bodies[0]


def test_of_an_entry_only_what_is_remembered_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Written anew as a whole, it would bring back which salt some content had before."""
    monkeypatch.setattr("node.salts.MAX_SALTS", 3)
    journal = MemoryJournal()
    salts = Salts(journal, effects_of(1))
    salts.keep(sha256(b"used"), b"u" * 16)
    salts.keep(sha256(b"again"), b"1" * 16)
    old = [body for *_, body in journal.scan()][-1]
    for content in (b"one", b"two"):
        salts.of_content(sha256(b"used"))
        salts.keep(sha256(content), b"x" * 16)
    salts.keep(sha256(b"again"), b"2" * 16)

    swept = [(kind, body) for *_, kind, body in journal.scan() if body != old]
    swept.append((Entry.SALT, salts.needed_of(old)))
    after = Salts(MemoryJournal(swept), effects_of(2))

    assert salts.of_content(sha256(b"again")) == b"2" * 16
    assert after.of_content(sha256(b"again")) == b"2" * 16
    assert after.of_content(sha256(b"used")) == b"u" * 16


@pytest.mark.parametrize("content", [[b"digest"], [b"digest", 1], b"digest"])
def test_a_malformed_salt_in_the_journal_is_noticed(content: object) -> None:
    journal = MemoryJournal([(Entry.SALT, dagcbor.encode(content))])

    with pytest.raises(RemoteProtocolError, match="malformed"):
        Salts(journal, effects_of(1))
