"""``covey run``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from node.cli.arguments import KindName, NewJobId, PeerName, Seconds
from node.cli.kind_options import KindCommand, check_parameters, given, telling_misuse
from node.cli.verdict import tell_verdict
from peer.cli import Misuse, json_option, note
from protocols.limits import MAX_VERIFICATIONS

if TYPE_CHECKING:
    from node.requests import Delta, JobOutcome, JobRequest

F = TypeVar("F", bound=Callable[..., Any])

PRECISIONS: Final = ("auto", "fp32", "bf16", "int8", "int4")
DEVICES: Final = ("cpu", "cuda", "mps", "xpu")


def input_options(command: F) -> F:
    """Add what a job is and where its input comes from: kind, files, model, input, precision, peer,
    id.
    """
    options = (
        click.argument("kind", type=KindName()),
        click.argument("files", nargs=-1, type=click.Path()),
        click.option("--model", required=True, help="The model's name, as `covey peers` shows it."),
        click.option(
            "--input", "source", default="-", show_default=True, help="A file, or - for stdin."
        ),
        click.option("--whole", is_flag=True, help="The input is one item, not one a line."),
        click.option(
            "--precision", type=click.Choice(PRECISIONS), default="auto", show_default=True
        ),
        click.option(
            "--device", type=click.Choice(DEVICES), help="Only a peer that has such a device."
        ),
        click.option(
            "--min-memory-mb", type=click.IntRange(min=1), help="Of the peer, or of the device."
        ),
        click.option(
            "--min-speed", type=float, help="In measured GFLOP/s, as `covey peers` shows it."
        ),
        click.option("--peer", type=PeerName(), help="Only this peer may run it."),
        click.option(
            "--verify",
            type=click.IntRange(0, MAX_VERIFICATIONS),
            help="How many other peers run it again, to compare.",
        ),
        click.option(
            "--job-id",
            type=NewJobId(),
            help="32 hexadecimal digits; again with the same, it is one job.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def output_option(command: F) -> F:
    """Add where a result goes."""
    told = "Write the result here, NumPy when it ends in .npy; - or nothing: print it."
    return click.option("--output", "target", callback=_file_or_none, help=told)(command)


def _file_or_none(_context: object, _option: object, value: str | None) -> str | None:
    return None if value == "-" else value


@click.command("run", cls=KindCommand)
@input_options
@output_option
@click.option(
    "--timeout",
    "timeout_s",
    type=Seconds(),
    default=600.0,
    show_default=True,
    help="Seconds in all.",
)
@click.option("--stream", "streams", is_flag=True, help="Print text, and as it comes.")
@json_option
def run_job(kind: str, target: str | None, streams: bool, as_json: bool, **wanted: Any) -> None:
    """Run one job of KIND on the mesh, wait for it and print its result.

    The input is UTF-8 text with one item a line, or JSON lines (a file ending in .jsonl): strings,
    or objects with "text" or, for generate, with a chat's "messages". Kinds that take files have
    FILES, one item each, or one file as --input. The result is JSON lines. Exit status 1 means that
    the job failed. `covey run KIND --help` shows what else a kind can be told.

    With --verify N, N other peers run the job again before the result is printed, and stderr says
    what came of it: exit status 1 when an output differs, 3 when fewer than N could be compared.

    \b
    Example:  covey run embed --model all-minilm-l6-v2 --input sentences.txt --output vectors.npy
              echo "What is the capital of France?" | covey run generate --model smollm2 --chat
              echo "Once upon a time" | covey run generate --model smollm2 --stream
    """
    from node import requests, results
    from node.cli.connection import connect
    from node.runner.kinds import kind_named

    if streams and (as_json or target):
        raise click.UsageError("--stream prints text: leave out --json and --output.")
    codec = kind_named(kind)
    if streams and codec.READER is None:
        hint = "its result comes without --stream"
        raise Misuse(f"{kind} emits nothing while it computes", hint=hint)
    if target is not None:
        with telling_misuse(kind):
            results.check_target(Path(target), codec, kind)  # before the work, not after it
    job = request_of(kind, **wanted)
    if streams:
        with connect() as control, printing_text() as on_delta:
            requests.stream(control, job, on_delta)
        return
    with connect() as control, showing_progress(job.items) as on_progress:
        outcome = requests.run(control, job, on_progress)
    write_outcome(outcome, codec, target, as_json)


def request_of(
    kind: str, files: tuple[str, ...], source: str, whole: bool, **wanted: Any
) -> JobRequest:
    """Read a job's input and return the request for it; ``wanted`` are the other options."""
    from node import requests, results
    from node.runner.kinds import kind_named

    options = given(wanted)
    with telling_misuse(kind):
        check_parameters(kind, options)  # before somebody types an input for them
        item_type = kind_named(kind).ITEM_TYPE
        items = results.read_input(item_type, files, source, is_whole=whole)
        is_one = whole or item_type is bytes
        with results.naming_items(files, source, is_whole=is_one):
            return requests.prepare(kind, items, options)


def write_outcome(outcome: JobOutcome, codec: Any, target: str | None, as_json: bool) -> None:
    """Print a result, or write it to ``target``; exit if others were to verify it and do not
    agree.
    """
    from node import results

    rows = codec.rows(outcome.output)
    summary = {**outcome.summary, "output_file": target}
    if target is not None:
        results.write_file(Path(target), rows, lambda: codec.array(outcome.output))
    if as_json:
        results.print_json(summary if target else {**summary, "output": list(rows)})
    elif target is None:
        results.print_lines(rows)
    else:
        note(f"computed by {summary['worker']}, written to {target}")
    tell_verdict(summary, as_json=as_json)


@contextmanager
def printing_text() -> Generator[Callable[[Delta], None]]:
    """Print texts as they come, an empty line between two."""
    index: int | None = None

    def take(delta: Delta) -> None:
        nonlocal index
        if delta.is_anew:
            sys.stdout.write("" if index is None else "\n\n")
            sys.stdout.flush()
            note("its worker was lost and the next one computes otherwise: the text begins anew")
            index = None
            return
        if index is not None and delta.index != index:
            sys.stdout.write("\n\n")
        index = delta.index
        sys.stdout.write(delta.text)
        sys.stdout.flush()

    try:
        yield take
    finally:
        sys.stdout.write("" if index is None else "\n")
        sys.stdout.flush()


@contextmanager
def showing_progress(total: int) -> Generator[Callable[[dict[str, Any]], None]]:
    """Show a progress bar on a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _event: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True
    ) as bar:
        shown = bar.add_task("looking for a worker", total=total)

        def update(event: dict[str, Any]) -> None:
            worker = event["worker"]
            text = f"{event['state']} at …{worker[-8:]}" if worker else event["state"]
            done, of = event["items_done"], event["items_total"]
            bar.update(shown, description=text, completed=done, total=of or total)

        yield update
