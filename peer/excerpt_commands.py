"""What the export and verify commands of both command lines have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeVar

import click

from peer.cli import CidName, Misuse, counted, emit, printable, unless_misused
from peer.exports import FORMATS
from protocols.errors import CoveyError

F = TypeVar("F", bound=Callable[..., Any])


class Moment(click.ParamType[str]):
    """A moment as ``peer.exporting.parse_moment`` reads it."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it was written."""
        from peer.exporting import parse_moment

        if value:
            unless_misused(lambda: parse_moment(str(value)), ctx)
        return str(value)


_LISTED: Final = [f"{name.ljust(13)}{form.about}" for name, form in FORMATS.items()]
export_epilog: Final = "\n".join(["\b", "Formats:", *(f"  {line}" for line in _LISTED)])

export_options: Final = (
    click.argument("form", metavar="FORMAT", type=click.Choice(list(FORMATS))),
    click.option("--all", "is_all", is_flag=True, help="Every record."),
    click.option(
        "--since",
        type=Moment(),
        default="",
        help="What began at or after a moment, such as 2026-11-27.",
    ),
    click.option(
        "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file."
    ),
)

_OF_MESH: Final = ("member", "outside", "revoked")
"""States of authors whose certificates hold."""


class CidToVerify(CidName):
    """A CID; whoever names a file instead is told how that is checked."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the CID."""
        try:
            return super().convert(value, param, ctx)
        except Misuse as error:
            if Path(str(value)).is_file():
                error.hint = f"it is a file: --file {value} checks it"
            raise


cid_argument = click.argument("cid", required=False, type=CidToVerify())
file_option = click.option(
    "--file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Check a CAR file instead, all of it; nothing else is read.",
)


class MeshName(click.ParamType[str]):
    """The name of a mesh: the peer id of its root key."""

    name = "mesh"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, which is one."""
        from protocols.keys import public_key_of

        try:
            public_key_of(value)
        except CoveyError:
            self.fail(
                f"{value[:80]!r} is not the name of a mesh, which looks like 12D3KooW… and which"
                " `covey status` of a member shows",
                param,
                ctx,
            )
        return value


mesh_option = click.option(
    "--mesh",
    type=MeshName(),
    help="Require that every author was a member of this mesh, named by its root key.",
)


class Reason(click.ParamType[str]):
    """Why something is redacted."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the reason, which is not empty and not too long."""
        from protocols.limits import MAX_REDACTION_REASON_CHARS

        if not 0 < len(value) <= MAX_REDACTION_REASON_CHARS:
            most = MAX_REDACTION_REASON_CHARS
            self.fail(f"a reason has 1 to {most} characters, not {len(value)}", param, ctx)
        return value


reason_option = click.option(
    "--reason",
    required=True,
    type=Reason(),
    help="Why, for everybody to read: it stays when the content is gone.",
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


cids_argument = click.argument("cids", metavar="CID...", nargs=-1, required=True, type=CidName())


def confirm_redaction(cids: Sequence[str], yes: bool) -> None:
    """Ask whether records shall be erased, unless ``yes``; there is no way back. Raises
    ``CoveyError`` where the answer is no.
    """
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
        f"{summary['output']}: {counted(summary['records'], 'record')} of "
        f"{counted(summary['authors'], 'peer')}, {counted(summary['bytes'], 'byte')}",
        *(printable(redaction_line(each)) for each in summary["redacted"]),
    ]
    if summary["more_redacted"]:
        lines.append(f"redacted: {counted(summary['more_redacted'], 'record')} more")
    if summary["along"]:
        lines.append(
            f"{counted(summary['along'], 'record')} along, by which the others can be checked:"
            " certificates and tombstones"
        )
    if summary["unproven"]:
        unproven = len(summary["unproven"]) + summary["more_unproven"]
        lines.append(
            f"{counted(unproven, 'record')} left out: signed bytes are damaged or"
            " not there yet; records are signed within 10 s"
        )
    return "\n".join(lines)


def verify_file(path: Path, about: str | None, mesh: str | None = None) -> dict[str, Any]:
    """Check a CAR file from nothing but its bytes; ``about`` is a CID that it must tell of, and
    ``mesh`` the one whose members its authors must have been. Raises ``CoveyError`` for a file that
    is none.
    """
    from peer.exporting import mesh_named, told
    from protocols.cid import CID
    from protocols.verification import verify_excerpt

    with path.open("rb") as file:
        wanted = CID.parse(about) if about else None
        verdict = verify_excerpt(file.read, wanted, mesh_named(mesh or ""))
    if not verdict.is_car:
        raise CoveyError(
            f"{path} is no CAR file: it does not begin like one",
            code="not-a-car",
            hint="name a file of `export car`: no other format can be verified. If it is one, its"
            " first bytes are damaged: export or copy it again",
        )
    return told(verdict)


def emit_verdict(verdict: dict[str, Any], as_json: bool) -> None:
    """Print what was checked and what is wrong, and exit 1 if anything is."""
    emit(verdict, as_json, _render_verdict)
    if not verdict["ok"]:
        sys.exit(1)


def _render_verdict(verdict: dict[str, Any]) -> str:
    counts = [
        counted(verdict["records"], "record"),
        counted(verdict["signatures"], "signature"),
        counted(verdict["certificates"], "certificate"),
        counted(len(verdict["authors"]), "author"),
        counted(len(verdict["missing"]), "missing parent"),
    ]
    if verdict["redacted"]:
        counts.append(counted(len(verdict["redacted"]), "redacted record"))
    if verdict["left_out"]:
        counts.append(f"{counted(verdict['left_out'], 'parent')} not asked for")
    lines = [f"checked: {', '.join(counts)}"]
    lines += [member_line(each) for each in verdict["members"]]
    lines += _meshes(verdict)
    lines += [f"missing: {cid}" for cid in verdict["missing"]]
    lines += [redaction_line(each) for each in verdict["redacted"]]
    lines += [f"forked: {peer} signed two truths" for peer in verdict["forked"]]
    lines += [f"wrong: {fault}" for fault in verdict["faults"]]
    if verdict["more_faults"]:
        lines.append(f"wrong: {verdict['more_faults']} faults more")
    lines.append(_conclusion(verdict))
    return "\n".join(map(printable, lines))


def member_line(each: dict[str, Any]) -> str:
    """Say in one line what is known of an author's membership."""
    if each["from"] is None:
        return f"{each['state']}: {each['peer']}: {each['why']}"
    line = (
        f"{each['state']}: {each['peer']} of mesh {each['mesh']}, {','.join(each['roles'])},"
        f" {each['from']} to {each['to']}, by {','.join(each['issuers'])};"
        f" {counted(each['records'], 'record')}, {each['behind_certificate']} behind a certificate"
    )
    if each["outside"]:
        line += f", {each['outside']} signed at other times, the first at {each['first_outside']}"
    return line


def _meshes(verdict: dict[str, Any]) -> list[str]:
    """Say in which mesh the certificates end, where no mesh was asked for."""
    meshes = sorted({each["mesh"] for each in verdict["members"] if each["state"] in _OF_MESH})
    if verdict["mesh"] is not None or not meshes:
        return []
    advice = "the name is in the file itself: compare it with yours, by --mesh"
    return [f"mesh: the certificates end in {', '.join(meshes)}; {advice}"]


def redaction_line(each: dict[str, Any]) -> str:
    """Say in one line by whom, when and why a record was redacted."""
    named, who = "", f"{'peer' if each['authority'] == 'author' else 'aggregator'} {each['by']}"
    if len(each["named_by"]) > 1:
        peers = ", ".join(each["named_by"])
        named = f" which headers signed by {peers} name (whose it was is not known),"
    elif each["signed_by"]:
        named = f" which a header signed by {each['signed_by']} names,"
        who = "that peer" if each["by"] == each["signed_by"] else who
    return f"redacted: {each['cid']},{named} by {who} at {each['at']}: {each['reason']}"


def redacted_line(entry: dict[str, Any]) -> str:
    """Say of an entry of a list, for a terminal, why it was redacted."""
    return printable(redaction_line({"cid": entry["cid"], **entry["redacted"]}))


def _conclusion(verdict: dict[str, Any]) -> str:
    strangers = sum(each["state"] != "member" for each in verdict["members"])
    if not verdict["ok"]:
        if verdict["faults"] or not verdict["mesh"]:
            return "NOT VERIFIED"
        revoked = sum(each["state"] == "revoked" for each in verdict["members"])
        who = f"{counted(strangers, 'author')} of {len(verdict['members'])}"
        if revoked == strangers:
            return f"NOT VERIFIED: {who} was put out of mesh {verdict['mesh']}, whenever it signed"
        return f"NOT VERIFIED: {who} did not show to be of mesh {verdict['mesh']} at signing"
    line = f"verified, all by members of mesh {verdict['mesh']}" if verdict["mesh"] else "verified"
    if not verdict["redacted"]:
        return line
    what = counted(len(verdict["redacted"]), "record")
    return f"{line}, but for the content of {what} that was redacted: headers and digests hold"
