"""Weights from safetensors, each checked for its shape before anything computes with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from node.manifest import ModelError
from node.runner.files import ModelFiles
from node.runner.kinds import EngineSettings


def read_weights(files: ModelFiles) -> dict[str, Tensor]:
    """Return all tensors of a model by name; raises ``ModelError``."""
    tensors: dict[str, Tensor] = {}
    for name in files.weights():
        try:
            tensors |= load_safetensors(files.read(name))
        except (SafetensorError, ValueError, KeyError) as error:
            raise ModelError(
                f"{name} is no safetensors file: {error}", code="model-weights"
            ) from error
    return tensors


def device_of(settings: EngineSettings) -> torch.device:
    """Return the device to compute on; raises ``ModelError`` where torch has none of that name."""
    device = torch.device(settings.device)
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(
            f"torch cannot compute on {settings.device} here: {str(error).splitlines()[0][:200]}",
            code="runner-device",
            hint="set [runners] device to auto or cpu (COVEY_RUNNERS_DEVICE)",
        ) from error
    return device


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights by name, each checked for its shape and brought to the type and device in use."""

    tensors: Mapping[str, Tensor]
    dtype: torch.dtype
    device: torch.device

    def get(self, name: str, *shape: int) -> Tensor:
        """Return one weight; raises ``ModelError`` unless it is floating point of this shape."""
        return self._checked(name, shape).to(self.device, self.dtype)

    def stored(self, name: str, *shape: int) -> Tensor:
        """Return one weight in the type that it is stored in, if anybody computes in that."""
        tensor = self._checked(name, shape)
        return tensor.to(self.device, None if tensor.dtype in _COMPUTED_IN else self.dtype)

    def linear(self, name: str, out_size: int, in_size: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a linear layer."""
        return self.get(f"{name}.weight", out_size, in_size), self.get(f"{name}.bias", out_size)

    def norm(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        """Return weight and bias of a layer norm."""
        return self.get(f"{name}.weight", size), self.get(f"{name}.bias", size)

    def _checked(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None or tuple(tensor.shape) != shape or not tensor.is_floating_point():
            found = "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ModelError(
                f"weight {name} is {found}, not floating point {shape}", code="model-weights"
            )
        return tensor


_COMPUTED_IN = frozenset((torch.float32, torch.float16, torch.bfloat16))
