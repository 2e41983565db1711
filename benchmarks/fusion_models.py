"""The models of the fusion benchmark, and what was counted for them elsewhere.

Families of language models come from `transformers`, built from sizes alone; the two convolutional networks that the zoo does not have are
written here. Every model's arguments are random, its loss is its own or the mean of squares of its first output.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import config_source, hf_source
from graphs.sources.zoo import zoo_source


@dataclass(frozen=True)
class Row:
    """One model in one mode, with the figures of an earlier count of Inductor.

    Attributes:
        eager_calls: dispatched operators that are no views, after decomposition.
        kernels: nodes of Inductor's scheduler after fusion, parts of results of several included.
        bytes_ratio: Inductor's bytes over the bytes of all eager operators.
        most: the launches that are wanted at most, where more is wanted than not to be worse than Inductor.
    """

    title: str
    mode: str
    source: Callable[[], ModelSource]
    eager_calls: int
    kernels: int
    bytes_ratio: float
    most: int | None = None


class InvertedResidual(nn.Module):
    """Widen 1 × 1, depthwise 3 × 3, narrow 1 × 1; a shortcut where shapes allow."""

    def __init__(self, inside: int, outside: int, stride: int, widening: int) -> None:
        super().__init__()
        width = inside * widening
        widen = [] if widening == 1 else [nn.Conv2d(inside, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        depthwise = [nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        self.layers = nn.Sequential(*widen, *depthwise, nn.Conv2d(width, outside, 1, bias=False), nn.BatchNorm2d(outside))
        self.shortcut = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.shortcut else self.layers(x)


class MobileNetV2(nn.Module):
    """Sandler et al. 2018, *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, table 2."""

    STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
        inside = 32
        for widening, outside, repeats, stride in self.STAGES:
            for place in range(repeats):
                layers.append(InvertedResidual(inside, outside, stride if place == 0 else 1, widening))
                inside = outside
        self.features = nn.Sequential(*layers, nn.Conv2d(inside, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU6())
        self.head = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def _double(inside: int, outside: int) -> nn.Sequential:
    parts = ((inside, outside), (outside, outside))
    return nn.Sequential(*(each for a, b in parts for each in (nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU())))


class UNet(nn.Module):
    """Ronneberger et al. 2015 with batch norm and padding: 19 convolutions, four halvings, four doublings by repetition of pixels."""

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        sizes = [width << level for level in range(depth + 1)]
        self.enter = _double(3, width)
        self.down = nn.ModuleList(_double(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.up = nn.ModuleList(_double(a + b, a) for a, b in reversed(list(zip(sizes, sizes[1:], strict=False))))
        self.leave = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, skips = self.enter(x), []
        for block in self.down:
            skips.append(x)
            x = block(nn.functional.max_pool2d(x, 2))
        for block in self.up:
            x = block(torch.cat([skips.pop(), nn.functional.interpolate(x, scale_factor=2.0)], 1))
        return self.leave(x)


def images(model: type[nn.Module], batch: int, side: int) -> ModelSource:
    """A network on random images."""
    return ModelSource(model.__name__, model, lambda: (torch.randn(batch, 3, side, side),), None, (__file__,))


def sized(fields: dict[str, Any], options: dict[str, str], mode: str) -> ModelSource:
    """A model of `transformers` from the fields of its configuration."""
    return config_source(json.dumps(fields), fields["model_type"], options, mode)


def gpt2(mode: str, layers: int = 2, batch: int = 4, seq: int = 512, attention: str = "sdpa") -> ModelSource:
    return hf_source("gpt2", {"layers": str(layers), "batch": str(batch), "seq": str(seq), "attention": attention}, mode)


def bert(mode: str, layers: int = 2, batch: int = 8, seq: int = 128) -> ModelSource:
    """BERT base without its head: sequences of hidden states."""
    options = {"layers": str(layers), "batch": str(batch), "seq": str(seq)}
    source = sized({"model_type": "bert", "architectures": ["BertModel"]}, options, mode)
    return ModelSource(source.name, lambda: _without_pooler(source.build()), source.inputs, None, source.files)


def _without_pooler(model: Any) -> nn.Module:
    model.pooler = None
    return model


LLAMA_160M = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_key_value_heads": 12, "vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
}  # fmt: skip


def llama(mode: str, layers: int = 2, batch: int = 4, seq: int = 512) -> ModelSource:
    """Llama in the sizes of Llama 160M."""
    return sized(LLAMA_160M, {"layers": str(layers), "batch": str(batch), "seq": str(seq)}, mode)


def resnet(depth: int, batch: int = 32, side: int = 224) -> ModelSource:
    return zoo_source(f"resnet{depth}", {"batch": str(batch), "image": str(side)})


# Counted with torch 2.13.0 on a 2-core CPU, before this project could fuse: eager calls, Inductor's kernels, bytes over eager bytes.
ROWS = (
    Row("GPT-2, 2 layers, 4 × 512", "inference", lambda: gpt2("inference"), 193, 34, 0.305),
    Row("GPT-2, attention by hand", "inference", lambda: gpt2("inference", attention="eager"), 194, 45, 0.338),
    Row("BERT, 2 layers, 8 × 128", "inference", lambda: bert("inference"), 149, 30, 0.298, most=26),
    Row("Llama 160M, 2 layers, 4 × 512", "inference", lambda: llama("inference"), 283, 45, 0.378),
    Row("ResNet-18, batch 32", "inference", lambda: resnet(18), 135, 61, 0.531),
    Row("ResNet-50, batch 32", "inference", lambda: resnet(50), 340, 126, 0.472, most=60),
    Row("MobileNetV2, batch 32", "inference", lambda: images(MobileNetV2, 32, 224), 314, 111, 0.354, most=60),
    Row("U-Net, 4 × 256²", "inference", lambda: images(UNet, 4, 256), 126, 62, 0.492),
    Row("GPT-2, 2 layers, 4 × 512", "training", lambda: gpt2("training"), 842, 108, 0.169),
    Row("GPT-2, attention by hand", "training", lambda: gpt2("training", attention="eager"), 1025, 120, 0.178),
    Row("BERT, 2 layers, 8 × 128", "training", lambda: bert("training"), 944, 103, 0.223),
    Row("Llama 160M, 2 layers, 4 × 512", "training", lambda: llama("training"), 1309, 108, 0.188),
    Row("ResNet-18, batch 32", "training", lambda: resnet(18), 787, 208, 0.532),
)
