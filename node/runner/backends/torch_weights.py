"""The weights of a model's safetensors files, by name, each checked for its shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor

from node.manifest import ModelError
from node.runner.files import ModelFiles


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights by name."""

    tensors: Mapping[str, Tensor]

    @classmethod
    def read(cls, files: ModelFiles, prefix: str = "") -> Weights:
        """Return all weights of a model, without the ``prefix`` of their names; raises
        ``ModelError``.
        """
        tensors: dict[str, Tensor] = {}
        for name in files.weights():
            try:
                tensors |= load_safetensors(files.read(name))
            except (SafetensorError, ValueError, KeyError) as error:
                raise ModelError(
                    f"{name} is no safetensors file: {error}", code="model-weights"
                ) from error
        return cls({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})

    def get(self, name: str, *shape: int) -> Tensor:
        """Return a weight of floating point; raises ``ModelError`` for a missing one and another
        shape.
        """
        tensor = self.tensors.get(name)
        if tensor is None or tuple(tensor.shape) != shape or not tensor.is_floating_point():
            found = "missing" if tensor is None else f"{tensor.dtype} {tuple(tensor.shape)}"
            raise ModelError(
                f"weight {name} is {found}, not floating point {shape}", code="model-weights"
            )
        return tensor if tensor.dtype in _KEPT else tensor.float()


_KEPT = frozenset((torch.float32, torch.float16, torch.bfloat16))
