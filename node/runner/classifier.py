"""What ``classify`` jobs ask of a text engine: by labels that they bring, or by a model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from node.runner.embedder import Asked
from node.runner.kinds import BadInputError, BadOutputError
from node.runner.kinds.classify import PLACE, decode_input, encode_output

if TYPE_CHECKING:
    from numpy.typing import NDArray


def by_labels(content: bytes) -> Asked:
    """Have texts and labels embedded, and compare them; raises ``BadInputError``."""
    texts, told = decode_input(content)
    labels: tuple[str, ...] = told.get("labels", ())
    if not labels:
        raise BadInputError(
            "labels are missing: this model has none of its own",
            hint="name what texts may be about: --labels sport,politics",
            parameter="labels",
        )

    def answer(vectors: NDArray[np.float32]) -> bytes:
        directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = directions[: len(texts)] @ directions[len(texts) :].T
        return encode_output(labels, softmax(cosines / np.float32(told["temperature"])))

    sentences = [told["template"].replace(PLACE, label) for label in labels]
    return Asked([*texts, *sentences], len(texts), answer)


def by_head(labels: tuple[str, ...]) -> Callable[[bytes], Asked]:
    """Return how to read a job for a model that computes a number for each of its ``labels``."""

    def read(content: bytes) -> Asked:
        texts, told = decode_input(content)
        if "labels" in told:
            raise BadInputError(
                f"labels are not for this model, which has its own: {', '.join(labels)[:200]}",
                hint="leave them out, or take a model of kind embed",
                parameter="labels",
            )
        return Asked(texts, len(texts), lambda scores: encode_output(labels, softmax(scores)))

    return read


def softmax(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each row as positive numbers that add up to one; raises ``BadOutputError``."""
    with np.errstate(all="ignore"):
        scores = numbers - numbers.max(axis=1, keepdims=True)
        np.exp(scores, out=scores)  # in place: there may be a hundred megabytes of them
        scores /= scores.sum(axis=1, keepdims=True)
    if not np.isfinite(scores).all():
        item = int(np.argmin(np.isfinite(scores).all(axis=1)))
        raise BadOutputError(f"the scores of item {item} are not finite", item=item)
    return scores
