"""BERT sentence embedders in plain torch: a tokenizer, one dictionary of weights, and the encoder
written out.

Written out rather than taken from a library of models: it starts in a tenth of the time, runs no
code that a model brings along, and costs what the arithmetic costs. Query, key and value are one
multiplication. Rows of one length need no mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from tokenizers import Tokenizer
from torch import Tensor

from node.manifest import ModelError
from node.runner.backends.bert import BertConfig, Pooling, pooling_of
from node.runner.backends.weights import Weights, device_of, read_weights
from node.runner.files import ModelFiles
from node.runner.kinds import EngineSettings, Facts

if TYPE_CHECKING:
    from numpy.typing import NDArray

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16}
MASKED: Final = float("-inf")


def load_encoder(files: ModelFiles, settings: EngineSettings) -> TorchBert:
    """Return the embedder in ``files``; raises ``ModelError``."""
    dtype = dtype_of(settings)
    torch.set_num_threads(settings.threads)
    config = BertConfig.parse(files.read("config.json"))
    pooling = pooling_of(
        files.read_if_there("modules.json"), files.read_if_there("1_Pooling/config.json")
    )
    tokenizer = tokenizer_of(files.read("tokenizer.json"), config, files.manifest.max_tokens)
    weights = Weights(_encoder_weights(files), dtype, device_of(settings))
    return TorchBert(tokenizer, BertEncoder(config, weights), pooling, settings.threads)


class TorchBert:
    """A loaded embedder."""

    def __init__(
        self, tokenizer: Tokenizer, encoder: BertEncoder, pooling: Pooling, threads: int
    ) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._pooling = pooling
        self.dimension = encoder.config.hidden_size
        self.execution = execution_of(encoder.dtype, encoder.device, threads)

    def tokenise(self, texts: list[str]) -> tuple[list[list[int]], int]:
        """Return the token ids of each text, and how many texts were cut to the model's length."""
        encodings = self._tokenizer.encode_batch_fast(texts)
        return [e.ids for e in encodings], sum(1 for e in encodings if e.overflowing)

    def encode(self, rows: list[list[int]]) -> NDArray[np.float32]:
        """Return the vectors of a batch, in its order."""
        ids, mask = padded(rows, self._encoder.device)
        with torch.inference_mode():
            tokens = self._encoder.run(ids, mask).float()
            vectors = _pool(tokens, mask, self._pooling.mode)
            if self._pooling.is_normalized:
                vectors = F.normalize(vectors, dim=-1)
            return vectors.cpu().numpy()


def dtype_of(settings: EngineSettings) -> torch.dtype:
    """Return the type to compute in; raises ``ModelError`` for a precision that there is not."""
    if settings.precision not in DTYPES:
        raise ModelError(
            f"precision {settings.precision} is not one of {', '.join(DTYPES)}",
            code="precision-unavailable",
        )
    return DTYPES[settings.precision]


def execution_of(dtype: torch.dtype, device: torch.device, threads: int) -> Facts:
    """Return how plain torch computes."""
    return {
        "engine": f"torch {version('torch')}",
        "dtype": str(dtype).removeprefix("torch."),
        "device": device.type,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
    }


def padded(rows: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Return token ids as a matrix, and which of them are real; no mask when all are."""
    lengths = [len(row) for row in rows]
    width = max(lengths)
    ids = np.zeros((len(rows), width), dtype=np.int64)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    if min(lengths) == width:
        return torch.from_numpy(ids).to(device), None
    mask = np.arange(width) < np.array(lengths)[:, None]
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def _pool(tokens: Tensor, mask: Tensor | None, mode: str) -> Tensor:
    if mode == "cls":
        return tokens[:, 0]
    if mode == "max":
        return (tokens if mask is None else tokens.masked_fill(~mask[:, :, None], MASKED)).amax(
            dim=1
        )
    if mask is None:
        return tokens.mean(dim=1)
    kept = mask[:, :, None].float()
    return (tokens * kept).sum(dim=1) / kept.sum(dim=1)


def tokenizer_of(text: bytes, config: BertConfig, max_tokens: int) -> Tokenizer:
    """Return a tokenizer that cuts to ``max_tokens``; raises ``ModelError`` unless it fits
    ``config``.
    """
    tokenizer = Tokenizer.from_buffer(text)
    if (
        tokenizer.get_vocab_size() > config.vocab_size
        or max_tokens > config.max_position_embeddings
    ):
        raise ModelError(
            "tokenizer.json has more tokens than config.json has embeddings", code="model-config"
        )
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _encoder_weights(files: ModelFiles) -> dict[str, Tensor]:
    """A model saved with a head on top keeps its encoder under a prefix."""
    return {name.removeprefix("bert."): tensor for name, tensor in read_weights(files).items()}


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: tuple[Tensor, Tensor]
    attention_out: tuple[Tensor, Tensor]
    attention_norm: tuple[Tensor, Tensor]
    inner: tuple[Tensor, Tensor]
    outer: tuple[Tensor, Tensor]
    norm: tuple[Tensor, Tensor]


class BertEncoder:
    """Embeddings and transformer layers: token ids in, one vector a token out."""

    def __init__(self, config: BertConfig, weights: Weights) -> None:
        size = config.hidden_size
        self.config = config
        self.dtype = weights.dtype
        self.device = weights.device
        self._words = weights.get("embeddings.word_embeddings.weight", config.vocab_size, size)
        positions = weights.get(
            "embeddings.position_embeddings.weight", config.max_position_embeddings, size
        )
        types = weights.get("embeddings.token_type_embeddings.weight", config.type_vocab_size, size)
        # a single text is all of type 0, so that type's embedding is part of every position's
        self._positions = positions + types[0]
        self._norm = weights.norm("embeddings.LayerNorm", size)
        self._layers = [
            _layer(config, weights, f"encoder.layer.{n}.") for n in range(config.num_hidden_layers)
        ]

    def run(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """Return a vector a token; ``mask`` says which tokens are real."""
        attended = None if mask is None else mask[:, None, None, :]
        x = self._normed(self._words[ids] + self._positions[: ids.shape[1]], self._norm)
        for layer in self._layers:
            x = self._normed(x + self._attention(layer, x, attended), layer.attention_norm)
            inner = self._activation(F.linear(x, *layer.inner))
            x = self._normed(x + F.linear(inner, *layer.outer), layer.norm)
        return x

    def _attention(self, layer: _Layer, x: Tensor, attended: Tensor | None) -> Tensor:
        rows, width, size = x.shape
        heads = self.config.num_attention_heads
        qkv = F.linear(x, *layer.qkv).view(rows, width, 3, heads, size // heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attended)
        return F.linear(mixed.transpose(1, 2).reshape(rows, width, size), *layer.attention_out)

    def _normed(self, x: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
        return F.layer_norm(x, (self.config.hidden_size,), *norm, self.config.layer_norm_eps)

    def _activation(self, x: Tensor) -> Tensor:
        match self.config.hidden_act:
            case "relu":
                return F.relu(x)
            case "gelu_new":
                return F.gelu(x, approximate="tanh")
            case "gelu":
                return F.gelu(x)


def _layer(config: BertConfig, weights: Weights, prefix: str) -> _Layer:
    size, inner = config.hidden_size, config.intermediate_size
    parts = [
        weights.linear(f"{prefix}attention.self.{part}", size, size)
        for part in ("query", "key", "value")
    ]
    return _Layer(
        qkv=(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])),
        attention_out=weights.linear(f"{prefix}attention.output.dense", size, size),
        attention_norm=weights.norm(f"{prefix}attention.output.LayerNorm", size),
        inner=weights.linear(f"{prefix}intermediate.dense", inner, size),
        outer=weights.linear(f"{prefix}output.dense", size, inner),
        norm=weights.norm(f"{prefix}output.LayerNorm", size),
    )
