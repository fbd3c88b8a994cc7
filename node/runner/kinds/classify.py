"""The kind ``classify``: texts in, out comes which label fits each best, and every label's score.

On a model of kind ``embed`` the job brings its labels: each text gets the label whose meaning, as a
sentence, is nearest to its own. Scores are the softmax of cosines divided by ``temperature``; they
add up to one, and tell apart only the labels that were given. On a model of kind ``classify`` the
labels are the model's own, and the job brings none.

Input is a job input of texts (see ``node.runner.items``). Output is a flat DAG-CBOR list: the
labels, and last a byte string with the scores as little-endian float32, one row of them a text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import cbor2

from node.runner.comparison import compare_rows
from node.runner.floats import finite_floats
from node.runner.items import InputCodec, listed
from node.runner.kinds import (
    NO_PARAMETERS,
    TORCH,
    BadInputError,
    Difference,
    Engine,
    EngineSettings,
    Items,
)
from node.runner.parameters import Parameter
from protocols.errors import RemoteProtocolError
from protocols.limits import (
    MAX_CLASSIFY_ITEMS,
    MAX_EMBED_INPUT_BYTES,
    MAX_EMBED_TEXT_BYTES,
    MAX_LABELS,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.model_source import Description, ModelSource
    from node.runner.files import ModelFiles

PLACE: Final = "{}"
MOST: Final = 1.001  # a score, as it may be rounded

ITEM_TYPE: Final = str
IS_ARRAY: Final = True
EXAMPLE: Final = "classify --model all-minilm-l6-v2 --labels sport,politics --input headlines.txt"
PARAMETERS: Final = (
    Parameter(
        "labels",
        tuple,
        "What texts may be about, with commas; needed unless the model has its own.",
        least=2,
        most=MAX_LABELS,
        separator=",",
        needed_on=("embed",),
    ),
    Parameter(
        "template",
        str,
        "The sentence that a label is compared as, with {} for the label.",
        # of 25 sentences on five subjects MiniLM places 24 with it and without; with it the scores
        # are nearer to how often it is right
        default="This text is about {}.",
        least=2,
        most=256,
    ),
    Parameter(
        "temperature",
        float,
        "What cosines are divided by: less makes scores more certain, never other labels.",
        # there the mean score of the best label is .91, and .96 of them are right; at .02 .94
        default=0.03,
        least=0.001,
        most=10.0,
    ),
)
TOLERANCES: Final = {"fp32": 1e-3, "bf16": 0.1}  # softmax divides what embeddings are apart by 0.03
READER: Final = None
COUNT_TOKENS: Final = None
MODEL_KINDS: Final = ("classify", "embed")
PRECISIONS: Final = ("fp32", "bf16")
IS_ACCELERATED: Final = True
NEEDS: Final = TORCH

CODEC: Final = InputCodec(
    ITEM_TYPE, PARAMETERS, MAX_CLASSIFY_ITEMS, MAX_EMBED_TEXT_BYTES, MAX_EMBED_INPUT_BYTES
)


# The submitter's side


def encode_input(items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return a job's input; raises ``BadInputError``, also for labels or a template that can't
    be.
    """
    content = CODEC.encode(items, parameters)
    decode_input(content)
    return content


def count(content: bytes) -> int:
    """Return how many texts an input has."""
    return CODEC.count(content)


def decode_input(content: bytes) -> tuple[list[str], dict[str, Any]]:
    """Return texts and parameters of an input; raises ``BadInputError`` unless ``encode_input``
    could have made it.
    """
    items, told = CODEC.decode(content)
    labels: tuple[str, ...] = told.get("labels", ())
    for label in labels:
        if not label.strip():
            raise BadInputError("labels are words, and one is empty", parameter="labels")
        if labels.count(label) > 1:
            raise BadInputError(f"labels has {label!r} twice", parameter="labels")
    if told["template"].count(PLACE) != 1:
        raise BadInputError("template has {} once, for the label", parameter="template")
    return items, told


def encode_output(labels: Sequence[str], scores: NDArray[np.float32]) -> bytes:
    """Return the output of a score for each text and label."""
    return cbor2.dumps([*labels, scores.astype("<f4").tobytes()])


def decode_output(output: bytes) -> tuple[list[str], NDArray[np.float32]]:
    """Return the labels, and a row of their scores for each text; raises
    ``RemoteProtocolError``.
    """
    import numpy as np

    labels, content = _taken_apart(output)
    scores = np.frombuffer(content, dtype="<f4").reshape(-1, len(labels))
    return labels, scores.astype(np.float32, copy=False)


def check(output: bytes, content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output scores each text of an input, by the labels
    that it brings if it brings any.
    """
    texts, told = decode_input(content)
    labels, scores = _taken_apart(output)
    wanted = list(told.get("labels", labels))
    if labels != wanted:
        raise RemoteProtocolError("an output of classify has other labels than were given")
    if len(scores) != 4 * len(texts) * len(labels):
        raise RemoteProtocolError(
            f"an output of classify has {len(scores)} bytes of scores"
            f" for {len(texts)} texts and {len(labels)} labels"
        )


def _taken_apart(output: bytes) -> tuple[list[str], bytes]:
    """Return the labels, and the scores as bytes."""
    try:
        *labels, content = listed(output, MAX_LABELS + 1)
    except ValueError as error:
        raise RemoteProtocolError("an output of classify is not a DAG-CBOR list") from error
    is_labelled = labels and all(isinstance(label, str) for label in labels)
    if not is_labelled or not isinstance(content, bytes) or len(content) % (4 * len(labels)):
        raise RemoteProtocolError("an output of classify is not labels and then scores of each")
    try:
        are_scores = all(min(some) >= 0 and max(some) <= MOST for some in finite_floats(content))
    except ValueError:
        are_scores = False
    if not are_scores:
        raise RemoteProtocolError("an output of classify holds scores that are none")
    return labels, content


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a text: ``{"index", "label", "scores": {label: score}}``, the best
    first.
    """
    labels, scores = decode_output(output)
    for index, row in enumerate(scores.tolist()):
        ranked = sorted(zip(labels, row, strict=True), key=lambda pair: -pair[1])
        yield {"index": index, "label": ranked[0][0], "scores": dict(ranked)}


def array(output: bytes) -> NDArray[np.float32]:
    """Return the scores, a row a text and a column a label; raises ``RemoteProtocolError``."""
    return decode_output(output)[1]


def compare(output: bytes, other: bytes, tolerance: float) -> Difference:
    """Return the largest difference of a score; the order of labels nearly as likely may differ."""
    (labels, scores), (others, their_scores) = decode_output(output), decode_output(other)
    mine = [labels, *scores.tolist()]
    return compare_rows(mine, [others, *their_scores.tolist()], tolerance)


# The node's side


def describe(source: ModelSource) -> Description:
    """Say what makes the text classifier in a folder; raises ``ModelError``."""
    from node.runner.backends.bert_classifier import describe_classifier

    return describe_classifier(source)


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that holds the model of ``files``; raises ``ModelError``."""
    from node.runner.classifier import by_head, by_labels
    from node.runner.embedder import EmbedEngine

    if files.manifest.kind == "embed":
        from node.runner.backends.torch_bert import load_encoder

        engine = EmbedEngine(load_encoder(files, settings), settings.batch_tokens, read=by_labels)
    else:
        from node.runner.backends.torch_classifier import load_classifier

        model = load_classifier(files, settings)
        engine = EmbedEngine(model, settings.batch_tokens, read=by_head(model.labels))
    engine.warm_up()
    return engine
