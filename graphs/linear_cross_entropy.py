"""The last linear layer and the cross-entropy after it as one operator that never holds all logits.

The logits of a language model are its largest tensor: tokens · vocabulary numbers, several times over. But each row's loss needs that row alone, and so do the gradients
it contributes. The operators here go over the rows in chunks: logits of a chunk, their log-softmax, the losses, and in training at once the gradient of the logits
and what it adds to the gradients of the hidden states and the weight. (The idea: Hsu et al. 2024, *Liger Kernel*, section 3.2, FusedLinearCrossEntropy.)

All memory that a chunk needs is one workspace, which is given out as a result that nobody reads: so it is counted where memory is counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphs.record import Cost

aten = torch.ops.aten
NONE, MEAN, SUM = range(3)  # how torch numbers reductions
ALIGNED = 64  # bytes between the starts of two parts of the workspace


@dataclass(frozen=True)
class Sizes:
    """What decides how much work there is.

    Attributes:
        tokens, width, words: rows of the hidden states, their width, and the vocabulary.
        rows: in a chunk.
        dtype, wide: of the hidden states and weight, and of the log-softmax.
        bias, gradient: is there a bias; are gradients computed too?
    """

    tokens: int
    width: int
    words: int
    rows: int
    dtype: torch.dtype
    wide: torch.dtype
    bias: bool
    gradient: bool

    @property
    def narrow(self) -> bool:
        """Do logits have to be cast before the log-softmax?"""
        return self.dtype != self.wide

    @property
    def sums_apart(self) -> bool:
        """Is the weight's gradient summed in float32, and rounded once at the end?"""
        return self.gradient and self.dtype.itemsize < 4

    def parts(self) -> list[tuple[tuple[int, int], torch.dtype]]:
        """Shapes and dtypes that make up the workspace."""
        chunk, weight = (self.rows, self.words), (self.words, self.width)
        return [
            (chunk, self.wide),
            (chunk, self.wide),
            *([(chunk, self.dtype)] if self.narrow else []),
            *([(weight, torch.float32), (weight, self.dtype)] if self.sums_apart else []),
        ]

    def workspace(self) -> int:
        """Bytes of the workspace."""
        return sum(_aligned(math.prod(shape) * dtype.itemsize) for shape, dtype in self.parts())


def sizes(x: Tensor, weight: Tensor, bias: Tensor | None, rows: int, wide: torch.dtype, gradient: bool) -> Sizes:
    """Of one call."""
    tokens, width = x.shape
    return Sizes(tokens, width, weight.shape[0], min(rows, tokens), x.dtype, wide, bias is not None, gradient)


def work(size: Sizes, reduction: int) -> Cost:
    """What the loop really does: operations, bytes and launches of every operator that runs, chunk by chunk."""
    chunks = -(-size.tokens // size.rows)
    logits, weight = size.tokens * size.words, size.words * size.width
    wide, narrow = size.wide.itemsize, size.dtype.itemsize
    hidden, row = size.tokens * size.width * narrow, size.tokens * wide
    products = 2 * logits * size.width * (3 if size.gradient else 1)
    # Forward: the product, the cast, the log-softmax, and of each row the one number that its target picks.
    launches = chunks * (3 + size.narrow) + (7 if reduction == NONE else 9 + (size.wide.itemsize < 4))
    flops = 5 * logits
    read = hidden + chunks * (weight + size.bias * size.words) * narrow + logits * (size.narrow * narrow + wide) + 8 * size.tokens + row
    written = logits * (narrow + wide + size.narrow * wide) + row
    read, written = read + 18 * size.tokens + 3 * row, written + 9 * size.tokens + 2 * row  # which rows count, and their losses
    if size.gradient:
        launches += (
            chunks * (5 + size.narrow + size.sums_apart + 2 * size.bias) + (6 if reduction == MEAN else 4) + size.sums_apart + size.bias
        )
        flops += 3 * logits + size.bias * (logits + chunks * size.words) + size.sums_apart * chunks * weight
        read += logits * (2 * wide + size.narrow * wide + (2 + size.bias) * narrow) + hidden + 8 * size.tokens + 4 * row
        read += chunks * weight * (narrow + (narrow + 4 if size.sums_apart else narrow)) + size.bias * chunks * 2 * size.words * narrow
        read += size.sums_apart * weight * 4 + size.tokens * 2
        written += logits * (2 * wide + size.narrow * narrow) + hidden + 2 * row
        written += chunks * weight * (narrow + 4 if size.sums_apart else narrow) + size.bias * (2 * chunks + 1) * size.words * narrow
        written += weight * (narrow + 4 if size.sums_apart else narrow)
    return Cost(products + flops, products, read, written, launches)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _carved(workspace: Tensor, size: Sizes) -> Iterator[Tensor]:
    start = 0
    for shape, dtype in size.parts():
        length = math.prod(shape) * dtype.itemsize
        yield workspace[start : start + length].view(dtype).view(shape)
        start += _aligned(length)


class _Chunks:
    """The loop: rows in, losses and gradients out."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, ignore: int, size: Sizes) -> None:
        self.x, self.weight, self.bias, self.size = x, weight, bias, size
        self.kept = target != ignore
        self.target = torch.where(self.kept, target, 0).unsqueeze(1)
        self.workspace = x.new_empty(size.workspace(), dtype=torch.uint8)
        first, second, *others = _carved(self.workspace, size)
        self.logits, self.log_probabilities = first, second
        self.narrow = others.pop(0) if size.narrow else first
        self.sum, self.product = others if others else (None, None)
        self.picked = x.new_empty((size.tokens, 1), dtype=size.wide)

    def ranges(self) -> Iterator[slice]:
        for start in range(0, self.size.tokens, self.size.rows):
            yield slice(start, min(start + self.size.rows, self.size.tokens))

    def forward(self, part: slice) -> Tensor:
        """Log-softmax of the chunk's logits; the one of the row's target is noted."""
        count = part.stop - part.start
        narrow, logits, logs = self.narrow[:count], self.logits[:count], self.log_probabilities[:count]
        if self.bias is None:
            torch.mm(self.x[part], self.weight.t(), out=narrow)
        else:
            torch.addmm(self.bias, self.x[part], self.weight.t(), out=narrow)
        if self.size.narrow:
            logits.copy_(narrow)
        aten._log_softmax.out(logits, 1, False, out=logs)
        torch.gather(logs, 1, self.target[part], out=self.picked[part])
        return logs

    def backward(self, part: slice, logs: Tensor, scale: Tensor, minus: Tensor, of_x: Tensor, of_weight: Tensor, of_bias: Tensor) -> None:
        """Gradient of the chunk's logits, (softmax − one-hot) · scale, and what it adds to the gradients."""
        logs.exp_().scatter_add_(1, self.target[part], minus[: len(logs)]).mul_(scale[part])
        gradient = logs
        if self.size.narrow:
            gradient = self.narrow[: len(logs)].copy_(logs)
        torch.mm(gradient, self.weight, out=of_x[part])
        if self.sum is not None and self.product is not None:
            self.sum.add_(torch.mm(gradient.t(), self.x[part], out=self.product))
        else:
            of_weight.addmm_(gradient.t(), self.x[part])
        if self.bias is not None:
            of_bias.add_(gradient.sum(0))

    def loss(self, reduction: int) -> tuple[Tensor, Tensor]:
        """The loss, and by how much the gradient of each row's loss is divided."""
        rows = torch.where(self.kept, self.picked.squeeze(1), 0).neg_()
        if reduction == NONE:
            return rows, rows.new_ones(())
        total = rows.sum(dtype=torch.promote_types(self.size.wide, torch.float32))
        count = self.kept.sum()
        return (total / count if reduction == MEAN else total).to(self.size.wide), count if reduction == MEAN else rows.new_ones(())


@torch.library.custom_op("fxscope::linear_cross_entropy", mutates_args=())
def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, reduction: int, ignore: int, rows: int, wide: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Loss of logits x @ weightᵀ + bias against targets, and the workspace.

    Args:
        x: hidden states [N, H].
        weight: [V, H].
        target: indices [N]; rows where it is `ignore` count nothing.
        reduction: 0 a loss for each row, 1 their mean, 2 their sum.
        rows: in a chunk.
        wide: dtype of the log-softmax and of the loss.
    """
    chunks = _Chunks(x, weight, bias, target, ignore, sizes(x, weight, bias, rows, wide, False))
    for part in chunks.ranges():
        chunks.forward(part)
    return chunks.loss(reduction)[0], chunks.workspace


@torch.library.custom_op("fxscope::linear_cross_entropy_with_gradients", mutates_args=())
def linear_cross_entropy_with_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, reduction: int, ignore: int, rows: int, wide: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Loss, gradients of x, weight and bias (empty where there is none) for the gradient `grad` of the loss, and the workspace."""
    chunks = _Chunks(x, weight, bias, target, ignore, sizes(x, weight, bias, rows, wide, True))
    scale = torch.where(chunks.kept, (grad / chunks.kept.sum() if reduction == MEAN else grad).to(wide), 0).unsqueeze(1)
    minus = x.new_full((chunks.size.rows, 1), -1.0, dtype=wide)
    of_x, of_weight = (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(weight, memory_format=torch.contiguous_format),
    )
    of_bias = torch.zeros_like(bias) if bias is not None else x.new_empty(0)
    (of_weight if chunks.sum is None else chunks.sum).zero_()
    for part in chunks.ranges():
        chunks.backward(part, chunks.forward(part), scale, minus, of_x, of_weight, of_bias)
    if chunks.sum is not None:
        of_weight.copy_(chunks.sum)
    return chunks.loss(reduction)[0], of_x, of_weight, of_bias, chunks.workspace


@linear_cross_entropy.register_fake
def _(x, weight, bias, target, reduction, ignore, rows, wide):  # noqa: ANN001, ANN202
    size = sizes(x, weight, bias, rows, wide, False)
    return x.new_empty(target.shape if reduction == NONE else (), dtype=wide), x.new_empty(size.workspace(), dtype=torch.uint8)


@linear_cross_entropy_with_gradients.register_fake
def _(grad, x, weight, bias, target, reduction, ignore, rows, wide):  # noqa: ANN001, ANN202
    size = sizes(x, weight, bias, rows, wide, True)
    loss = x.new_empty(target.shape if reduction == NONE else (), dtype=wide)
    of_bias = x.new_empty(0) if bias is None else torch.empty_like(bias)
    gradients = x.new_empty(x.shape), weight.new_empty(weight.shape), of_bias
    return loss, *gradients, x.new_empty(size.workspace(), dtype=torch.uint8)
