from __future__ import annotations

import pytest

from node.asking import check_asked
from node.errors import InputError
from node.runner.kinds import BadInputError, classify, embed
from peer.directory import Directory
from tests.support.jobs import MODEL, JobMesh
from tests.support.runners import model_of


def directory(*kinds: str) -> Directory:
    """What a submitter knows of a mesh where a worker for each of ``kinds`` has the model."""
    mesh = JobMesh()
    submitter = mesh.add("submitter")
    for kind in kinds:
        mesh.add("worker", model=model_of(MODEL, kind))
    mesh.introduce()
    return submitter.directory


async def test_classify_on_an_embedder_needs_labels() -> None:
    with pytest.raises(InputError, match="labels are missing") as caught:
        check_asked(directory("embed"), "classify", MODEL, classify.encode_input(["a text"]))

    assert caught.value.hint == "--labels a,b"


async def test_what_is_there_or_may_not_be_needed_is_not_asked_for() -> None:
    unlabelled = classify.encode_input(["a text"] * 500)
    labelled = classify.encode_input(["a text"] * 500, {"labels": ("red", "blue")})

    check_asked(directory("embed"), "classify", MODEL, labelled)
    check_asked(directory("embed", "classify"), "classify", MODEL, unlabelled)
    check_asked(directory("embed"), "classify", "another", unlabelled)


async def test_a_model_that_is_for_something_else_is_refused_with_what_it_is_for() -> None:
    with pytest.raises(InputError, match="is for generate, not for embed") as caught:
        check_asked(directory("generate"), "embed", MODEL, embed.encode_input(["a text"]))

    assert caught.value.hint == f"covey run generate --model {MODEL}"


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x81\x01", b"\x9f", b"\x81\x44\x00"])
async def test_an_input_that_is_none_is_refused(content: bytes) -> None:
    with pytest.raises(BadInputError, match="begin with its parameters"):
        check_asked(directory("embed"), "classify", MODEL, content)
