"""``covey-aggregator lineage``."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, cast

import click

from aggregator.cli.access import read
from peer.cli import (
    CidName,
    Misuse,
    counted,
    emit,
    json_option,
    printable,
    table,
    unless_misused,
)
from peer.excerpt_commands import redacted_line

UNKNOWN = "not known here"
MAX_NAMED_TAKERS: Final = 3  # in a sentence; `--json` names all
WAYS = {"ancestors": "--up", "descendants": "--down", "outputs": "--outputs"}


@click.command()
@click.argument("cid")
@click.option("--up", "ancestors", is_flag=True, help="List everything that it came from.")
@click.option("--down", "descendants", is_flag=True, help="List everything that came from it.")
@click.option(
    "--outputs",
    is_flag=True,
    help="List the outputs that came from it, or that a peer's or machine's own runs made.",
)
@click.option(
    "--to", "origin", type=CidName(), metavar="CID", help="Show how it came from that one."
)
@click.option(
    "--depth", type=click.IntRange(min=1), help="How far: 32 steps, or as many links as there are."
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Records (1000), nodes a page (100), or paths (10)."
)
@click.option("--page", metavar="NEXT", help="The page that the one before says is next.")
@json_option
def lineage(cid: str, origin: str | None, as_json: bool, **given: Any) -> None:
    """Show the model, input, software, hardware and peers that made an output, or led to a record.

    CID is an output's (`covey run --json` prints it as output_cid), an input's, a model's or a
    record's. "verified" means that the signed bytes were found in the journal and checked just now.

    With --up, --down or --outputs it lists what CID came from or what came from it, nearest first
    and a page at a time; CID may then be a model's, an environment's or a hardware's, and for
    --down and --outputs a peer's id. With --to it shows the ways from CID up to an origin, shortest
    first.

    \b
    Example:  covey-aggregator lineage bafkreih…
              covey-aggregator lineage bafkreimodel… --outputs --limit 20
    """
    way = _way(given, origin)
    _check_start(cid, way)
    query = {name: given[name] for name in ("depth", "limit", "page") if given[name] is not None}
    if "page" in query and not way:
        raise click.UsageError("only --up, --down and --outputs have pages")
    if origin:
        emit(read(f"/lineage/{cid}/paths", to=origin, **query), as_json, render_paths)
    elif way:
        emit(read(f"/lineage/{cid}/{way}", **query), as_json, render_page)
    else:
        emit(read(f"/lineage/{cid}", **query), as_json, render)


def _way(given: dict[str, Any], origin: str | None) -> str | None:
    """Return the one direction that was asked for, if any; raises ``UsageError`` for several."""
    asked = [way for way in WAYS if given[way]]
    named = [WAYS[way] for way in asked] + ["--to"] * (origin is not None)
    if len(named) > 1:
        raise click.UsageError(f"{' and '.join(named)} exclude each other: ask one by one")
    return asked[0] if asked else None


def _check_start(text: str, way: str | None) -> None:
    """Raise ``Misuse`` for what is no CID, unless it is a peer whose records may lead somewhere."""
    from peer.cids import parse_cid
    from protocols.keys import is_peer_id

    if not is_peer_id(text):
        unless_misused(lambda: parse_cid(text), None)
    elif way not in ("descendants", "outputs"):
        raise Misuse(f"{text} is a peer", hint="what its records led to is shown with --outputs")


def render_page(value: dict[str, Any]) -> str:
    """Write a page as a table."""
    columns = {key: key for key in ("depth", "what", "name", "peer", "cid")}
    lines = [redacted_line(value)] if value["redacted"] else []
    lines.append(table(value["nodes"], columns, empty="nothing that is known here"))
    lines += [redacted_line(node) for node in value["nodes"] if node["redacted"]]
    lines += map(_made_by, value["makers"])
    if value["next"]:
        lines.append(f"there is more: --page {value['next']}")
    if value["is_cut"]:
        lines.append("cut at the depth: see --depth")
    return "\n".join(lines)


def render_paths(value: dict[str, Any]) -> str:
    """Write each way as lines, from the end to the origin."""
    lines: list[str] = []
    for number, path in enumerate(value["paths"], 1):
        lines.append(f"{number}. {counted(len(path) - 1, 'link')}")
        lines += [f"   {_named(node)}" for node in path]
    if not lines:
        lines.append(f"no way is known by which it came from {value['to']}")
    lines += map(_made_by, value["makers"])
    if value["is_cut"]:
        lines.append("there may be more: see --depth and --limit")
    return "\n".join(map(printable, lines))


def _named(node: dict[str, Any]) -> str:
    if node["redacted"]:
        return redacted_line(node)
    parts = (node["what"], node["name"], node["cid"], node["peer"] and f"by {node['peer']}")
    return "  ".join(part for part in parts if part)


def render(value: dict[str, Any]) -> str:
    """Write a lineage as a summary and a tree."""
    lines = [*_summary(value), "", *_tree(value), *_missing(value)]
    return "\n".join(map(printable, lines))


def _summary(value: dict[str, Any]) -> list[str]:
    model: dict[str, Any] = value["model"] or {}
    execution: dict[str, Any] = value["execution"] or {}
    facts: dict[str, str] = {
        value["kind"]: f"{value['cid']}  {_proof(value['verified'])}",
        "model": _joined(model.get("name"), model.get("cid")),
        "input": _joined(value["input"], _items(execution.get("items"))),
        "software": _block(value["software"]),
        "hardware": hardware_line(value["hardware"]),
        "worker": value["worker"] or UNKNOWN,
        "submitter": value["submitter"] or UNKNOWN,
    }
    width = max(len(name) for name in facts)
    return [f"{name.ljust(width)}  {fact}" for name, fact in facts.items()]


def _joined(*parts: str | None) -> str:
    return "  ".join(part for part in parts if part) or UNKNOWN


def _items(items: int | None) -> str | None:
    return None if items is None else counted(items, "item")


def _proof(is_verified: bool) -> str:
    return "verified" if is_verified else "NOT VERIFIED"


def _block(block: dict[str, Any] | None) -> str:
    """Write a block's plain values in one line; nested ones are left to ``--json``."""
    if block is None:
        return UNKNOWN
    plain = [
        f"{key} {value}"
        for key, value in sorted(block.items())
        if key != "cid" and isinstance(value, (str, int, float))
    ]
    return ", ".join(plain) or block["cid"]


def hardware_line(block: dict[str, Any] | None) -> str:
    """Write what a machine is, as people say it; its peer may have written anything there."""
    if block is None:
        return UNKNOWN
    model, cores = block.get("cpu_model"), block.get("usable_cores", block.get("cores"))
    memory, devices = block.get("memory_total_bytes"), block.get("accelerators")
    listed = cast("list[Any]", devices) if isinstance(devices, list) else []
    parts = [
        model if isinstance(model, str) else None,
        counted(cores, "core") if isinstance(cores, int) else None,
        _gigabytes(memory) if isinstance(memory, int) else None,
        *(
            f"{count} x {name}"
            for name, count in Counter(filter(None, map(_device, listed))).items()
        ),
    ]
    return ", ".join(filter(None, parts)) or block["cid"]


def _device(device: Any) -> str | None:
    match device:
        case {"name": str(name), "backend": str(backend), "memory_bytes": int(memory)}:
            return f"{name} ({backend}, {_gigabytes(memory)})"
        case _:
            return None


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB"


def _tree(value: dict[str, Any]) -> list[str]:
    """Write each record below the first one that led to it, with what it used and made."""
    records = {record["cid"]: record for record in value["records"]}
    made_by: dict[str, list[str]] = {}
    for record in records.values():
        for link in record["generated"]:
            made_by.setdefault(link["cid"], []).append(record["cid"])
    lines: list[str] = []
    shown: set[str] = set()
    for cid in records:
        _branch(cid, (records, made_by), shown, lines, 0)
    return lines


Graph = tuple[dict[str, dict[str, Any]], dict[str, list[str]]]


def _branch(cid: str | None, graph: Graph, shown: set[str], lines: list[str], depth: int) -> None:
    records, made_by = graph
    if cid is None or cid in shown or cid not in records:
        return
    shown.add(cid)
    record = records[cid]
    indent = "  " * depth
    lines.append(f"{indent}{_headline(record)}")
    for block in (record["environment"], record["hardware"]):
        _branch(block, graph, shown, lines, depth + 1)
    lines += [f"{indent}  → {link['role']} {link['cid']}" for link in record["generated"]]
    for link in record["used"]:
        lines.append(f"{indent}  ← {link['role']} {link['cid']}")
        for maker in made_by.get(link["cid"], ()):
            _branch(maker, graph, shown, lines, depth + 2)
    for parent in record["informed_by"]:
        lines.append(f"{indent}  ← after {parent}")
        _branch(parent, graph, shown, lines, depth + 2)


def _headline(record: dict[str, Any]) -> str:
    took = f"{record['duration_us'] / 1_000:.1f} ms" if record["duration_us"] else ""
    parts = (record["kind"], record["status"], record["start"], took, f"by {record['peer']}")
    return "  ".join(part for part in (*parts, _proof(record["verified"])) if part)


def _absence(entry: dict[str, Any]) -> str:
    redacted = entry["redacted"]
    if not redacted:
        return "missing"
    why = f"redacted by {redacted['by']} at {redacted['at']} ({redacted['reason']})"
    is_verified = redacted.get(
        "is_verified", True
    )  # listings verify nothing, and say nothing of it
    return why if is_verified else f"{why}, NOT VERIFIED"


def _made_by(maker: dict[str, Any]) -> str:
    """Say of something that its maker is redacted, who says so, and what of that is left."""
    peers = list(dict.fromkeys(each["peer"] for each in maker["told_by"]))
    more = len(peers) - MAX_NAMED_TAKERS
    says = ", ".join(peers[:MAX_NAMED_TAKERS]) + (f" and {more} more" if more > 0 else "")
    return printable(
        f"{maker['of']} was made by record {maker['cid']} of {maker['peer']} (epoch"
        f" {maker['epoch']}, sequence {maker['sequence']}), says {says}; nothing else is known of"
        f" it: it was {_absence(maker)}"
    )


def _missing(value: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for entry in value["missing"]:
        named = f"{entry['what']} {entry['cid']}, named by {entry['needed_by']}"
        if entry["makers"]:
            lines += map(_made_by, entry["makers"])
        else:
            lines.append(f"{_absence(entry)}: {named}")
    if value["is_cut"]:
        lines.append("cut at the limit: see --depth and --limit")
    return lines
