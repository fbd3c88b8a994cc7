"""The kind ``embed``: texts in, one vector each out, in the order of the texts.

Input is DAG-CBOR: a list of text strings. Output is DAG-CBOR: ``["f32", rows, dimension, bytes]``,
the vectors as little-endian float32, row after row. Vectors of one text may differ by 2e-7 with the
batch that it was computed in: compare with a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import cbor2

from node.runner.floats import finite_floats
from node.runner.items import InputCodec
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
    MAX_EMBED_INPUT_BYTES,
    MAX_EMBED_ITEMS,
    MAX_EMBED_TEXT_BYTES,
    MAX_JOB_OUTPUT_BYTES,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.model_source import Description, ModelSource
    from node.runner.files import ModelFiles

ITEM_TYPE: Final = str
IS_ARRAY: Final = True
EXAMPLE: Final = "embed --model all-minilm-l6-v2 --input sentences.txt --output vectors.npy"
PARAMETERS: Final[tuple[Parameter, ...]] = ()
MODEL_KINDS: Final = ("embed",)
PRECISIONS: Final = ("fp32", "bf16")
IS_ACCELERATED: Final = True
NEEDS: Final = TORCH
READER: Final = None
COUNT_TOKENS: Final = None
TOLERANCES: Final = {"fp32": 1e-5, "bf16": 2e-2}  # decision 0012: measured 4e-7 and 3e-3

CODEC: Final = InputCodec(
    ITEM_TYPE, PARAMETERS, MAX_EMBED_ITEMS, MAX_EMBED_TEXT_BYTES, MAX_EMBED_INPUT_BYTES
)
DTYPE: Final = "f32"
WIDTH_BYTES: Final = 4
HEAD_BYTES: Final = 32  # more than what stands before the vectors
NUMPY_BYTES: Final = 1 << 20  # from here on numpy is worth its import
COMPARED_ROWS: Final = 1_024  # at once, as float64: 3 MB of MiniLM's


# The submitter's side


def encode_input(items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return a job's input; raises ``BadInputError`` for what no worker would take."""
    return CODEC.encode(items, parameters)


def count(content: bytes) -> int:
    """Return how many texts an input has."""
    return CODEC.count(content)


def decode_input(content: bytes) -> list[str]:
    """Return the items of an input; raises ``BadInputError`` unless ``encode_input`` could have
    made it.
    """
    return CODEC.decode(content)[0]


def unpack(output: bytes) -> tuple[int, int, bytes]:
    """Return rows, dimension and the vectors of an output as little-endian float32; raises
    ``RemoteProtocolError`` unless it is a whole, finite one. Unlike ``decode_output`` it does not
    load numpy, which a daemon can do without.
    """
    count, dimension, content = _taken_apart(output)
    try:
        for _ in finite_floats(content):
            pass
    except ValueError as error:
        raise _not_finite() from error
    return count, dimension, content


def is_too_much(items: int, dimension: int) -> bool:
    """Whether so many vectors are more than a job may have for output."""
    return items * dimension * WIDTH_BYTES + HEAD_BYTES > MAX_JOB_OUTPUT_BYTES


def check_output(items: int, dimension: int) -> None:
    """Raise ``BadInputError`` for more vectors than a job may have for output: nothing of them
    would be kept.
    """
    if is_too_much(items, dimension):
        most = (MAX_JOB_OUTPUT_BYTES - HEAD_BYTES) // (dimension * WIDTH_BYTES)
        raise BadInputError(
            f"{items} vectors of {dimension} numbers are over the limit of "
            f"{MAX_JOB_OUTPUT_BYTES} bytes",
            code="output-too-big",
            hint=f"give at most {most} texts to a job",
        )


def check(output: bytes, content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output is a finite vector for each text of an
    input.
    """
    wanted = count(content)
    rows = (unpack if len(output) < NUMPY_BYTES else decode_output)(output)[0]
    if rows != wanted:
        raise RemoteProtocolError(f"an output of embed has {rows} vectors for {wanted} texts")


def encode_output(vectors: NDArray[np.float32]) -> bytes:
    """Return the output of vectors in little-endian float32."""
    rows, dimension = vectors.shape
    return cbor2.dumps([DTYPE, rows, dimension, vectors.tobytes()])


def decode_output(output: bytes) -> tuple[int, int, NDArray[np.float32]]:
    """Return rows, dimension and the vectors of an output; raises ``RemoteProtocolError`` unless it
    is a whole, finite one.
    """
    import numpy as np

    count, dimension, content = _taken_apart(output)
    vectors = np.frombuffer(content, dtype="<f4").reshape(count, dimension)
    if not np.isfinite(vectors).all():
        raise _not_finite()
    return count, dimension, vectors.astype(np.float32, copy=False)


def array(output: bytes) -> NDArray[np.float32]:
    """Return the vectors of an output, a row a text; raises ``RemoteProtocolError``."""
    return decode_output(output)[2]


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a row of an output: ``{"index", "embedding"}``."""
    for index, vector in enumerate(array(output)):
        yield {"index": index, "embedding": vector.tolist()}


def compare(output: bytes, other: bytes, tolerance: float) -> Difference:
    """Return the largest difference of a component, of vectors scaled so that the longer one of a
    pair has length 1: at most 2, and 0 for a pair of zeros.
    """
    vectors, others = array(output), array(other)
    if vectors.shape != others.shape:
        return Difference(None, False, f"{vectors.shape} vectors against {others.shape}")
    amount, told = 0.0, ""
    for start in range(0, len(vectors), COMPARED_ROWS):
        end = start + COMPARED_ROWS
        apart = _apart(vectors[start:end], others[start:end])
        if not told and apart.max() > tolerance:
            told = f"they part at row {start + int((apart > tolerance).argmax())}"
        amount = max(amount, float(apart.max()))
    return Difference(amount, amount <= tolerance, told)


def _apart(vectors: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return for each row how far it is from the other's."""
    import numpy as np

    one, two = vectors.astype(np.float64), others.astype(np.float64)
    longer = np.maximum(np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1))
    return np.abs(one - two).max(axis=1) / np.where(longer > 0, longer, 1.0)


def _taken_apart(output: bytes) -> tuple[int, int, bytes]:
    try:
        dtype, count, dimension, content = cbor2.loads(output, max_depth=1, allow_indefinite=False)
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise RemoteProtocolError("an output of embed is not a DAG-CBOR list of four") from error
    if dtype != DTYPE or not (
        _is_size(count) and _is_size(dimension) and isinstance(content, bytes)
    ):
        raise RemoteProtocolError(
            "an output of embed does not begin with its dtype, rows and dimension"
        )
    if len(content) != count * dimension * 4:
        raise RemoteProtocolError(
            f"an output of embed has {len(content)} bytes for {count} rows of {dimension}"
        )
    return count, dimension, content


def _not_finite() -> RemoteProtocolError:
    return RemoteProtocolError("an output of embed holds numbers that are not finite")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


# The node's side


def describe(source: ModelSource) -> Description:
    """Say what makes the sentence embedder in a folder; raises ``ModelError``."""
    from node.runner.backends.bert import describe_embedder

    return describe_embedder(source)


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that holds the model of ``files``; raises ``ModelError``."""
    from node.runner.backends.torch_bert import load_encoder
    from node.runner.embedder import EmbedEngine

    engine = EmbedEngine(load_encoder(files, settings), settings.batch_tokens)
    engine.warm_up()
    return engine
