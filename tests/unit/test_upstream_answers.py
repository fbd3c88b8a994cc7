"""What an upstream answers, taken apart: events of a text, vectors, lists of models."""

from __future__ import annotations

import json
import struct
from contextlib import suppress
from typing import Any

import cbor2
import pytest
from hypothesis import given, strategies as st

from node.needs import serves
from node.runner.kinds import generate
from node.runner.kinds.generate import Message, Parameters
from node.runner.text_output import pieces
from node.upstream import embedding
from node.upstream.continuation import Continuation, request
from node.upstream.errors import BROKEN, REFUSED, TIMEOUT, UNAVAILABLE, of_status
from node.upstream.models import Listed, UpstreamModel, Wanted, choose, decode_listing
from protocols.advert import ModelOffer
from protocols.errors import JobFailed
from protocols.limits import MAX_NEW_TOKENS
from tests.support.runners import model_of

PEER = "12D3KooWPeer"


def event(text: str | None = None, reason: str | None = None, **more: Any) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": reason}], **more})


def code_of(take: Any) -> str:
    with pytest.raises(JobFailed) as caught:
        take()
    return caught.value.code


# Texts


def test_a_text_comes_in_parts_and_ends_with_its_reason_and_its_tokens() -> None:
    text = Continuation(3)

    came = [
        text.take(each)
        for each in (
            event(),
            event("Zażółć "),
            event("gęślą"),
            event(None, "length"),
            json.dumps({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 9}}),
            "[DONE]",
        )
    ]

    assert "".join(came) == "Zażółć gęślą"
    assert text.is_over
    assert cbor2.loads(text.last_part()) == [3, "", "length", 9]
    assert (text.prompt_tokens, text.new_tokens) == (5, 9)


def test_a_plain_completion_has_its_text_elsewhere_and_other_choices_are_not_ours() -> None:
    text = Continuation(0)
    choices = [{"text": "one", "index": 0}, {"text": "two", "index": 1}]

    assert text.take(json.dumps({"choices": choices})) == "one"


def test_tokens_that_the_upstream_does_not_count_are_not_made_up() -> None:
    text = Continuation(0)

    text.take(event("x", "stop"))

    assert text.new_tokens is None
    assert next(pieces(text.last_part())).tokens == 0


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "7",
        '{"choices": 3}',
        '{"choices": [{"delta": {"content": 7}}]}',
        '{"choices": [{"delta": {"content": "\\ud800"}}]}',
        '{"choices": [' + "[" * 100_000,
        event("x", "bored"),
        event(usage={"completion_tokens": -1}),
        event(usage={"completion_tokens": MAX_NEW_TOKENS + 1}),
    ],
)
def test_an_event_of_another_shape_is_broken(content: str) -> None:
    text = Continuation(0)

    assert code_of(lambda: (text.take(content), text.last_part())) == BROKEN


def test_an_answer_that_ends_without_a_reason_is_broken() -> None:
    text = Continuation(0)
    text.take(event("half a "))
    text.take("[DONE]")

    assert code_of(text.last_part) == BROKEN


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"message": "out of memory", "code": 500}, UNAVAILABLE),
        ({"message": "too long", "code": 400}, REFUSED),
        ({"message": "busy", "code": "overloaded"}, UNAVAILABLE),
        ("something", UNAVAILABLE),
    ],
)
def test_an_error_in_the_midst_of_a_text_is_told(error: Any, code: str) -> None:
    assert code_of(lambda: Continuation(0).take(json.dumps({"error": error}))) == code


def test_what_a_content_filter_stops_is_the_jobs_own_fault() -> None:
    assert code_of(lambda: Continuation(0).take(event("x", "content_filter"))) == REFUSED


@given(st.text(max_size=60))
def test_any_event_is_taken_or_fails_the_job(content: str) -> None:
    with suppress(JobFailed):
        assert isinstance(Continuation(0).take(content), str)


def test_a_request_says_what_the_job_says() -> None:
    chat = [Message("system", "Be brief."), Message("user", "Why?")]
    path, body = request("org/M", chat, Parameters(9, 0.5, 0.9, 7, ("END",)))
    plain_path, plain = request("org/M", "Once upon", Parameters(max_tokens=4))

    assert path == "chat/completions"
    assert json.loads(body) == {
        "model": "org/M",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Why?"},
        ],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 7,
        "stop": ["END"],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert plain_path == "completions"
    assert json.loads(plain)["prompt"] == "Once upon"
    assert "seed" not in json.loads(plain), "it does not matter at temperature 0"


# Vectors


def rows(*vectors: Any, indices: Any = None) -> bytes:
    places = indices or range(len(vectors))
    data = [{"embedding": v, "index": i} for i, v in zip(places, vectors, strict=True)]
    return json.dumps({"data": data, "usage": {"prompt_tokens": 3}}).encode()


def test_vectors_are_put_into_the_order_of_their_texts() -> None:
    vectors = embedding.decode(rows([3, 4.5], [1, 2], indices=[1, 0]), 2)

    assert [struct.unpack("<2f", row) for row in vectors.rows] == [(1, 2), (3, 4.5)]
    assert (vectors.dimension, vectors.tokens) == (2, 3)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"\xff",
        b'{"data": ' + b"[" * 100_000,
        rows([1.0]),
        rows([1.0], [1.0], [1.0]),
        rows([1.0], [1.0], indices=[0, 0]),
        rows([1.0], [1.0], indices=[1, 2]),
        rows([], []),
        rows([1.0], [1.0, 2.0]),
        rows([1.0], ["x"]),
        rows([1.0], [None]),
        rows([1.0], [1e39]),
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [1e999]}]}',
        b'{"data": [{"index": 0, "embedding": [1]}, {"index": 1, "embedding": [NaN]}]}',
    ],
)
def test_what_is_not_one_finite_vector_a_text_is_broken(body: bytes) -> None:
    assert code_of(lambda: embedding.decode(body, 2)) == BROKEN


@given(st.binary(max_size=80))
def test_any_answer_is_vectors_or_fails_the_job(body: bytes) -> None:
    with suppress(JobFailed):
        assert embedding.decode(body, 1).dimension > 0


# Models


def test_all_models_are_offered_unless_some_are_named() -> None:
    listed = decode_listing(
        b'{"object": "list", "data": [{"id": "llama3.2:3b", "owned_by": "library", "created": 9},'
        b' {"id": "org/Embed", "owned_by": null}]}'
    )

    every, none_left = choose(listed, Wanted.of((), ("org/Embed",)), PEER)
    some, left_out = choose(listed, Wanted.of(("small = llama3.2:3b", "gone"), ("what",)), PEER)

    assert [(m.name, m.id, m.kind) for m in every] == [
        ("llama3.2:3b", "llama3.2:3b", "generate"),
        ("org/Embed", "org/Embed", "embed"),
    ]
    assert none_left == {}
    assert [(m.name, m.id) for m in some] == [("small", "llama3.2:3b")]
    assert left_out.keys() == {"gone", "what"}


def test_a_models_cid_is_what_its_peer_says_of_it_and_nothing_that_changes_by_the_hour() -> None:
    model = UpstreamModel("m", "org/M", "generate", PEER, "vllm", created=1)

    assert model.cid == UpstreamModel("other", "org/M", "generate", PEER, "vllm", 2).cid
    assert model.cid != UpstreamModel("m", "org/M", "generate", "12D3KooWOther", "vllm", 1).cid
    assert model.registration["digest"] is None
    assert (model.backend, model.precisions) == ("openai", ("upstream",))
    ModelOffer(model.name, model.cid, model.kind, model.precisions, backend=model.backend)


def test_an_upstreams_embeddings_serve_no_kind_that_runners_build_on_them() -> None:
    model = UpstreamModel("m", "org/M", "embed", PEER)

    assert serves(model, "embed")
    assert not serves(model, "classify")
    assert serves(model_of("m", "embed"), "classify")


@pytest.mark.parametrize("id_", ["", "a b", "a\nb", "x" * 129, "żółw", "\ud800"])
def test_a_name_that_cannot_be_offered_needs_an_alias(id_: str) -> None:
    models, left_out = choose([Listed(id_)], Wanted.of((), ()), PEER)

    assert models == []
    assert "NAME=ID" in left_out[id_]


def test_an_alias_makes_a_name_that_cannot_be_offered_usable() -> None:
    models, _ = choose([Listed("my model")], Wanted.of(("mine=my model",), ()), PEER)

    assert [(m.name, m.id) for m in models] == [("mine", "my model")]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"data": [{}]}', b'{"data": ["x"]}'])
def test_what_is_no_list_of_models_is_broken(body: bytes) -> None:
    assert code_of(lambda: decode_listing(body)) == BROKEN


def test_a_server_without_models_lists_none() -> None:
    assert decode_listing(b'{"object": "list", "data": null}') == []


# Statuses


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, REFUSED),
        (413, REFUSED),
        (422, REFUSED),
        (401, "upstream-unauthorised"),
        (403, "upstream-unauthorised"),
        (404, "upstream-missing"),
        (429, UNAVAILABLE),
        (500, UNAVAILABLE),
        (503, UNAVAILABLE),
        (504, TIMEOUT),
        (302, BROKEN),
        (418, BROKEN),
    ],
)
def test_a_status_becomes_a_code(status: int, code: str) -> None:
    assert of_status(status, "models", b"").code == code


@pytest.mark.parametrize(
    "told", [{"code": "context_length_exceeded"}, {"type": "exceed_context_size_error"}]
)
def test_a_prompt_that_is_too_long_has_the_code_that_runners_give_it(told: dict[str, str]) -> None:
    body = json.dumps({"error": {"message": "8 tokens too many", **told}}).encode()

    assert of_status(400, "completions", body).code == generate.TOO_LONG


def test_a_refusals_words_are_told_to_the_submitter_and_not_reported() -> None:
    body = b'{"error": {"message": "bad prompt: my secret, key sk-0123456789abcdef0123456789"}}'

    failed = of_status(400, "completions", body)

    assert "my secret" in failed.message
    assert "sk-0123" not in failed.message
    assert failed.exceptions
    assert all("secret" not in each.value for each in failed.exceptions)
    assert failed.exceptions[-1].frames, "so that equal refusals are one fault"
