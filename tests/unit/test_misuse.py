"""What the command line alone shows to be wrong ends a command with status 2 before it does
anything; with ``--json``, an error is one object on stderr.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from aggregator.cli import main as operate
from node.cli import main
from node.runner.kinds import KINDS, BadInputError, kind_named
from protocols.base58 import to_base58
from protocols.cid import CID, RAW

NOWHERE = str(CID.of(b"nowhere", RAW))
DAG_PB = "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi"
DAG_PB_V0 = "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG"
IN_BASE58 = f"z{to_base58(CID.of(b'nowhere', RAW))}"
PEER = "12D3KooWSxpeJpcAebtV9emdNM7bUNATFhTx2JirESHYLkxhVvHC"
RUN = ("run", "embed", "--model", "m")
GENERATE = ("run", "generate", "--model", "m")
MISUSE = [
    ((*RUN, "--timeout", "-5"), "is not more than 0 and at most 86400 s", "--help"),
    ((*RUN, "--timeout", "0"), "is not more than 0", "--help"),
    ((*RUN, "--timeout", "nan"), "is not more than 0", "--help"),
    (("job", "submit", *RUN[1:], "--timeout", "1e9"), "at most 86400 s", "--help"),
    ((*RUN, "--job-id", "zz"), "'zz' is not a job id", "openssl rand -hex 16"),
    (("run", "nokind", "--model", "m"), "there is no kind 'nokind'", "kinds: bench."),
    (("run", "nokind", "--help"), "there is no kind 'nokind'", "kinds: bench."),
    ((*GENERATE, "--temperature", "9"), "temperature is a number, 0 to 2", "run generate --help"),
    ((*GENERATE, "--max-tokens", "0"), "max_tokens is a whole number", "run generate --help"),
    ((*GENERATE, "--output", "o.npy"), "the output of generate is no array", "--output o.jsonl"),
    ((*RUN, "--stream"), "embed emits nothing while it computes", "without --stream"),
    ((*RUN, "a.txt"), "takes text, not files", "--input a.txt"),
    (("run", "vad", "--model", "m"), "no files were given", "name them"),
    (("job", "list", "--limit", "0"), "0 is not in the range", "--help"),
    (("records", "list", "--limit", "0"), "0 is not in the range", "--help"),
    (("errors", "list", "--limit", "0"), "0 is not in the range", "--help"),
    (
        ("records", "export", "car", "--since", "tomorrow", "--output", "x"),
        "'tomorrow' is no moment",
        "2026-11-27T14:30",
    ),
    (("job", "show", "xyz"), "'xyz' is not a job id", "covey job list"),
    (("job", "show", "../../etc"), "'../../etc' is not a job id", "covey job list"),
    (("job", "why", "abcde"), "or the first 6", "covey job list"),
    (("records", "verify", NOWHERE, "--mesh", ""), "'' is not the name of a mesh", "--help"),
    (
        ("records", "verify", NOWHERE, "--mesh", "12D3"),
        "'12D3' is not the name of a mesh",
        "--help",
    ),
    (("records", "show", "xyz"), "'xyz' is not a CID", "this has 3"),
    (("records", "show", ""), "'' is not a CID", "this has 0"),
    (("records", "show", NOWHERE[:58] + "!"), "is not a CID", "some letter of this one is wrong"),
    (("records", "show", "a" + NOWHERE[1:]), "is not a CID", "some letter of this one is wrong"),
    (("records", "show", "ba0" + NOWHERE[3:]), "is not a CID", "some letter of this one is wrong"),
    (("records", "show", PEER), "is not a CID", "that is the id of a peer"),
    (("records", "show", DAG_PB), "nothing here has the name", "a CID of another kind"),
    (("records", "show", DAG_PB_V0), "nothing here has the name", "a CID of another kind"),
    (("records", "show", DAG_PB_V0[:-1]), "is not a CID", "this has 45"),
    (("records", "show", IN_BASE58), "nothing here has the name", f"written as {NOWHERE}"),
    (("records", "redact", NOWHERE, "--reason", "", "--yes"), "a reason has 1 to", "--help"),
    (("records", "redact", NOWHERE, "--reason", 1_001 * "r"), "not 1001", "--help"),
    (("records", "verify", "/"), "'/' is not a CID", "begins with baf"),
    (("records", "verify", __file__), "is not a CID", f"--file {__file__} checks it"),
    (("records", "redact", "xyz", "--reason", "r"), "'xyz' is not a CID", "begins with baf"),
    (("bench", "show", "xyz"), "'xyz' is not a CID", "begins with baf"),
    (("bench", "rerun", "xyz"), "'xyz' is not a CID", "begins with baf"),
]

LINES = "one\n\ntwo\n"
ITEMS = [
    ("generate", LINES, "-", "stdin:2 is empty", "remove blank lines"),
    ("generate", LINES, "in.txt", "in.txt:2 is empty", "remove blank lines"),
    ("generate", '"one"\n""\n', "in.jsonl", "in.jsonl:2 is empty", "remove blank lines"),
    ("generate", '"one"\n\n', "in.jsonl", "in.jsonl:2 is blank", "remove it"),
    ("generate", '"one"\n{"messages": []}\n', "in.jsonl", "in.jsonl:2 has no messages", ""),
    ("generate", '{"messages": [{}]}\n', "in.jsonl", "in.jsonl:1: messages[0] has the role", ""),
    ("embed", '"one"\n{"messages": []}\n', "in.jsonl", "in.jsonl:2 is not a text", ""),
    ("embed", '"one"\n"\\ud800"\n', "in.jsonl", "in.jsonl:2 holds a lone surrogate", ""),
    ("embed", "one\n" + "x" * 70_000, "in.txt", "in.txt:2 is larger than", "several items"),
    ("classify", '"one"\n{"messages": []}\n', "in.jsonl", "in.jsonl:2 is not a text", ""),
    ("vad", "noise", "in.wav", "in.wav is no WAV file", "ffmpeg"),
]

OF_AN_OPERATOR = [
    (("lineage", "xyz"), "'xyz' is not a CID", "this has 3"),
    (("lineage", NOWHERE, "--to", "xyz"), "'xyz' is not a CID", "this has 3"),
    (("lineage", PEER), "is a peer", "--outputs"),
    (("lineage", NOWHERE, "--up", "--down"), "--up and --down exclude each other", "--help"),
    (("lineage", NOWHERE, "--outputs", "--to", NOWHERE), "--to exclude each other", "--help"),
    (("redact", NOWHERE, "--reason", "", "--yes"), "a reason has 1 to", "--help"),
    (("lineage", PEER, "--up"), "is a peer", "--outputs"),
    (("lineage", "xyz", "--outputs"), "'xyz' is not a CID", "this has 3"),
    (("verify", "xyz", "--deep"), "'xyz' is not a CID", "this has 3"),
    (("verify", __file__), "is not a CID", f"--file {__file__} checks it"),
    (("redact", "xyz", "--reason", "r"), "'xyz' is not a CID", "this has 3"),
    (("export", "car", "--lineage", "xyz", "--output", "o"), "'xyz' is not a CID", "this has 3"),
]


@pytest.fixture(autouse=True)
def nobody_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COVEY_HOME", str(tmp_path))
    monkeypatch.setenv("COVEY_AGGREGATOR_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))


def covey(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> object:
    """Run a command in this process and return its exit status."""
    return ended(main, ("covey", *arguments), monkeypatch)


def ended(
    program: Callable[[], NoReturn], line: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> object:
    monkeypatch.setattr(sys, "argv", list(line))
    with pytest.raises(SystemExit) as exit_:
        program()
    return exit_.value.code


@pytest.mark.parametrize(
    ("kind", "content", "source", "says", "hint"), ITEMS, ids=lambda each: str(each)[:40]
)
def test_an_item_that_its_kind_does_not_take_is_named_by_where_it_stands(
    kind: str,
    content: str,
    source: str,
    says: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
    if source != "-":
        Path(source).write_text(content)

    status = covey(("run", kind, "--model", "m", "--input", source), monkeypatch)

    told, *rest = capsys.readouterr().err.splitlines()
    assert status == 1
    assert told.startswith(f"covey: {says}")
    assert hint in "".join(rest)


@pytest.mark.parametrize(("arguments", "says", "hint"), MISUSE, ids=lambda each: str(each)[:40])
def test_misuse_is_told_in_a_line_with_status_2(
    arguments: tuple[str, ...],
    says: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = covey(arguments, monkeypatch)

    explained(status, capsys, says, hint)


@pytest.mark.parametrize(
    ("arguments", "says", "hint"), OF_AN_OPERATOR, ids=lambda each: str(each)[:40]
)
def test_misuse_of_an_aggregator_is_told_in_the_same_way(
    arguments: tuple[str, ...],
    says: str,
    hint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = ended(operate, ("covey-aggregator", *arguments), monkeypatch)

    explained(status, capsys, says, hint)


def explained(status: object, capsys: pytest.CaptureFixture[str], says: str, hint: str) -> None:
    told = capsys.readouterr()
    first, *rest = told.err.splitlines()
    assert (status, told.out) == (2, "")
    assert says in first
    assert len(rest) == 1
    assert hint in rest[0]


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ((*RUN, "--timeout", "-5", "--json"), 2, "usage"),
        (("job", "list", "--json"), 1, "daemon-down"),
        (("job", "show", "xyz", "--json"), 2, "usage"),
        (("--jsno", "job", "list", "--json"), 2, "usage"),
    ],
)
def test_with_json_an_error_is_one_object_on_stderr(
    arguments: tuple[str, ...],
    status: int,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = covey(arguments, monkeypatch)

    told = capsys.readouterr()
    error = json.loads(told.err)["error"]
    assert (done, told.out) == (status, "")
    assert (error["code"], set(error)) == (code, {"code", "message", "hint"})


def test_an_option_behind_two_dashes_is_of_another_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    covey(("job", "list", "--", "--json"), monkeypatch)

    assert capsys.readouterr().err.startswith("covey: ")


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_says_whether_its_output_is_an_array_and_has_an_example(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = kind_named(name)
    if not kind.IS_ARRAY:
        with pytest.raises(BadInputError, match="the output of"):
            kind.array(b"")

    covey(("run", name, "--help"), monkeypatch)

    told = capsys.readouterr().out
    assert f"covey run {name} --model " in " ".join(told.split())
    for parameter in kind.PARAMETERS:
        assert f"--{parameter.name.replace('_', '-')}" in told


def test_the_help_of_run_names_the_kinds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = covey(("run", "--help"), monkeypatch)

    assert status == 0
    assert f"Kinds: {', '.join(sorted(KINDS))}" in " ".join(capsys.readouterr().out.split())
