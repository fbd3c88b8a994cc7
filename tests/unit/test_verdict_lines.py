"""What `verify` prints: a line for each outcome, and the status that goes with it."""

from __future__ import annotations

import pytest

from peer.excerpt_commands import emit_verdict
from peer.exporting import told
from protocols.membership import CERTIFICATE_US
from tests.support.excerpts import car_of, part_of, verdict_of
from tests.support.home import Author
from tests.support.members import NOW_US, TestMesh, key_of

MESH, ONE, TWO = TestMesh(), key_of(1), key_of(2)
NAME, ADMITTER = MESH.root.peer_id, MESH.admitter.peer_id


def printed(
    file: bytes, capsys: pytest.CaptureFixture[str], mesh: bytes | None = MESH.root.public
) -> tuple[list[str], int]:
    """What is printed about a file behind the counts, and the exit status."""
    status = 0
    try:
        emit_verdict(told(verdict_of(file, mesh=mesh)), as_json=False)
    except SystemExit as ended:
        status = int(str(ended.code))
    return capsys.readouterr().out.splitlines()[1:], status


def a_file(*, at_us: int = NOW_US, stranger: bool = False) -> bytes:
    author, other = Author(ONE), Author(TWO)
    author.show(MESH.membership(ONE))
    author.add("tick")
    other.add("tick")
    parts = [part_of(author.cut(at_us))] + ([part_of(other.cut())] if stranger else [])
    return car_of(parts)


def test_members_get_a_line_each_with_roles_times_and_who_admitted_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, status = printed(a_file(), capsys)

    assert status == 0
    assert lines == [
        f"member: {ONE.peer_id} of mesh {NAME}, submitter,worker, 2026-09-21T14:13:20.000+00:00 to"
        f" 2026-10-21T14:13:20.000+00:00, by {ADMITTER}; 2 records, 1 behind a certificate",
        f"verified, all by members of mesh {NAME}",
    ]


def test_without_a_mesh_the_names_in_which_certificates_end_are_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, status = printed(a_file(stranger=True), capsys, None)

    assert status == 0
    assert f"unknown: {TWO.peer_id}: it shows no certificate" in lines
    assert lines[-2].startswith(f"mesh: the certificates end in {NAME};")
    assert lines[-1] == "verified"


def test_an_author_that_is_no_member_fails_a_file_in_which_nothing_else_is_wrong(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, status = printed(a_file(stranger=True), capsys)

    assert status == 1
    assert not [line for line in lines if line.startswith("wrong:")]
    assert lines[-1] == f"NOT VERIFIED: 1 author of 2 did not show to be of mesh {NAME} at signing"


def test_what_was_signed_after_the_end_is_counted_with_its_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines, status = printed(a_file(at_us=NOW_US + 2 * CERTIFICATE_US), capsys)

    assert status == 1
    assert lines[0].startswith(f"outside: {ONE.peer_id} of mesh {NAME}")
    assert lines[0].endswith("2 signed at other times, the first at 2026-11-20T14:13:20.000+00:00")
