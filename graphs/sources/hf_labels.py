"""Labels for a model of `transformers`, by the ending of its class's name: what its own loss takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

CLASSES = (
    "ForImageClassification",
    "ForSequenceClassification",
    "ForVideoClassification",
    "ForAudioClassification",
    "ForNextSentencePrediction",
)
SAME_AS_IDS = ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration", "ForPreTraining", "WithLMHead")
CTC_LABELS = 8  # fewer than any input has frames


def labels_for(
    model: type[nn.Module], config: Any, given: Mapping[str, Callable[[], Any]], batch: int, seq: int
) -> Callable[[], Any] | None:
    """How labels are drawn; None where the class has no loss that is known here."""
    name = model.__name__
    classes = int(getattr(config, "num_labels", 2) or 2)
    if any(word in name for word in CLASSES):
        return lambda: torch.randint(0, classes, (batch,))
    if name.endswith("ForCTC"):
        most = max(2, min(31, int(getattr(config, "vocab_size", 32)) - 1))
        return lambda: torch.randint(1, most, (batch, CTC_LABELS))
    if name.endswith("ForTokenClassification"):
        return lambda: torch.randint(0, classes, (batch, seq))
    source = given.get("decoder_input_ids", given.get("input_ids"))
    return source if source is not None and any(word in name for word in SAME_AS_IDS) else None
