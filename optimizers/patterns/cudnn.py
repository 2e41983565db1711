"""cuDNN's convolutions with a ReLU behind: torch has no shapes of theirs for fake tensors; here they are those of a plain convolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.library import register_fake

aten = torch.ops.aten


@register_fake("aten::cudnn_convolution_relu")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int) -> Tensor:
    return aten.convolution.default(x, weight, bias, stride, padding, dilation, False, [0] * len(stride), groups)


@register_fake("aten::cudnn_convolution_add_relu")
def _(
    x: Tensor,
    weight: Tensor,
    other: Tensor,
    alpha: float | None,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    return aten.cudnn_convolution_relu.default(x, weight, bias, stride, padding, dilation, groups)
