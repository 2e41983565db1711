"""The last linear layer and the cross-entropy after it as one operator that never holds all logits.

The logits of a language model are its largest tensor: tokens · vocabulary numbers, several times over. But each row's loss needs that row alone, and so do the gradients
it contributes. The operators here go over the rows in chunks: logits of a chunk, their log-softmax, the losses, and in training at once the gradient of the logits
and what it adds to the gradients of the hidden states and the weight. (The idea: Hsu et al. 2024, *Liger Kernel*, section 3.2, FusedLinearCrossEntropy.)

The weight's gradient is summed where it is given out. In bfloat16 and float16 every sum is rounded, and what is small beside the sum so far gets lost. So the gradients
of the logits of several chunks are held, narrow, until an eighth of all rows is there, and one product adds them. With eight roundings in the place of one the
error stays within what the verdict calls rounding. Where the weight is so small that an eighth of the rows would take more, the sum is in float32 beside it.

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
ROUNDINGS = 8  # how often a narrow weight's gradient may be rounded, once for each product that is added
BLOCKS = 8  # of words: a product is added to a float32 sum in so many pieces, so that it is never there as a whole


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
    def rounds(self) -> bool:
        """Is a sum in the weight's own dtype rounded so coarsely that it may not be done for every chunk?"""
        return self.gradient and self.dtype.itemsize < 4

    @property
    def sums_apart(self) -> bool:
        """Is the weight's gradient summed in float32, and rounded once at the end, because that takes less than holding rows?"""
        apart = self.words * self.width * 4 + self.block * self.width * self.dtype.itemsize
        return self.rounds and apart < (self._few_products - self.rows) * self.words * self.dtype.itemsize

    @property
    def held(self) -> int:
        """Rows of logits' gradients that are there before they are added to the weight's gradient, by one product."""
        return self._few_products if self.rounds and not self.sums_apart else self.rows

    @property
    def _few_products(self) -> int:
        """Rows of a product, whole chunks, so that there are at most `ROUNDINGS` products."""
        return min(self.tokens, -(-self.tokens // (ROUNDINGS * self.rows)) * self.rows)

    @property
    def block(self) -> int:
        """Words of a piece of a product that is added to a float32 sum."""
        return -(-self.words // BLOCKS)

    def parts(self) -> list[tuple[tuple[int, int], torch.dtype]]:
        """Shapes and dtypes that make up the workspace: logits and then their gradients; log-probabilities; logits cast; the sum and a piece of a product."""
        chunk = (self.rows, self.words)
        return [
            ((self.held, self.words), self.dtype),
            (chunk, self.wide),
            *([(chunk, self.wide)] if self.narrow else []),
            *([((self.words, self.width), torch.float32), ((self.block, self.width), self.dtype)] if self.sums_apart else []),
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
    logits, weight = size.tokens * size.words, size.words * size.width
    wide, narrow = size.wide.itemsize, size.dtype.itemsize
    chunks, hidden, row = -(-size.tokens // size.rows), size.tokens * size.width * narrow, size.tokens * wide
    products = 2 * logits * size.width
    # The product, the cast, the log-softmax, and of each row the one number that its target picks.
    launches = chunks * (3 + size.narrow) + (7 if reduction == NONE else 9 + (size.wide.itemsize < 4))
    read = hidden + chunks * (weight + size.bias * size.words) * narrow + logits * (size.narrow * narrow + wide) + 8 * size.tokens + row
    written = logits * (narrow + wide + size.narrow * wide) + row
    read, written = read + 18 * size.tokens + 3 * row, written + 9 * size.tokens + 2 * row  # which rows count, and their losses
    more = _work_backward(size, reduction) if size.gradient else Cost()
    flops, products = products + 5 * logits + more.flops, products + more.matmul_flops
    return Cost(flops, products, read + more.bytes_read, written + more.bytes_written, launches + more.launches)


def _work_backward(size: Sizes, reduction: int) -> Cost:
    """What training adds: the gradient of the logits in every chunk, and for all rows that are held the sums."""
    logits, weight = size.tokens * size.words, size.words * size.width
    wide, narrow = size.wide.itemsize, size.dtype.itemsize
    hidden, row = size.tokens * size.width * narrow, size.tokens * wide
    chunks, groups, pieces = (
        -(-size.tokens // size.rows),
        -(-size.tokens // size.held),
        -(-size.words // size.block) if size.sums_apart else 1,
    )
    launches = chunks * (3 + size.narrow) + groups * (1 + pieces * (1 + size.sums_apart) + 2 * size.bias)
    launches += (6 if reduction == MEAN else 4) + size.sums_apart + size.bias
    flops = 3 * logits + size.bias * (logits + groups * size.words) + size.sums_apart * groups * weight
    read = logits * (2 * wide + size.narrow * wide + (2 + size.bias) * narrow) + pieces * hidden + 10 * size.tokens + 4 * row
    read += groups * weight * (narrow + (narrow + 4 if size.sums_apart else narrow)) + size.bias * groups * 2 * size.words * narrow
    written = logits * (2 * wide + size.narrow * narrow) + hidden + 2 * row
    written += groups * weight * (narrow + 4 if size.sums_apart else narrow) + size.bias * (2 * groups + 1) * size.words * narrow
    if size.sums_apart:
        read, written = read + weight * 4, written + weight * 4
    products = 4 * logits * size.width
    return Cost(products + flops, products, read, written + weight * narrow, launches)


def _aligned(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _carved(workspace: Tensor, size: Sizes) -> Iterator[Tensor]:
    start = 0
    for shape, dtype in size.parts():
        length = math.prod(shape) * dtype.itemsize
        yield workspace[start : start + length].view(dtype).view(shape)
        start += _aligned(length)


def _steps(start: int, stop: int, step: int) -> Iterator[slice]:
    for at in range(start, stop, step):
        yield slice(at, min(at + step, stop))


class _Chunks:
    """The loop: rows in, losses and gradients out."""

    def __init__(self, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, ignore: int, size: Sizes) -> None:
        self.x, self.weight, self.bias, self.size = x, weight, bias, size
        self.kept = target != ignore
        self.target = torch.where(self.kept, target, 0).unsqueeze(1)
        self.workspace = x.new_empty(size.workspace(), dtype=torch.uint8)
        self.narrow, self.log_probabilities, *others = _carved(self.workspace, size)
        self.logits = others.pop(0) if size.narrow else None
        self.sum, self.product = others if others else (None, None)
        self.picked = x.new_empty((size.tokens, 1), dtype=size.wide)

    def groups(self) -> Iterator[slice]:
        """Rows whose gradients are added at once."""
        return _steps(0, self.size.tokens, self.size.held)

    def chunks(self, group: slice) -> Iterator[slice]:
        return _steps(group.start, group.stop, self.size.rows)

    def forward(self, part: slice, narrow: Tensor) -> Tensor:
        """Logits of the chunk into `narrow`, and their log-softmax, of which the one of the row's target is noted."""
        logs = self.log_probabilities[: len(narrow)]
        if self.bias is None:
            torch.mm(self.x[part], self.weight.t(), out=narrow)
        else:
            torch.addmm(self.bias, self.x[part], self.weight.t(), out=narrow)
        logits = narrow if self.logits is None else self.logits[: len(narrow)].copy_(narrow)
        aten._log_softmax.out(logits, 1, False, out=logs)
        torch.gather(logs, 1, self.target[part], out=self.picked[part])
        return logs

    def backward(self, part: slice, narrow: Tensor, logs: Tensor, scale: Tensor, minus: Tensor) -> None:
        """Gradient of the chunk's logits, (softmax − one-hot) · scale, over the logits in `narrow`."""
        logs.exp_().scatter_add_(1, self.target[part], minus[: len(logs)])
        if self.size.narrow:
            narrow.copy_(logs.mul_(scale[part]))
        else:
            torch.mul(logs, scale[part], out=narrow)

    def add(self, group: slice, of_x: Tensor, of_weight: Tensor, of_bias: Tensor) -> None:
        """What the gradients of the group's logits add to the gradients of hidden states, weight and bias."""
        gradient = self.narrow[: group.stop - group.start]
        torch.mm(gradient, self.weight, out=of_x[group])
        if self.sum is None or self.product is None:
            of_weight.addmm_(gradient.t(), self.x[group])
        else:
            for words in _steps(0, self.size.words, self.size.block):
                product = self.product[: words.stop - words.start]
                self.sum[words].add_(torch.mm(gradient[:, words].t(), self.x[group], out=product))
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
    for part in chunks.chunks(slice(0, len(x))):
        chunks.forward(part, chunks.narrow[: part.stop - part.start])
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
    for group in chunks.groups():
        for part in chunks.chunks(group):
            narrow = chunks.narrow[part.start - group.start : part.stop - group.start]
            chunks.backward(part, narrow, chunks.forward(part, narrow), scale, minus)
        chunks.add(group, of_x, of_weight, of_bias)
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
