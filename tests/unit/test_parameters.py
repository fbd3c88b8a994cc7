"""What a kind can be told, without any kind: the table, its one form, and the command line."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given, strategies as st

from node.cli.kind_options import KindCommand, given as only_given
from node.cli.run import input_options
from node.requests import JobRequest, prepare
from node.runner.kinds import KINDS, BadInputError, embed, kind_named
from node.runner.parameters import Parameter, checked, pack, unpack
from protocols.limits import MAX_PARAMETER_CHARS

TABLE = (
    Parameter("max_tokens", int, "How many.", default=16, least=1, most=4_096),
    Parameter("temperature", float, "How wild.", default=0.0, least=0.0, most=2.0),
    Parameter("labels", tuple, "Which.", least=2, most=4, separator=","),
    Parameter("task", str, "What for.", default="auto", choices=("auto", "fill-mask")),
    Parameter("name", str, "Any.", least=1, most=8),
    Parameter("echo", bool, "Whether.", default=False),
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 4_096),
        "temperature": st.floats(0, 2),
        "labels": st.lists(TEXT, min_size=2, max_size=4).map(tuple),
        "task": st.sampled_from(("auto", "fill-mask")),
        "name": TEXT,
        "echo": st.booleans(),
    },
)


@given(VALUES)
def test_parameters_have_one_form_and_come_back_with_their_defaults(values: dict[str, Any]) -> None:
    content = pack(TABLE, values)

    assert unpack(TABLE, content) == checked(TABLE, values)
    assert pack(TABLE, unpack(TABLE, content)) == content


@given(st.binary(max_size=64))
def test_any_bytes_are_parameters_or_bad_input(content: bytes) -> None:
    with suppress(BadInputError):
        assert pack(TABLE, unpack(TABLE, content)) == content


def test_defaults_do_not_travel_so_that_older_workers_run_what_does_not_need_newer_ones() -> None:
    assert pack(TABLE, {"max_tokens": 16, "temperature": 0, "echo": False}) == pack((), {})


def test_a_default_that_travels_is_not_the_one_form() -> None:
    written = pack((Parameter("max_tokens", int, "", least=1, most=99),), {"max_tokens": 16})

    with pytest.raises(BadInputError, match="one form"):
        unpack(TABLE, written)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("temperature", math.nan, "a number, 0 to 2"),
        ("temperature", math.inf, "a number, 0 to 2"),
        ("temperature", -0.1, "a number, 0 to 2"),
        ("temperature", 10**400, "a number, 0 to 2"),
        ("temperature", "1", "a number, 0 to 2"),
        ("max_tokens", 0, "a whole number, 1 to 4096"),
        ("max_tokens", -5, "a whole number, 1 to 4096"),
        ("max_tokens", 1.5, "a whole number"),
        ("max_tokens", True, "a whole number"),
        ("labels", ("one",), "texts, 2 to 4 of them"),
        ("labels", "one,two", "texts, 2 to 4 of them"),
        ("labels", ("one", 2), "texts, 2 to 4 of them"),
        ("labels", ("one", "a" * (MAX_PARAMETER_CHARS + 1)), "texts"),
        ("task", "train", "one of auto, fill-mask"),
        ("name", "", "a text, 1 to 8 characters"),
        ("echo", 1, "true or false"),
        ("dream", 1, "no parameter 'dream'"),
    ],
)
def test_what_a_parameter_cannot_be_is_refused_by_its_name(
    name: str, value: object, told: str
) -> None:
    with pytest.raises(BadInputError, match=told) as refused:
        checked(TABLE, {name: value})

    assert name in refused.value.message
    assert refused.value.details["parameter"] == name


def test_texts_that_are_no_unicode_are_refused() -> None:
    with pytest.raises(BadInputError, match="no text"):
        pack(TABLE, {"name": "\ud800"})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_bounds_its_numbers_and_shadows_no_option(kind: str) -> None:
    counted = {"items", "tokens"}  # of the input: nobody gives them
    options = {*JobRequest.__slots__} - counted
    taken = {"kind", "files", "source", "whole", "target", "as_json", *options}

    for parameter in kind_named(kind).PARAMETERS:
        assert parameter.name not in taken
        assert parameter.help
        if parameter.type in (int, float, tuple):
            assert None not in (parameter.least, parameter.most)
        if parameter.default is not None:
            assert checked((parameter,), {parameter.name: parameter.default})


def test_the_command_line_offers_what_the_named_kind_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed, "PARAMETERS", TABLE)

    @click.command(cls=KindCommand)
    @input_options
    def command(**wanted: Any) -> None:
        click.echo(repr({key: only_given(wanted).get(key) for key in sorted(only_given(wanted))}))

    def ran(*arguments: str) -> str:
        return CliRunner().invoke(command, arguments).output

    told = ran("embed", "--model", "m", "--labels", "a, b", "--max-tokens", "3", "--echo")
    assert "'echo': True" in told
    assert "'echo': False" in ran("embed", "--model", "m", "--no-echo")
    assert "'labels': ('a', 'b')" in told
    assert "'max_tokens': 3" in told
    assert "temperature" not in told
    assert "How wild.  [default: 0.0]" in ran("embed", "--help")
    assert "How wild." not in ran("--help")
    assert "No such option" in ran("bench.noop", "--model", "m", "--labels", "a,b")


def test_options_go_to_the_request_or_into_the_input_and_nothing_is_ignored() -> None:
    request = prepare("embed", ["one"], {"model": "m", "precision": "bf16"})

    assert request == JobRequest("embed", "m", embed.encode_input(["one"]), 1, "bf16")
    told = prepare("classify", ["one"], {"model": "m", "labels": ["a", "b"], "timeout_s": 5.0})
    assert told.timeout_s == 5.0
    assert kind_named("classify").encode_input(["one"], {"labels": ("a", "b")}) == told.input
    with pytest.raises(BadInputError, match="embed takes no max_tokens"):
        prepare("embed", ["one"], {"model": "m", "max_tokens": 3})
    with pytest.raises(BadInputError, match="takes no input"):
        prepare("embed", ["one"], {"model": "m", "input": b""})
    with pytest.raises(BadInputError, match="no list"):
        prepare("embed", "one", {"model": "m"})
