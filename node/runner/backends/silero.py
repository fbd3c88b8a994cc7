"""The silero voice activity detector in plain torch, on its 16 kHz weights.

Each frame of 512 samples, with the 64 before it, becomes a short-time spectrum, four convolutions
make 128 features of that, and a recurrent cell that remembers what it heard says how likely the
frame is speech. The frames of a block go through everything but the cell at once.

Written out, since the package's own ways to compute it are a TorchScript archive, which holds code,
and ONNX; the tests compare it with the latter. Only the weights of the safetensors file are used:
it has the shape of the ONNX file's network and another training (docs/decisions/0011).
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor, nn

from node.manifest import ModelError
from node.runner.backends.weights import Weights, read_weights
from node.runner.files import ModelFiles
from node.runner.kinds import BadOutputError, EngineSettings, Facts

if TYPE_CHECKING:
    from node.runner.wav import Recording

FRAME: Final = 512  # samples, 32 ms
CONTEXT: Final = 64  # samples before a frame that it is heard with
REFLECTED: Final = 64  # samples after it, from its own end backwards
WINDOW: Final = 256
HOP: Final = 128
BINS: Final = WINDOW // 2 + 1
STATE: Final = 128
LAYERS: Final = (
    ("conv1", BINS, 128, 1),
    ("conv2", 128, 64, 2),
    ("conv3", 64, 64, 2),
    ("conv4", 64, STATE, 1),
)
BLOCK_FRAMES: Final = 1_024  # half a minute of sound, about 0.1 s of work


def load_silero(files: ModelFiles, settings: EngineSettings) -> SileroVad:
    """Return the detector in ``files``; raises ``ModelError``."""
    if settings.precision != "fp32":
        raise ModelError(
            f"precision {settings.precision} is not fp32", code="precision-unavailable"
        )
    torch.set_num_threads(settings.threads)
    return SileroVad(
        Weights(read_weights(files), torch.float32, torch.device("cpu")), settings.threads
    )


class SileroVad:
    """A loaded detector; computes on the CPU."""

    frame_ms: Final = FRAME // 16

    def __init__(self, weights: Weights, threads: int) -> None:
        self._spectrum = weights.get("stft_conv.weight", 2 * BINS, 1, WINDOW)
        self._convolutions = [
            (weights.get(f"{name}.weight", out, into, 3), weights.get(f"{name}.bias", out), stride)
            for name, into, out, stride in LAYERS
        ]
        self._cell = _cell(weights)
        self._last = weights.get("final_conv.weight", 1, STATE, 1)[:, :, 0]
        self._bias = weights.get("final_conv.bias", 1)
        self.execution: Facts = {
            "engine": f"torch {version('torch')}",
            "dtype": "float32",
            "device": "cpu",
            "threads": threads,
        }

    def warm_up(self) -> None:
        """Compute something; raises ``BadOutputError`` when that is no number."""
        heard, _ = self._heard(torch.zeros(2, CONTEXT + FRAME), None)
        if not torch.isfinite(heard).all():
            raise BadOutputError("the model's first frame is not finite")

    def likelihoods(self, recording: Recording, index: int) -> Iterator[list[float]]:
        """Yield how likely each frame of item ``index`` is speech, a block at a time; raises
        ``BadOutputError`` when that is no number.
        """
        state: tuple[Tensor, Tensor] | None = None
        for start in range(0, recording.length, BLOCK_FRAMES * FRAME):
            last = min(BLOCK_FRAMES, -(-(recording.length - start) // FRAME))
            samples = recording.block(start - CONTEXT, start + last * FRAME)
            frames = torch.from_numpy(samples).unfold(0, CONTEXT + FRAME, FRAME)
            heard, state = self._heard(frames, state)
            if not torch.isfinite(heard).all():
                raise BadOutputError(f"the output of item {index} is not finite", item=index)
            yield heard.tolist()

    def _heard(
        self, frames: Tensor, state: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return how likely each of the frames, which follow each other, is speech."""
        with torch.inference_mode():
            padded = F.pad(frames[:, None], (0, REFLECTED), "reflect")
            parts = F.conv1d(padded, self._spectrum, stride=HOP)
            x = torch.hypot(parts[:, :BINS], parts[:, BINS:])
            for weight, bias, stride in self._convolutions:
                x = F.relu(F.conv1d(x, weight, bias, stride=stride, padding=1))
            remembered, new_state = self._cell(x[:, :, 0], state)
            likely = F.linear(F.relu(remembered), self._last, self._bias)
            return torch.sigmoid(likely)[:, 0], new_state


def _cell(weights: Weights) -> nn.LSTM:
    cell = nn.LSTM(STATE, STATE)
    named = {
        f"{kind}_{side}_l0": weights.get(f"lstm_cell.{kind}_{side}", 4 * STATE, *shape)
        for kind, shape in (("weight", (STATE,)), ("bias", ()))
        for side in ("ih", "hh")
    }
    cell.load_state_dict(named)
    return cell
