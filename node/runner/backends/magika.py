"""The magika model by onnxruntime: which of 214 types of file some bytes are.

The model reads 1,024 bytes of a file's beginning and of its end, blanks at the edges left out; its
configuration says how sure it must be for each type, and a second table gives MIME types. What is
too short to be told apart is text or unknown by whether it is UTF-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Final, cast

import msgspec
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from node.manifest import ModelError
from node.runner.files import ModelFiles
from node.runner.kinds import EngineSettings, Facts
from node.runner.kinds.detect import Detected
from protocols.limits import DETECT_END_BYTES

FOLDER: Final = "models/standard_v3_3"
TYPES: Final = "config/content_types_kb.min.json"
EMPTY: Final = "empty"
TEXT: Final = "txt"
UNKNOWN: Final = "unknown"
SURE: Final = 1.0


class _Config(msgspec.Struct, frozen=True):
    beg_size: int
    mid_size: int
    end_size: int
    block_size: int
    padding_token: int
    min_file_size_for_dl: int
    medium_confidence_threshold: float
    target_labels_space: tuple[str, ...]
    thresholds: dict[str, float]
    overwrite_map: dict[str, str]
    use_inputs_at_offsets: bool

    @property
    def is_known(self) -> bool:
        """Whether it looks at a file as this code does."""
        return (
            self.mid_size == 0
            and not self.use_inputs_at_offsets
            and self.block_size == DETECT_END_BYTES
            and 0 < self.min_file_size_for_dl <= self.beg_size <= self.block_size
            and 0 < self.end_size <= self.block_size
        )


class _ContentType(msgspec.Struct, frozen=True):
    mime_type: str | None = None
    is_text: bool = False


def load_magika(files: ModelFiles, settings: EngineSettings) -> MagikaModel:
    """Return the model in ``files``; raises ``ModelError``."""
    config = _parsed(files, f"{FOLDER}/config.min.json", _Config)
    if not config.is_known:
        raise ModelError("config.min.json describes another kind of model", code="model-config")
    types = _parsed(files, TYPES, dict[str, _ContentType])
    options = cast("Any", onnxruntime).SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    onnxruntime.disable_telemetry_events()
    # from the bytes that were checked, so there is no file beside it that it could ask for
    session = onnxruntime.InferenceSession(
        files.read(f"{FOLDER}/model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    return MagikaModel(session, config, types, settings.threads)


class MagikaModel:
    """A loaded model; computes on the CPU."""

    def __init__(
        self, session: Any, config: _Config, types: Mapping[str, _ContentType], threads: int
    ) -> None:
        self._session = session
        self._config = config
        self._types = types
        self.execution: Facts = {
            "engine": f"onnxruntime {version('onnxruntime')}",
            "dtype": "float32",
            "device": "cpu",
            "threads": threads,
        }

    def detect(self, items: list[bytes]) -> list[Detected]:
        """Return what each item is, in order; a score may be NaN."""
        enough = [place for place, item in enumerate(items) if self._is_enough(item)]
        found = {place: self._of_few_bytes(item) for place, item in enumerate(items)}
        if enough:
            scores = self._scores([items[place] for place in enough])
            found |= dict(zip(enough, map(self._of_scores, scores), strict=True))
        return [found[place] for place in range(len(items))]

    def _scores(self, items: list[bytes]) -> NDArray[np.float32]:
        features = np.stack([self._features(item) for item in items])
        return self._session.run(["target_label"], {"bytes": features})[0]

    def _is_enough(self, item: bytes) -> bool:
        least = self._config.min_file_size_for_dl
        return len(item) >= least and len(self._beginning(item)) >= least

    def _beginning(self, item: bytes) -> bytes:
        return item[: self._config.block_size].lstrip()[: self._config.beg_size]

    def _features(self, item: bytes) -> NDArray[np.int32]:
        config = self._config
        features = np.full(config.beg_size + config.end_size, config.padding_token, dtype=np.int32)
        beginning = self._beginning(item)
        end = item[-config.block_size :].rstrip()[-config.end_size :]
        features[: len(beginning)] = np.frombuffer(beginning, np.uint8)
        features[len(features) - len(end) :] = np.frombuffer(end, np.uint8)
        return features

    def _of_few_bytes(self, item: bytes) -> Detected:
        if not item:
            return self._told(EMPTY, SURE)
        try:
            item[: self._config.block_size].decode()
        except UnicodeDecodeError:
            return self._told(UNKNOWN, SURE)
        return self._told(TEXT, SURE)

    def _of_scores(self, scores: NDArray[np.float32]) -> Detected:
        """Return the likeliest type, or how its content looks where that is not sure enough."""
        config = self._config
        place = int(np.argmax(scores))
        guessed, score = config.target_labels_space[place], float(scores[place])
        label = config.overwrite_map.get(guessed, guessed)
        if score >= config.thresholds.get(guessed, config.medium_confidence_threshold):
            return self._told(label, score)
        is_text = label in self._types and self._types[label].is_text
        return self._told(TEXT if is_text else UNKNOWN, score)

    def _told(self, label: str, score: float) -> Detected:
        known = self._types.get(label)
        mime = known.mime_type if known else None
        return Detected(label, mime or "application/octet-stream", min(score, 1.0))


def _parsed(files: ModelFiles, name: str, shape: Any) -> Any:
    try:
        return msgspec.json.decode(files.read(name), type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, KeyError) as error:
        told = f"{name} is not what magika brings: {error}"
        raise ModelError(told, code="model-config") from error
