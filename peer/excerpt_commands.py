"""What the export and verify commands of both command lines have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import click

from peer.cli import emit, printable
from peer.exports import FORMATS
from protocols.cid import CID
from protocols.errors import CoveyError

F = TypeVar("F", bound=Callable[..., Any])

_LISTED: Final = [f"{name.ljust(11)}{form.about}" for name, form in FORMATS.items()]
export_epilog: Final = "\n".join(["\b", "Formats:", *(f"  {line}" for line in _LISTED)])

export_options: Final = (
    click.argument("form", metavar="FORMAT", type=click.Choice(list(FORMATS))),
    click.option("--all", "is_all", is_flag=True, help="Every record."),
    click.option(
        "--since", default="", help="What began at or after a moment, such as 2026-11-27."
    ),
    click.option(
        "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file."
    ),
)

file_option = click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check a CAR file instead, all of it; nothing else is read.",
)


reason_option = click.option(
    "--reason", required=True, help="Why, for everybody to read: it stays when the content is gone."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


cids_argument = click.argument("cids", metavar="CID...", nargs=-1, required=True)


def confirm_redaction(cids: Sequence[str], yes: bool) -> None:
    """Ask whether records shall be erased, unless ``yes``; there is no way back. Raises
    ``CoveyError`` for what is no CID, and where the answer is no.
    """
    for cid in cids:
        CID.parse(cid)
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("redacting asks for confirmation: use --yes where nobody can answer")
    what = f"record {cids[0]}" if len(cids) == 1 else f"{len(cids)} records"
    if not click.confirm(f"Erase the content of {what} everywhere, for good?", err=True):
        raise CoveyError("nothing was erased", code="not-confirmed")


def render_redactions(answers: list[dict[str, Any]]) -> str:
    """Say what became of records."""
    return "\n".join(map(_render_redaction, answers))


def _render_redaction(answer: dict[str, Any]) -> str:
    done = "erased" if answer["is_new"] else "was redacted before"
    return f"{printable(redaction_line(answer))}\n{done}; tombstone {answer['tombstone']}"


def with_options(options: tuple[Callable[[Any], Any], ...]) -> Callable[[F], F]:
    """Return a decorator that adds several options to a command, in their order."""

    def add(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def check_scope(*scopes: object) -> None:
    """Raise ``UsageError`` unless exactly one way of saying what to export was used."""
    if sum(map(bool, scopes)) != 1:
        raise click.UsageError("say what to export, in one way: see --help")


def export_to(output: Path, as_json: bool, download: Callable[[BinaryIO], Any]) -> None:
    """Fill a file by ``download`` and print its summary; no file is left if that fails."""
    from peer.durable import replacing

    with replacing(output) as file:
        summary: dict[str, Any] = {"output": str(output), **download(file)}
    emit(summary, as_json, _render_export)


def _render_export(summary: dict[str, Any]) -> str:
    lines = [
        f"{summary['output']}: {_count(summary['records'], 'record')} of "
        f"{_count(summary['authors'], 'peer')}, {_count(summary['bytes'], 'byte')}"
    ]
    if summary["unproven"]:
        lines.append(
            f"{_count(len(summary['unproven']), 'record')} left out: signed bytes are damaged or"
            " not there yet; records are signed within 10 s"
        )
    return "\n".join(lines)


def verify_file(path: Path, about: str | None) -> dict[str, Any]:
    """Check a CAR file from nothing but its bytes; ``about`` is a CID that it must tell of."""
    from peer.exporting import told
    from protocols.cid import CID
    from protocols.verification import verify_excerpt

    with path.open("rb") as file:
        return told(verify_excerpt(file.read, CID.parse(about) if about else None))


def emit_verdict(verdict: dict[str, Any], as_json: bool) -> None:
    """Print what was checked and what is wrong, and exit 1 if anything is."""
    emit(verdict, as_json, _render_verdict)
    if not verdict["ok"]:
        sys.exit(1)


def _render_verdict(verdict: dict[str, Any]) -> str:
    counts = [
        _count(verdict["records"], "record"),
        _count(verdict["signatures"], "signature"),
        _count(len(verdict["authors"]), "author"),
        _count(len(verdict["missing"]), "missing parent"),
    ]
    if verdict["redacted"]:
        counts.append(_count(len(verdict["redacted"]), "redacted record"))
    if verdict["left_out"]:
        counts.append(f"{_count(verdict['left_out'], 'parent')} not asked for")
    lines = [f"checked: {', '.join(counts)}"]
    lines += [f"missing: {cid}" for cid in verdict["missing"]]
    lines += [redaction_line(each) for each in verdict["redacted"]]
    lines += [f"forked: {peer} signed two truths" for peer in verdict["forked"]]
    lines += [f"wrong: {fault}" for fault in verdict["faults"]]
    if verdict["more_faults"]:
        lines.append(f"wrong: {verdict['more_faults']} faults more")
    lines.append(_conclusion(verdict))
    return "\n".join(map(printable, lines))


def redaction_line(each: dict[str, Any]) -> str:
    """Say in one line by whom, when and why a record was redacted."""
    who = "that peer" if each["authority"] == "author" else f"aggregator {each['by']}"
    return (
        f"redacted: {each['cid']}, which a header signed by {each['signed_by']} names, by {who}"
        f" at {each['at']}: {each['reason']}"
    )


def _conclusion(verdict: dict[str, Any]) -> str:
    if not verdict["ok"]:
        return "NOT VERIFIED"
    if not verdict["redacted"]:
        return "verified"
    what = _count(len(verdict["redacted"]), "record")
    return f"verified, but for the content of {what} that was redacted: headers and digests hold"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
