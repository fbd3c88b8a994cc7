"""BERT and DistilBERT text classifiers in plain torch: the encoder of the embedders, and a head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812 - the name that torch's own documentation uses
from torch import Tensor

from node.runner.backends.bert_classifier import ClassifierConfig
from node.runner.backends.torch_bert import (
    BertEncoder,
    dtype_of,
    execution_of,
    padded,
    tokenizer_of,
)
from node.runner.backends.weights import Weights, device_of, read_weights
from node.runner.files import ModelFiles
from node.runner.kinds import EngineSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

BERT_NAMES: Final = (
    ("distilbert.", ""),
    ("transformer.layer.", "encoder.layer."),
    (".attention.q_lin.", ".attention.self.query."),
    (".attention.k_lin.", ".attention.self.key."),
    (".attention.v_lin.", ".attention.self.value."),
    (".attention.out_lin.", ".attention.output.dense."),
    (".sa_layer_norm.", ".attention.output.LayerNorm."),
    (".ffn.lin1.", ".intermediate.dense."),
    (".ffn.lin2.", ".output.dense."),
    (".output_layer_norm.", ".output.LayerNorm."),
)
"""What DistilBERT calls things, and what BERT calls them."""
TYPES: Final = "embeddings.token_type_embeddings.weight"


def load_classifier(files: ModelFiles, settings: EngineSettings) -> TorchClassifier:
    """Return the classifier in ``files``; raises ``ModelError``."""
    dtype = dtype_of(settings)
    torch.set_num_threads(settings.threads)
    config = ClassifierConfig.parse(files.read("config.json"))
    tokenizer = tokenizer_of(
        files.read("tokenizer.json"), config.encoder, files.manifest.max_tokens
    )
    tensors = read_weights(files)
    if config.is_distilled:
        tensors = {_bert_name(name): tensor for name, tensor in tensors.items()}
        tensors[TYPES] = torch.zeros(1, config.encoder.hidden_size)  # it has no types of token
    else:
        tensors = {name.removeprefix("bert."): tensor for name, tensor in tensors.items()}
    return TorchClassifier(
        tokenizer, config, Weights(tensors, dtype, device_of(settings)), settings.threads
    )


class TorchClassifier:
    """A loaded classifier. Its vector of a text has a number a label."""

    def __init__(
        self, tokenizer: Tokenizer, config: ClassifierConfig, weights: Weights, threads: int
    ) -> None:
        size = config.encoder.hidden_size
        self.labels = config.labels
        self.dimension = len(config.labels)
        self.execution = execution_of(weights.dtype, weights.device, threads)
        self._tokenizer = tokenizer
        self._encoder = BertEncoder(config.encoder, weights)
        self._between = F.relu if config.is_distilled else torch.tanh
        dense = "pre_classifier" if config.is_distilled else "pooler.dense"
        self._dense = weights.linear(dense, size, size)
        self._last = weights.linear("classifier", len(config.labels), size)

    def tokenise(self, texts: list[str]) -> tuple[list[list[int]], int]:
        """Return the token ids of each text, and how many texts were cut to the model's length."""
        encodings = self._tokenizer.encode_batch_fast(texts)
        return [e.ids for e in encodings], sum(1 for e in encodings if e.overflowing)

    def encode(self, rows: list[list[int]]) -> NDArray[np.float32]:
        """Return the numbers of each label for a batch, in its order."""
        ids, mask = padded(rows, self._encoder.device)
        with torch.inference_mode():
            first: Tensor = self._encoder.run(ids, mask)[:, 0]
            pooled = self._between(F.linear(first, *self._dense))
            return F.linear(pooled, *self._last).float().cpu().numpy()


def _bert_name(name: str) -> str:
    for theirs, berts in BERT_NAMES:
        name = name.replace(theirs, berts)
    return name
