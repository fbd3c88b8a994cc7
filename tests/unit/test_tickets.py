"""An admitter's book of tickets across crashes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from peer.tickets import LINE_BYTES_MAX, TICKETS_FILE, Issued, TicketBook
from protocols.errors import CoveyError, LocalProtocolError
from protocols.limits import TICKET_MEMORY_S
from tests.support.members import NOW_US, TestMesh, key_of

MESH = TestMesh()
HOUR_US = 3_600_000_000
LATER_US = NOW_US + HOUR_US + TICKET_MEMORY_S * 1_000_000
TICKET = Issued(b"d" * 32, ("worker",), NOW_US + HOUR_US)


def certificate(*roles: str):
    return MESH.membership(key_of(1), *roles).certificate


def book(home: Path, now_us: int = NOW_US) -> TicketBook:
    return TicketBook(home / TICKETS_FILE, now_us)


def test_tickets_and_their_use_outlive_the_process(tmp_path: Path):
    first = book(tmp_path)
    first.add(TICKET, NOW_US)
    first.use(TICKET.digest, certificate("worker"))

    grant = book(tmp_path).get(TICKET.digest)

    assert grant is not None
    assert grant.issued == TICKET
    assert grant.certificate == certificate("worker")


def test_a_ticket_is_used_once(tmp_path: Path):
    tickets = book(tmp_path)
    tickets.add(TICKET, NOW_US)
    tickets.use(TICKET.digest, certificate("worker"))

    with pytest.raises(LocalProtocolError):
        tickets.use(TICKET.digest, certificate("worker"))


def test_a_torn_last_line_is_cut(tmp_path: Path):
    tickets = book(tmp_path)
    tickets.add(TICKET, NOW_US)
    path = tmp_path / TICKETS_FILE
    path.write_bytes(path.read_bytes() + b'{"type":"used","dig')

    again = book(tmp_path)
    again.use(TICKET.digest, certificate("worker"))

    grant = book(tmp_path).get(TICKET.digest)
    assert grant is not None
    assert grant.certificate is not None


def test_no_flipped_bit_makes_a_used_ticket_good_again(tmp_path: Path):
    tickets = book(tmp_path)
    tickets.add(TICKET, NOW_US)
    used = certificate("worker")
    tickets.use(TICKET.digest, used)
    path = tmp_path / TICKETS_FILE
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1

    ends = *range(8 * start - 8, 8 * start), *range(8 * len(whole) - 8, 8 * len(whole))
    for bit in (*ends, *range(8 * start, 8 * len(whole), 29)):
        rotted = bytearray(whole)
        rotted[bit // 8] ^= 1 << bit % 8
        path.write_bytes(rotted)
        with suppress(CoveyError):  # which is as good: the admitter does not start
            grant = book(tmp_path).get(TICKET.digest)
            assert grant is not None
            assert grant.certificate == used


def test_the_book_of_a_version_without_checksums_is_read(tmp_path: Path):
    (tmp_path / TICKETS_FILE).write_bytes(msgspec.json.encode(TICKET) + b"\n")

    book(tmp_path).use(TICKET.digest, certificate("worker"))

    assert b"} " in (tmp_path / TICKETS_FILE).read_bytes()


@pytest.mark.parametrize(
    "torn",
    [bytes(200) + b"\n", b"\xff\xfe\n\n\0\0{}\n\0", b'{"type":"used","d\0\0"}\n', b"\n"],
)
def test_whatever_a_loss_of_power_left_of_a_line_that_was_being_written_is_cut(
    tmp_path: Path, torn: bytes
):
    tickets = book(tmp_path)
    tickets.add(TICKET, NOW_US)
    path = tmp_path / TICKETS_FILE
    path.write_bytes(path.read_bytes() + torn)

    again = book(tmp_path)
    again.use(TICKET.digest, certificate("worker"))

    grant = book(tmp_path).get(TICKET.digest)
    assert grant is not None
    assert grant.certificate is not None
    assert path.read_bytes().count(b"\n") == 2


def test_the_first_line_may_be_the_torn_one(tmp_path: Path):
    (tmp_path / TICKETS_FILE).write_bytes(b"\0\0\0\n\0\0{}\n")

    assert book(tmp_path).get(TICKET.digest) is None


def test_damage_in_the_middle_is_said_and_not_skipped(tmp_path: Path):
    book(tmp_path).add(TICKET, NOW_US)
    path = tmp_path / TICKETS_FILE
    path.write_bytes(b"\0\0\0\n" + path.read_bytes())

    with pytest.raises(CoveyError) as caught:
        book(tmp_path)

    assert caught.value.code == "tickets-damaged"


def test_more_damage_than_one_line_can_be_is_said_and_not_cut(tmp_path: Path):
    book(tmp_path).add(TICKET, NOW_US)
    path = tmp_path / TICKETS_FILE
    path.write_bytes(path.read_bytes() + bytes(LINE_BYTES_MAX + 1))

    with pytest.raises(CoveyError) as caught:
        book(tmp_path)

    assert caught.value.code == "tickets-damaged"


def test_old_tickets_are_forgotten_at_the_next_start(tmp_path: Path):
    book(tmp_path).add(TICKET, NOW_US)

    assert book(tmp_path, LATER_US).get(TICKET.digest) is None


def test_the_ticket_that_made_the_filer_is_never_forgotten(tmp_path: Path):
    tickets = book(tmp_path)
    tickets.add(TICKET, NOW_US)
    assert tickets.filers() == []

    tickets.use(TICKET.digest, certificate("aggregator", "filer"))

    assert tickets.filers()
    assert book(tmp_path, LATER_US).filers()


def test_the_book_never_holds_a_secret_that_it_was_not_given(tmp_path: Path):
    book(tmp_path).add(TICKET, NOW_US)

    assert (tmp_path / TICKETS_FILE).stat().st_mode & 0o077 == 0
