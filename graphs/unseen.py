"""Memory that no result's shape shows: what stays with a result, and what an operator takes only while it runs.

Some losses of torch compute all terms into a buffer, sum them there, and give back the one number in that buffer: it keeps the memory of
all terms for as long as the number lives, which for the loss of a training graph is to the end. (`at::mean_out` and `sum_out` make the
shape smaller, never the storage.) Found by running them with torch 2.13 on a CPU; the other losses give back a buffer of one number.

On CUDA the backward of softmax multiplies gradient and probabilities into a tensor of its own before its kernel runs (`softmax_backward_cuda_out` in ATen's
`SoftMax.cu`), which for written-out attention is one more matrix of scores. Workspaces of cuDNN and cuBLAS are chosen by these libraries and are not counted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

aten = torch.ops.aten
MULTIPLIED_BEFORE = (aten._softmax_backward_data,)
SUMMED_IN_PLACE = (aten.mse_loss, aten.smooth_l1_loss, aten.binary_cross_entropy, aten.soft_margin_loss)


def unseen_bytes(node: fx.Node) -> int:
    """Bytes of the storage of a node's result beyond those of the result itself."""
    if getattr(node.target, "overloadpacket", None) not in SUMMED_IN_PLACE:
        return 0
    value = node.meta["val"]
    terms = [read.meta["val"].shape for read in node.args[:2] if isinstance(read, fx.Node) and isinstance(read.meta["val"], Tensor)]
    return max(0, math.prod(torch.broadcast_shapes(*terms)) - value.numel()) * value.element_size()


def workspace_bytes(node: fx.Node) -> int:
    """Bytes that the operator takes beside its results and gives back before it ends."""
    if getattr(node.target, "overloadpacket", None) not in MULTIPLIED_BEFORE:
        return 0
    value, gradient = node.meta["val"], node.args[0]
    assert isinstance(gradient, fx.Node)
    return value.numel() * gradient.meta["val"].element_size() if value.device.type == "cuda" else 0
