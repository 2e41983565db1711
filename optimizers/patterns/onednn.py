"""oneDNN's kernels with post-operations, the `mkldnn` operators of torch: which values they take, how weights are packed, what they give.

A packed weight is opaque: its memory is in the order that the kernel for one size of input likes best, and nothing but that kernel can
read it. torch knows the shapes of only some of these operators for fake tensors; those of the others are given here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.library import register_fake

mkldnn = torch.ops.mkldnn
LAST = {3: torch.channels_last, 4: torch.channels_last, 5: torch.channels_last_3d}  # an image of one dimension has a height of 1


def why_not(value: Tensor) -> str:
    """Why oneDNN cannot compute with values like this one here; empty where it can."""
    if not torch.backends.mkldnn.is_available():
        return "This build of torch has no oneDNN."
    name = str(value.dtype).removeprefix("torch.")
    supported: dict[torch.dtype, Callable[[], bool]] = {
        torch.float32: lambda: True,
        torch.bfloat16: mkldnn._is_mkldnn_bf16_supported,
        torch.float16: mkldnn._is_mkldnn_fp16_supported,
    }
    if value.dtype not in supported:
        return f"oneDNN has no kernel for {name}."
    return "" if supported[value.dtype]() else f"This processor has no instructions for {name}."


@dataclass(frozen=True)
class Window:
    """How a convolution's filter moves, in two or three dimensions."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int

    @classmethod
    def of(cls, node: fx.Node) -> Window:
        """Read off an `aten.convolution`; one dimension becomes two, of which the first has size 1."""
        flat = len(node.args[3]) == 1  # type: ignore[arg-type]

        def widened(numbers: Any, more: int) -> list[int]:
            return [more, *numbers] if flat else list(numbers)

        return cls(widened(node.args[3], 1), widened(node.args[4], 0), widened(node.args[5], 1), node.args[8])  # type: ignore[arg-type]

    def pack(self, weight: Tensor, size: Sequence[int]) -> Tensor:
        """The filter in the order of the kernel for inputs of that size, [N, C, (D,) H, W]."""
        filters = weight.unsqueeze(2) if weight.dim() == 3 else weight
        return mkldnn._reorder_convolution_weight(filters, self.padding, self.stride, self.dilation, self.groups, list(size))


@register_fake("mkldnn::_reorder_convolution_weight")
def _(weight: Tensor, padding: Any = 0, stride: Any = 1, dilation: Any = 1, groups: int = 1, input_size: Any = None) -> Tensor:
    return torch.empty_like(weight)


@register_fake("mkldnn::_reorder_linear_weight")
def _(weight: Tensor, batch_size: int | None = None) -> Tensor:
    return torch.empty_like(weight)


@register_fake("mkldnn::_linear_pointwise.binary")
def _(x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, attr: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@register_fake("mkldnn::_convolution_pointwise.binary")
def _(
    x: Tensor, other: Tensor, weight: Tensor, bias: Tensor | None, padding: Any, stride: Any, dilation: Any, groups: int, *rest: Any
) -> Tensor:
    return mkldnn._convolution_pointwise.default(x, weight, bias, padding, stride, dilation, groups, "none", [], "")


def with_channels_last(value: Tensor) -> Tensor:
    """A value of that shape, without memory, laid out as convolutions with packed filters give it: the channels of a place side by side."""
    shape = (*value.shape[:2], 1, value.shape[2]) if value.dim() == 3 else tuple(value.shape)
    made = torch.empty(shape, dtype=value.dtype, device="meta").to(memory_format=LAST[value.dim()])
    return made.squeeze(2) if value.dim() == 3 else made
