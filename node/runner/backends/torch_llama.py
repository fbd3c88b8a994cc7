"""Decoders of the Llama family in plain torch: grouped-query attention, rotated positions, RMS
norms and a gated feed-forward, written out.

Written out rather than taken from a library of models, for the reasons of ``torch_bert``. Matrices
are multiplied in the precision that was asked for; the sums between them, norms, positions and
attention are float32. Each sequence attends by itself, and a prompt is read in pieces that depend
on its length alone: where the matrices compute row by row, too, a sequence's numbers do not depend
on what else is computed, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Final, cast

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

from node.manifest import ModelError
from node.runner.backends.kv_cache import ROUND_TO, Cache, CacheRanges
from node.runner.backends.llama import LlamaConfig
from node.runner.backends.llama_text import LlamaText
from node.runner.backends.torch_linear import Linear, has_kernels, make_linear
from node.runner.backends.weights import Weights, device_of, read_weights
from node.runner.files import ModelFiles
from node.runner.kinds import EngineSettings, Facts
from node.runner.kinds.generate import PRECISIONS
from protocols.limits import MAX_KV_CACHE_BYTES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Attend = Callable[[int, Tensor, Tensor], Tensor]
"""Of a layer, its queries ``[rows, heads, size]`` and its keys and values ``[rows, 2 * key heads,
size]``: returns ``[rows, heads * size]``.
"""

KV_BYTES: Final = 4  # float32: bfloat16 saves half, and attends more slowly on CPUs
PIECE_TOKENS: Final = 64  # of a prompt, read in one step: 0.2 s of a 135M model on one core
ACCELERATED_PIECE_TOKENS: Final = 1_024  # a step costs an accelerator the same from 1 to hundreds


class TorchLlama:
    """A loaded decoder with room for the keys and values of several sequences."""

    def __init__(self, config: LlamaConfig, weights: Weights, settings: EngineSettings) -> None:
        if settings.precision not in PRECISIONS:
            raise ModelError(
                f"precision {settings.precision} is not one of {', '.join(PRECISIONS)}",
                code="precision-unavailable",
            )
        torch.set_num_threads(settings.threads)
        self._device = weights.device
        self._config = config
        self._network = _Network(config, weights, settings.precision, self._device)
        self.capacity = _capacity(config)
        self.context = _context(config)
        self._ranges = CacheRanges(self.capacity)
        on_cpu = self._device.type == "cpu"
        self.piece_tokens = PIECE_TOKENS if on_cpu else ACCELERATED_PIECE_TOKENS
        self._attend_last = self._attend_each if on_cpu else self._attend_together
        self._memory = torch.empty(
            config.num_hidden_layers,
            1,
            2 * config.key_value_heads,
            self.capacity,
            config.head_size,
            device=self._device,
        )
        self.execution: Facts = {
            "engine": f"torch {version('torch')}",
            "precision": settings.precision,
            "dtype": "float32" if settings.precision == "fp32" else "bfloat16",
            "kernels": "weight-only" if self._network.by_kernel else "plain",
            "rows": "independent" if self._network.is_row_independent else "vary with the batch",
            "device": self._device.type,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": settings.threads,
        }

    def open(self, tokens: int) -> Cache | None:
        """Return room for a sequence of so many tokens; None when there is none now."""
        return self._ranges.take(tokens)

    def close(self, cache: Cache) -> None:
        """Give a sequence's room back."""
        self._ranges.give_back(cache)

    def read(self, cache: Cache, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Take in the next tokens of one prompt; return the logits after the last one."""
        first, count = cache.length, len(tokens)
        with torch.inference_mode():
            states = self._network.run(
                torch.tensor(tokens, device=self._device),
                torch.arange(first, first + count, device=self._device),
                self._attend_prompt(cache, count),
            )
            logits = self._network.logits(states[-1:])[0]
        cache.length += count
        return logits.cpu().numpy()

    def write(self, caches: Sequence[Cache], tokens: Sequence[int]) -> NDArray[np.float32]:
        """Take in one token of each sequence; return the logits after it, one row each."""
        places = torch.tensor([cache.length for cache in caches], device=self._device)
        with torch.inference_mode():
            states = self._network.run(
                torch.tensor(tokens, device=self._device), places, self._attend_last(caches, places)
            )
            logits = self._network.logits(states)
        for cache in caches:
            cache.length += 1
        return logits.cpu().numpy()

    def _attend_prompt(self, cache: Cache, count: int) -> Attend:
        """One sequence's next tokens see what came before them, and each other up to themselves."""
        heads, groups = self._config.key_value_heads, self._groups
        begin, end = cache.start + cache.length, cache.start + cache.length + count
        seen = torch.arange(end - cache.start, device=self._device)
        own = torch.arange(cache.length, cache.length + count, device=self._device)
        mask = (seen[None, :] <= own[:, None]).repeat(groups, 1)

        def attend(layer: int, queries: Tensor, pairs: Tensor) -> Tensor:
            memory = self._memory[layer]
            memory[0, :, begin:end] = pairs.transpose(0, 1)
            keys, values = (
                memory[:, :heads, cache.start : end],
                memory[:, heads:, cache.start : end],
            )
            # all query heads of one key head become rows of one matrix: nothing is repeated
            rows = queries.view(count, heads, groups, -1).permute(1, 2, 0, 3)
            mixed = F.scaled_dot_product_attention(
                rows.reshape(1, heads, groups * count, -1), keys, values, attn_mask=mask
            )
            mixed = mixed.view(heads, groups, count, -1).permute(2, 0, 1, 3)
            return mixed.reshape(count, -1)

        return attend

    def _attend_each(self, caches: Sequence[Cache], places: Tensor) -> Attend:
        """Each sequence's one token sees all that came before it."""
        heads, count = self._config.key_value_heads, len(caches)
        starts = torch.tensor([cache.start for cache in caches], device=self._device)
        slots = starts + places
        sides = self._memory[:, :, :heads], self._memory[:, :, heads:]
        seen = [
            [
                side[:, :, :, cache.start : cache.start + cache.length + 1].unbind(0)
                for side in sides
            ]
            for cache in caches
        ]

        def attend(layer: int, queries: Tensor, pairs: Tensor) -> Tensor:
            self._memory[layer, 0].index_copy_(1, slots, pairs.transpose(0, 1))
            rows = queries.view(count, 1, heads, self._groups, -1).unbind(0)
            mixed = [
                F.scaled_dot_product_attention(row, keys[layer], values[layer])
                for row, (keys, values) in zip(rows, seen, strict=True)
            ]
            return torch.cat(mixed).view(count, -1)

        return attend

    def _attend_together(self, caches: Sequence[Cache], places: Tensor) -> Attend:
        """The same in one call for all: an accelerator is idle between many small ones. What each
        sequence knows is copied side by side, as wide as the longest.
        """
        heads, count = self._config.key_value_heads, len(caches)
        starts = torch.tensor([cache.start for cache in caches], device=self._device)[:, None]
        seen = torch.arange(max(cache.length for cache in caches) + 1, device=self._device)
        known = seen <= places[:, None]
        # beyond its end a sequence sees its own first token, and so never another's numbers: what
        # is masked counts nothing, but nothing times an infinity is no number
        slots = starts + seen * known
        mask = known[:, None, None]

        def attend(layer: int, queries: Tensor, pairs: Tensor) -> Tensor:
            memory = self._memory[layer, 0]
            memory.index_copy_(1, starts[:, 0] + places, pairs.transpose(0, 1))
            keys, values = memory[:, slots].transpose(0, 1).chunk(2, dim=1)
            rows = queries.view(count, heads, self._groups, -1)
            mixed = F.scaled_dot_product_attention(rows, keys, values, attn_mask=mask)
            return mixed.reshape(count, -1)

        return attend

    @property
    def _groups(self) -> int:
        return self._config.num_attention_heads // self._config.key_value_heads


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Tensor
    queries_keys_values: Linear
    attention_out: Linear
    forward_norm: Tensor
    gate_up: Linear
    down: Linear


class _Network:
    """Token ids and positions in, one row of numbers a token out."""

    def __init__(
        self, config: LlamaConfig, weights: Weights, precision: str, device: torch.device
    ) -> None:
        self.by_kernel = precision in ("int8", "int4") and has_kernels(device)
        self.is_row_independent = self.by_kernel
        self._config = config
        size, vocabulary = config.hidden_size, config.vocab_size
        self._heads = config.num_attention_heads
        self._turning = config.num_attention_heads + config.key_value_heads
        self._all_heads = self._turning + config.key_value_heads
        embedding = weights.stored("model.embed_tokens.weight", vocabulary, size)
        tied = config.tie_word_embeddings
        head = embedding if tied else weights.stored("lm_head.weight", vocabulary, size)
        # in four bits the last matrix costs thirty times more of the answer's meaning than all
        # others together
        self._head = self._linear(head, "int8" if precision == "int4" else precision, device)
        self._embedding = embedding.to(device)
        self._norm = weights.stored("model.norm.weight", size).float().to(device)
        self._rotations = _rotations(config).to(device)
        self._still = torch.ones_like(self._rotations[:1])[None]
        self._layers = [
            self._layer(weights, f"model.layers.{n}.", precision, device)
            for n in range(config.num_hidden_layers)
        ]

    def run(self, ids: Tensor, places: Tensor, attend: Attend) -> Tensor:
        """Return the states after the last layer, ``[rows, size]``."""
        x = self._embedding[ids].float()
        turns = self._turns(places)
        for number, layer in enumerate(self._layers):
            mixed = layer.queries_keys_values(self._normed(x, layer.attention_norm))
            queries, pairs = self._turned(mixed.float(), turns)
            x = x + layer.attention_out(attend(number, queries, pairs))
            gate, up = layer.gate_up(self._normed(x, layer.forward_norm)).chunk(2, dim=1)
            x = x + layer.down(F.silu(gate) * up)
        return x

    def logits(self, states: Tensor) -> Tensor:
        """Return a number for each token of the vocabulary, one row a state."""
        return self._head(self._normed(states, self._norm)).float()

    def _turns(self, places: Tensor) -> Tensor:
        """Return by what each row's queries and keys are turned, and its values are not."""
        turns = self._rotations[places][:, None].expand(-1, self._turning, -1)
        still = self._still.expand(len(places), self._all_heads - self._turning, -1)
        return torch.cat([turns, still], dim=1)

    def _turned(self, mixed: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
        """Return queries, and keys with values, each head of each row turned by its position."""
        pairs = torch.view_as_complex(mixed.view(*turns.shape, 2))
        heads = torch.view_as_real(pairs * turns).flatten(2)
        return heads[:, : self._heads], heads[:, self._heads :]

    def _normed(self, x: Tensor, weight: Tensor) -> Tensor:
        # F.rms_norm says the same in twice the time for the few rows of a step
        length = cast("Tensor", torch.linalg.vector_norm(x, dim=1, keepdim=True))
        mean = length.square_().mul_(1 / self._config.hidden_size)
        return x * mean.add_(self._config.rms_norm_eps).rsqrt_() * weight

    def _linear(self, weight: Tensor, precision: str, device: torch.device) -> Linear:
        return make_linear(weight.to(device), precision, by_kernel=self.by_kernel)

    def _layer(self, weights: Weights, prefix: str, precision: str, device: torch.device) -> _Layer:
        config = self._config
        size, inner = config.hidden_size, config.intermediate_size
        queries = config.num_attention_heads * config.head_size
        pairs = config.key_value_heads * config.head_size
        attention, forward = f"{prefix}self_attn.", f"{prefix}mlp."
        parts = [
            _side_by_side(weights.stored(f"{attention}q_proj.weight", queries, size), config),
            _side_by_side(weights.stored(f"{attention}k_proj.weight", pairs, size), config),
            weights.stored(f"{attention}v_proj.weight", pairs, size),
        ]
        gates = [
            weights.stored(f"{forward}{part}_proj.weight", inner, size) for part in ("gate", "up")
        ]
        out = weights.stored(f"{attention}o_proj.weight", size, queries)
        down = weights.stored(f"{forward}down_proj.weight", size, inner)
        norms = [
            weights.stored(f"{prefix}{name}_layernorm.weight", size).float().to(device)
            for name in ("input", "post_attention")
        ]
        return _Layer(
            attention_norm=norms[0],
            queries_keys_values=self._linear(torch.cat(parts), precision, device),
            attention_out=self._linear(out, precision, device),
            forward_norm=norms[1],
            gate_up=self._linear(torch.cat(gates), precision, device),
            down=self._linear(down, precision, device),
        )


def _side_by_side(weight: Tensor, config: LlamaConfig) -> Tensor:
    """Bring the two numbers that are rotated together, half a head apart in safetensors, side by
    side, where they are one complex number.
    """
    halves = weight.view(-1, 2, config.head_size // 2, weight.shape[1])
    return halves.transpose(1, 2).reshape(weight.shape)


def _rotations(config: LlamaConfig) -> Tensor:
    """Return the turn of each position and pair of numbers, ``[positions, head size / 2]``, as far
    as there is room for a sequence.
    """
    exponents = torch.arange(0, config.head_size, 2, dtype=torch.float64) / config.head_size
    speeds = config.rope_base**-exponents
    angles = torch.outer(torch.arange(_context(config)).double(), speeds)
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)


def _capacity(config: LlamaConfig) -> int:
    """Return how many tokens' keys and values are kept at once, of all sequences."""
    numbers = 2 * config.num_hidden_layers * config.key_value_heads * config.head_size
    tokens = MAX_KV_CACHE_BYTES // (numbers * KV_BYTES) // ROUND_TO * ROUND_TO
    if tokens < ROUND_TO:
        raise ModelError("the model's keys and values do not fit the memory", code="out-of-memory")
    return tokens


def _context(config: LlamaConfig) -> int:
    """Return the most tokens of one sequence."""
    return min(config.max_position_embeddings, _capacity(config))


def load_model(files: ModelFiles, settings: EngineSettings) -> tuple[TorchLlama, LlamaText]:
    """Return the model in ``files`` and its text side; raises ``ModelError``."""
    config = LlamaConfig.parse(files.read("config.json"))
    text = LlamaText.read(files, config)
    weights = Weights(read_weights(files), torch.float32, device_of(settings))
    return TorchLlama(config, weights, settings), text
