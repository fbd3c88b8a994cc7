"""One model in a Transformers pipeline: local files that were checked, safetensors, no code of the
model's, no network.

Everything that Transformers gets it gets from memory, out of the bytes that were checked: it opens
no file of a model, and a confined runner need not write any.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final, cast

import msgspec
import torch
import transformers as untyped
from tokenizers import Tokenizer

from node.manifest import ModelError
from node.runner.backends.pipeline_config import AUTO, PipelineConfig, TokenizerConfig
from node.runner.backends.weights import read_weights
from node.runner.files import ModelFiles
from node.runner.kinds import BadInputError, EngineSettings, Facts

transformers: Final = cast("Any", untyped)


def load_model(files: ModelFiles, settings: EngineSettings) -> TransformersModel:
    """Return the model in ``files``; raises ``ModelError``."""
    if settings.precision != "fp32":
        raise ModelError(
            f"precision {settings.precision} is not fp32", code="precision-unavailable"
        )
    torch.set_num_threads(settings.threads)
    transformers.utils.logging.disable_progress_bar()
    config = PipelineConfig.parse(files.read("config.json"))
    told = TokenizerConfig.parse(files.read_if_there("tokenizer_config.json"))
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_buffer(files.read("tokenizer.json")),
        model_max_length=int(min(told.model_max_length, config.max_position_embeddings)),
        **told.special_tokens(),
    )
    fields: dict[str, Any] = msgspec.json.decode(files.read("config.json"))
    model = _with_weights(config, _config_of(fields), files)
    return TransformersModel(config, model, tokenizer, settings.threads)


class TransformersModel:
    """A loaded model, and a pipeline for each task that it was asked for; computes on the CPU."""

    def __init__(self, config: PipelineConfig, model: Any, tokenizer: Any, threads: int) -> None:
        self._config = config
        self._model = model
        self._tokenizer = tokenizer
        self._pipelines: dict[str, Any] = {}
        self.execution: Facts = {
            "engine": f"transformers {version('transformers')}",
            "torch": version("torch"),
            "dtype": "float32",
            "device": "cpu",
            "threads": threads,
        }

    def check(self, texts: list[str], told: dict[str, Any]) -> None:
        """Raise ``BadInputError`` for what this model cannot do with these texts."""
        task = self._task(told)
        if task not in self._config.tasks:
            able = ", ".join(self._config.tasks)
            raise BadInputError(f"this model does {able}, not {task}", parameter="task")
        if (task == "zero-shot-classification") != ("labels" in told):
            raise BadInputError(
                "labels are needed for zero-shot-classification, and for that only",
                parameter="labels",
            )
        if task == "fill-mask":
            self._check_masks(texts)

    def weigh(self, texts: list[str], told: dict[str, Any]) -> list[int]:
        """Return the tokens of each text, as often as they are computed."""
        encoded = self._tokenizer(texts, truncation=True)["input_ids"]
        times = len(told.get("labels", ())) or 1
        return [max(1, len(ids)) * times for ids in encoded]

    def answer(self, texts: list[str], told: dict[str, Any]) -> list[Any]:
        """Return what the pipeline says about each text, in order."""
        task = self._task(told)
        if task not in self._pipelines:
            self._pipelines[task] = transformers.pipeline(
                task, model=self._model, tokenizer=self._tokenizer, device="cpu"
            )
        options = _options(task, told)
        with torch.inference_mode():
            answers = self._pipelines[task](texts, batch_size=len(texts), **options)
        if task == "zero-shot-classification":
            return [{key: each[key] for key in ("labels", "scores")} for each in answers]
        if task == "fill-mask" and len(texts) == 1:
            return [answers]  # of one text it leaves out the outer list
        return answers

    def _task(self, told: dict[str, Any]) -> str:
        return self._config.tasks[0] if told["task"] == AUTO else told["task"]

    def _check_masks(self, texts: list[str]) -> None:
        mask = self._tokenizer.mask_token
        for index, text in enumerate(texts):
            if not mask or mask not in text:
                raise BadInputError(f"item {index} has no {mask} to fill", item=index)


def _options(task: str, told: dict[str, Any]) -> dict[str, Any]:
    match task:
        case "text-classification":
            return {"top_k": told["top_k"], "truncation": True}
        case "fill-mask":
            return {"top_k": told["top_k"], "tokenizer_kwargs": {"truncation": True}}
        case "zero-shot-classification":
            return {"candidate_labels": list(told["labels"])}
        case _:
            return {}


def _config_of(fields: dict[str, Any]) -> Any:
    """Return a configuration as Transformers has it; raises ``ModelError`` for a type of model that
    it does not know.
    """
    known = transformers.CONFIG_MAPPING
    if fields["model_type"] not in known:
        raise ModelError(
            f"transformers {version('transformers')} has no {fields['model_type']}",
            code="model-config",
        )
    return known[fields["model_type"]].from_dict(fields)


def _with_weights(config: PipelineConfig, theirs: Any, files: ModelFiles) -> Any:
    """Return the model with every one of its weights from ``files``; raises ``ModelError``."""
    named = getattr(transformers, config.architecture, None)
    if not (isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)):
        raise ModelError(
            f"transformers {version('transformers')} has no {config.architecture}",
            code="model-config",
        )
    model, loading = cast("Any", named).from_pretrained(
        None,
        config=theirs,
        state_dict=read_weights(files),
        dtype=torch.float32,
        output_loading_info=True,
    )
    for fault in ("missing_keys", "mismatched_keys"):
        if loading[fault]:
            what = ", ".join(map(str, sorted(loading[fault])[:5]))
            raise ModelError(f"the weights have {fault[:-5]}: {what}", code="model-weights")
    return model.eval()
