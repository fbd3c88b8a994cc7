"""The kind ``embed``: texts in, one vector each out, in the order of the texts.

Input is DAG-CBOR: a list of text strings. Output is DAG-CBOR: ``["f32", rows, dimension, bytes]``,
the vectors as little-endian float32, row after row. Vectors of one text may differ by 2e-7 with the
batch that it was computed in: compare with a tolerance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import cbor2

from node.runner.kinds import BadInputError, Engine, EngineSettings
from protocols.dagcbor import REFUSED_TAGS
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_EMBED_INPUT_BYTES, MAX_EMBED_ITEMS, MAX_EMBED_TEXT_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.runner.files import ModelFiles

DTYPE: Final = "f32"


# The submitter's side


def encode_input(items: Sequence[str]) -> bytes:
    """Return a job's input; raises ``BadInputError`` for what no worker would take."""
    try:
        content = cbor2.dumps(_checked(list(items)))
    except UnicodeEncodeError as error:
        raise BadInputError("an item holds a lone surrogate, which is not text") from error
    if len(content) > MAX_EMBED_INPUT_BYTES:
        raise _too_large(len(content))
    return content


def decode_input(content: bytes) -> list[str]:
    """Return the items of an input; raises ``BadInputError`` unless ``encode_input`` could have
    made it.
    """
    if len(content) > MAX_EMBED_INPUT_BYTES:
        raise _too_large(len(content))
    if _list_length(content) > MAX_EMBED_ITEMS:
        raise _too_many()
    try:
        # a flat list whose length was looked at first: nothing can grow beyond the size of its
        # bytes
        items = _checked(
            cbor2.loads(
                content, max_depth=1, allow_indefinite=False, semantic_decoders=REFUSED_TAGS
            )
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError) as error:
        raise BadInputError("the input is not a DAG-CBOR list of texts") from error
    if len(content) != _encoded_bytes(items):
        raise BadInputError("the input is not in the one form that DAG-CBOR allows")
    return items


def decode_output(output: bytes) -> tuple[int, int, NDArray[np.float32]]:
    """Return rows, dimension and the vectors of an output; raises ``RemoteProtocolError`` unless it
    is a whole, finite one.
    """
    import numpy as np

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
    vectors = np.frombuffer(content, dtype="<f4").reshape(count, dimension)
    if not np.isfinite(vectors).all():
        raise RemoteProtocolError("an output of embed holds numbers that are not finite")
    return count, dimension, vectors.astype(np.float32, copy=False)


def array(output: bytes) -> NDArray[np.float32]:
    """Return the vectors of an output, a row a text; raises ``RemoteProtocolError``."""
    return decode_output(output)[2]


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a row of an output: ``{"index", "embedding"}``."""
    for index, vector in enumerate(array(output)):
        yield {"index": index, "embedding": vector.tolist()}


def _checked(items: Any) -> list[str]:
    if not isinstance(items, list) or not items:
        raise BadInputError("the input holds no texts", hint="give at least one item")
    if len(cast("list[Any]", items)) > MAX_EMBED_ITEMS:
        raise _too_many()
    for index, item in enumerate(cast("list[Any]", items)):
        if not isinstance(item, str):
            raise BadInputError(f"item {index} is not a text", item=index)
        if len(item) * 4 > MAX_EMBED_TEXT_BYTES and len(item.encode()) > MAX_EMBED_TEXT_BYTES:
            raise BadInputError(
                f"item {index} is larger than {MAX_EMBED_TEXT_BYTES} bytes",
                item=index,
                hint="cut it into several items",
            )
    return cast("list[str]", items)


def _encoded_bytes(items: list[str]) -> int:
    """Return the size of the one form of these texts. Without tags and indefinite lengths, any
    other form is larger; to encode large texts and compare takes twice the time of decoding them.
    """
    sizes = [len(item) if item.isascii() else len(item.encode()) for item in items]
    return sum(sizes) + sum(map(_head_bytes, sizes)) + _head_bytes(len(items))


def _head_bytes(value: int) -> int:
    """Return how many bytes the shortest head with this length takes."""
    return 1 if value < 24 else 2 if value < 1 << 8 else 3 if value < 1 << 16 else 5


def _list_length(content: bytes) -> int:
    """Return the length that the list at the beginning of ``content`` claims."""
    if not content or content[0] >> 5 != 4 or content[0] & 31 > 27:
        raise BadInputError("the input is not a DAG-CBOR list of texts")
    short = content[0] & 31
    return short if short < 24 else int.from_bytes(content[1 : 1 + (1 << (short - 24))], "big")


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _too_many() -> BadInputError:
    return BadInputError(
        f"the input holds more than {MAX_EMBED_ITEMS} items", hint="submit it as several jobs"
    )


def _too_large(size_bytes: int) -> BadInputError:
    return BadInputError(
        f"the input of {size_bytes} bytes is over the limit of {MAX_EMBED_INPUT_BYTES}",
        hint="submit it as several jobs",
    )


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that holds the model of ``files``; raises ``ModelError``."""
    from node.runner.backends.torch_bert import load_encoder
    from node.runner.embedder import EmbedEngine

    engine = EmbedEngine(load_encoder(files, settings), settings.batch_tokens)
    engine.warm_up()
    return engine
