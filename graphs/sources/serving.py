"""Serving a causal language model: prefill reads the prompt and fills the cache, decode adds one token to it.

The cache is a tensor input and output of the graph: for each layer keys and values of shape [batch, heads, tokens, features].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from graphs.errors import RequestError
from graphs.sources.base import as_if_exporting
from graphs.zoo.base import Settings

Pairs = list[tuple[Tensor, Tensor]]


class Prefill(nn.Module):
    """Logits of the last position, and the cache of the whole prompt."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Pairs]:
        outputs = self.model(input_ids=input_ids, use_cache=True)
        return outputs.logits[:, -1], pairs_of(outputs)


class Decode(nn.Module):
    """Logits of one new token, and the cache with it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, cache: Pairs) -> tuple[Tensor, Pairs]:
        from transformers.cache_utils import DynamicCache

        outputs = self.model(input_ids=input_ids, past_key_values=DynamicCache(ddp_cache_data=cache), use_cache=True)
        return outputs.logits[:, -1], pairs_of(outputs)


def pairs_of(outputs: Any) -> Pairs:
    """Keys and values by layer.

    Raises:
        RequestError: the model keeps another kind of state.
    """
    layers = getattr(getattr(outputs, "past_key_values", None), "layers", None)
    if not layers or any(not isinstance(getattr(layer, "keys", None), Tensor) for layer in layers):
        kind = type(getattr(outputs, "past_key_values", None) or getattr(outputs, "cache_params", None)).__name__
        raise RequestError(f"this model keeps no keys and values but {kind}", where="mode", help="Write mode=inference or mode=training.")
    return [(layer.keys, layer.values) for layer in layers]


def prefill_inputs(config: Any, settings: Settings) -> dict[str, Any]:
    """`input_ids` [batch, seq]."""
    return {"input_ids": torch.randint(0, _vocab(config), (settings.number("batch"), settings.number("seq")))}


def decode_inputs(build: Callable[[], nn.Module], config: Any, settings: Settings) -> dict[str, Any]:
    """`input_ids` [batch, 1] and the cache of `seq` earlier tokens, whose shapes a run on shapes alone tells."""
    now = _get_current_dispatch_mode()
    shapes_only = contextlib.nullcontext() if isinstance(now, FakeTensorMode) else FakeTensorMode(allow_non_fake_inputs=True)
    with shapes_only, torch.no_grad(), as_if_exporting():
        prompt = torch.randint(0, _vocab(config), (settings.number("batch"), settings.number("seq")))
        shapes = [(tuple(key.shape), tuple(value.shape), key.dtype) for key, value in pairs_of(build()(input_ids=prompt, use_cache=True))]
    cache = [(torch.randn(keys, dtype=dtype), torch.randn(values, dtype=dtype)) for keys, values, dtype in shapes]
    return {"input_ids": torch.randint(0, _vocab(config), (settings.number("batch"), 1)), "cache": cache}


def _vocab(config: Any) -> int:
    return int(config.get_text_config().vocab_size)
