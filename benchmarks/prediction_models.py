"""The models whose latencies NeuSight published, captured as its authors ran them.

Their timing code builds `AutoModelForCausalLM` (BERT: a classifier for inference, its pretraining heads for training) with eager attention in float32, gives
it `input_ids` alone, and times forward and `backward()` of a cross entropy over the logits; the forward part of that loss and the optimizer are not timed.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.switch_transformer import SwitchModel
from graphs.sources.base import ModelSource

TRAINING_HEADS = {"bert": "AutoModelForPreTraining"}
INFERENCE_HEADS = {"bert": "AutoModelForSequenceClassification"}


class Logits(nn.Module):
    """The model as a function of its tokens alone; gives the logits that the loss is computed from."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        found = self.model(tokens)
        return found.prediction_logits if hasattr(found, "prediction_logits") else found.logits


def labelled_source(configs: Path, model: str, training: bool, seq: int, batch: int) -> ModelSource:
    """The source of one labelled run, such as `gpt2_large` with 4 sequences of 1024 tokens."""
    fields = json.loads((configs / f"{model}.json").read_text())
    build = switch_builder(fields) if fields["model_type"] == "switch_transformers" else hugging_face_builder(fields, training)
    tokens = lambda: (torch.ones(batch, seq, dtype=torch.int64),)  # noqa: E731
    return ModelSource(f"{model}-{seq}-{batch}", build, tokens, _cross_entropy, (__file__,))


def hugging_face_builder(fields: Mapping[str, Any], training: bool) -> Callable[[], nn.Module]:
    """Builds the class that the timing code built, without initial values."""
    from transformers.initialization import no_init_weights

    # By its name: a type checker that follows an import of it reads every family there is.
    transformers = importlib.import_module("transformers")
    kind = fields["model_type"]
    head = getattr(transformers, (TRAINING_HEADS if training else INFERENCE_HEADS).get(kind, "AutoModelForCausalLM"))
    config = transformers.CONFIG_MAPPING[kind].from_dict(dict(fields))
    config.use_cache = False
    config._attn_implementation = "eager"

    def build() -> nn.Module:
        with no_init_weights():
            return Logits(head.from_config(config, attn_implementation="eager"))

    return build


def switch_builder(fields: Mapping[str, Any]) -> Callable[[], nn.Module]:
    """Switch Transformers written out for shapes that are known beforehand: each expert takes its full capacity."""
    return lambda: SwitchModel(fields)


def _cross_entropy(logits: Any) -> Tensor:
    rows = logits.view(-1, logits.size(-1))
    return nn.functional.cross_entropy(rows, torch.ones(rows.size(0), dtype=torch.int64, device=rows.device))
