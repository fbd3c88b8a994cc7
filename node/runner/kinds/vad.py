"""The kind ``vad``: recordings in, out comes where in them somebody speaks.

An item is a WAV file: 16-bit PCM, one or two channels, 8 or 16 kHz. Input is a job input of byte
strings (see ``node.runner.items``). Output is a flat DAG-CBOR list with one byte string an item:
pairs of little-endian 32-bit numbers, where a segment of speech begins and where it ends, in
milliseconds. Frames are 32 ms, so no moment is more exact than that.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import cbor2

from node.manifest import only_packaged
from node.runner.comparison import compare_rows
from node.runner.items import InputCodec, listed
from node.runner.kinds import (
    NO_PARAMETERS,
    Difference,
    Engine,
    EngineSettings,
    Items,
    Needs,
)
from node.runner.parameters import Parameter
from node.runner.speech import Rules, Segment, segments
from node.runner.wav import Recording, read_wav
from protocols.errors import RemoteProtocolError
from protocols.limits import MAX_JOB_INPUT_BYTES, MAX_VAD_ITEM_BYTES, MAX_VAD_ITEMS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from node.model_source import Description, ModelSource
    from node.runner.backends.silero import SileroVad
    from node.runner.files import ModelFiles

ITEM_TYPE: Final = bytes
IS_ARRAY: Final = True
EXAMPLE: Final = "vad --model silero-vad meeting.wav interview.wav"
PARAMETERS: Final = (
    Parameter(
        "threshold",
        float,
        "How likely a frame of 32 ms must be speech to begin a segment.",
        default=0.5,
        least=0.01,
        most=0.99,
    ),
    Parameter(
        "min_speech_ms",
        int,
        "Segments no longer than this are left out.",
        default=250,
        least=0,
        most=60_000,
    ),
    Parameter(
        "min_silence_ms",
        int,
        "How long it must be quiet for a segment to end.",
        default=100,
        least=0,
        most=60_000,
    ),
    Parameter(
        "pad_ms", int, "Added before and after each segment.", default=30, least=0, most=10_000
    ),
)
TOLERANCES: Final = {"fp32": 0.032}  # seconds: one frame
READER: Final = None
COUNT_TOKENS: Final = None
MODEL_KINDS: Final = ("vad",)
PRECISIONS: Final = ("fp32",)
IS_ACCELERATED: Final = False
NEEDS: Final = Needs("worker", ("torch", "safetensors"))

CODEC: Final = InputCodec(
    ITEM_TYPE, PARAMETERS, MAX_VAD_ITEMS, MAX_VAD_ITEM_BYTES, MAX_JOB_INPUT_BYTES
)
PAIR: Final = struct.Struct("<II")
SAMPLES_A_MS: Final = 16
LEAST_BYTES_A_MS: Final = 16  # of a recording: one channel at 8 kHz
FRAME_MS: Final = 32


# The submitter's side


def encode_input(items: Items, parameters: Mapping[str, Any] = NO_PARAMETERS) -> bytes:
    """Return a job's input; raises ``BadInputError``, also for what is no recording."""
    content = CODEC.encode(items, parameters)
    for index, item in enumerate(items):
        assert isinstance(item, bytes)
        read_wav(item, index)
    return content


def count(content: bytes) -> int:
    """Return how many files an input has."""
    return CODEC.count(content)


def decode_input(content: bytes) -> tuple[list[Recording], dict[str, Any]]:
    """Return recordings and parameters of an input; raises ``BadInputError`` unless
    ``encode_input`` could have made it.
    """
    items, parameters = CODEC.decode(content)
    return [read_wav(item, index) for index, item in enumerate(items)], parameters


def encode_output(found: list[list[Segment]]) -> bytes:
    """Return the output of one list of segments an item."""
    return cbor2.dumps([b"".join(PAIR.pack(*each) for each in item) for item in found])


def decode_output(output: bytes) -> list[list[Segment]]:
    """Return the segments of each item; raises ``RemoteProtocolError`` unless they are in order and
    do not overlap.
    """
    try:
        return [_segments_of(item) for item in listed(output, MAX_VAD_ITEMS)]
    except (ValueError, TypeError, struct.error) as error:
        raise RemoteProtocolError(
            "an output of vad is not a DAG-CBOR list of segments, in order"
        ) from error


def check(output: bytes, content: bytes) -> None:
    """Raise ``RemoteProtocolError`` unless an output says of each file of an input where in it, and
    not behind its end, somebody speaks.
    """
    found, files = decode_output(output), CODEC.decode(content)[0]
    if len(found) != len(files):
        raise RemoteProtocolError(f"an output of vad is about {len(found)} files of {len(files)}")
    for index, (spoken, file) in enumerate(zip(found, files, strict=True)):
        most_ms = len(file) // LEAST_BYTES_A_MS + 1
        if len(spoken) > most_ms // FRAME_MS + 1 or (spoken and spoken[-1].end_ms > most_ms):
            raise RemoteProtocolError(f"an output of vad goes on behind the end of item {index}")


def rows(output: bytes) -> Iterator[dict[str, Any]]:
    """Yield one JSON object a recording: ``{"index", "segments": [{"start_s", "end_s"}]}``."""
    for index, found in enumerate(decode_output(output)):
        told = [{"start_s": start / 1_000, "end_s": end / 1_000} for start, end in found]
        yield {"index": index, "segments": told}


def array(output: bytes) -> NDArray[np.float32]:
    """Return all segments as rows of item, start and end in seconds; raises
    ``RemoteProtocolError``.
    """
    import numpy as np

    found = enumerate(decode_output(output))
    told = [(index, s / 1_000, e / 1_000) for index, item in found for s, e in item]
    return np.array(told, dtype=np.float32).reshape(-1, 3)


def _segments_of(item: Any) -> list[Segment]:
    if not isinstance(item, bytes):
        raise TypeError("no bytes")
    found = [Segment(*pair) for pair in PAIR.iter_unpack(item)]
    moments = [moment for each in found for moment in each]
    if moments != sorted(moments):
        raise ValueError("not in order")
    return found


def compare(output: bytes, other: bytes, tolerance: float) -> Difference:
    """Return the largest difference of a number, where all else is the same."""
    return compare_rows(rows(output), rows(other), tolerance)


# The node's side


def describe(source: ModelSource) -> Description:
    """Raise ``ModelError``: the model comes in a package."""
    raise only_packaged("vad", "silero-vad")


# The runner's side


def load(files: ModelFiles, settings: EngineSettings) -> Engine:
    """Return an engine that holds the model of ``files``; raises ``ModelError``."""
    from node.runner.backends.silero import load_silero
    from node.runner.turns_engine import TurnsEngine

    model = load_silero(files, settings)
    model.warm_up()

    def begin(content: bytes) -> tuple[int, Generator[int, None, bytes]]:
        recordings, told = decode_input(content)
        return len(recordings), _steps(model, recordings, Rules(**told))

    return TurnsEngine(model.execution, begin)


def _steps(
    model: SileroVad, recordings: list[Recording], rules: Rules
) -> Generator[int, None, bytes]:
    found: list[list[Segment]] = []
    for index, recording in enumerate(recordings):
        likely: list[float] = []
        for block in model.likelihoods(recording, index):
            likely += block
            yield index
        total_ms = -(-recording.length // SAMPLES_A_MS)
        found.append(segments(likely, model.frame_ms, total_ms, rules))
    return encode_output(found)
