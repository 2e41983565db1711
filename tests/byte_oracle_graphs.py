"""The small graphs whose best memory traffic PyTorch's own tests state: function, inputs, and elements (of 4 bytes) that cross memory at least.

Graphs and figures are those of `test/inductor/test_perf.py` of PyTorch (read at commit 0161a06d), written anew. There each kernel's buffers are counted
once, as `graphs/cost.py` counts; indices are numbers of 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

aten = torch.ops.aten


@dataclass(frozen=True)
class Case:
    """A graph and its oracle.

    Attributes:
        shapes: of the operands, all float32, or tensors themselves.
        trains: gradients of all operands belong to the graph, those of the results are operands.
        gap: how many elements are counted here where it is more, and why.
    """

    name: str
    function: Callable[..., Any]
    shapes: tuple[tuple[int, ...] | Tensor, ...]
    elements: int
    trains: bool = False
    gap: str = ""

    def operands(self) -> tuple[Tensor, ...]:
        return tuple(given if isinstance(given, Tensor) else torch.randn(given) for given in self.shapes)


def _indices(count: int, below: int) -> Tensor:
    return torch.randint(0, below, (count,), dtype=torch.int32)


def _cos_mm_cos(x: Tensor) -> Tensor:
    x = x.cos()
    return (x @ x).cos()


def _norm_chain(a: Tensor) -> Tensor:
    for _ in range(3):
        a = a * a.sum(1, keepdim=True)
    return a


def _double_softmax(x: Tensor) -> Tensor:
    return x.softmax(1).softmax(1)


def _neighbor(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b) ** 2).sum(-1).amax(1)


def _written(a: Tensor, b: Tensor, c: Tensor) -> None:
    total = a + c
    b.copy_(b + total)
    a.copy_(total)


def _choice1(a: Tensor) -> Tensor:
    c = a.cos()
    return c @ c + c.cos()


def _choice2(a: Tensor) -> Tensor:
    c = a.cos()
    return c @ c + c.sum(1)


def _choice3(a: Tensor) -> tuple[Tensor, Tensor]:
    c = a.cos()
    e = c + a
    return c @ c + e, e


def _choice4(a: Tensor, b: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    c = a + b
    e = c + b + other
    return c @ c + e + other, e


def _unrematerialized(a: Tensor) -> Tensor:
    a = a @ a + 1
    return a @ (a + 2)


def _scattered(a: Tensor, b: Tensor) -> Tensor:
    a = a.cos()
    a[b] = 1
    return a


def _scattered_columns(a: Tensor, b: Tensor) -> Tensor:
    a[:, b] = 1
    return a


# Why more is counted, with the elements.
PART = "600: what a library multiplies is a tensor of its own and never a part of another, so the concatenation reads and writes its 100 elements again"
INPUT = (
    "203: the model writes into its input, which no step may overwrite, so the 80 elements that stay are copied beside the 20 that change"
)
STATISTICS = "240: one operator alone is not compiled, and torch's writes mean and rate of every row, which nobody reads"
BOTH_WAYS = "920: sums over rows and over columns are two loops; the 400 elements that both add up are stored between them, and not computed in each"
TWICE = "80: tanh is computed once, in the loop of its gradient, and stored for the concatenation; computed there again nothing of it would be stored"
CROSSED = "310: sums over columns walk along columns, the cosine along rows, so the operand is read by two loops"
SQUARE, TEN = (10, 10), (10,)
CASES = (
    Case("cosine", lambda x: x.cos(), (TEN,), 20),
    Case("sum of two", lambda x, y: x + y, (TEN, TEN), 30),
    Case("sum with a broadcast row", lambda x, y: x + y, (SQUARE, TEN), 210),
    Case("sum with itself", lambda x: x + x, (TEN,), 20),
    Case("sum with its transpose", lambda x: x + x.t(), (SQUARE,), 200),
    Case("two results side by side", lambda a, b, c: (a.cos(), b.sin() + c.sin()), (TEN, TEN, TEN), 50),
    Case("row sums", lambda x: x.sum(1), (SQUARE,), 110),
    Case("column sums", lambda x: x.sum(0), (SQUARE,), 110),
    Case("matmul with itself", lambda x: torch.mm(x, x), (SQUARE,), 200),
    Case("matmul", torch.mm, (SQUARE, SQUARE), 300),
    Case("cosine, matmul, cosine", _cos_mm_cos, (SQUARE,), 600),
    Case("cosine and sine into a matmul", lambda x: torch.mm(x.cos(), x.sin()), (SQUARE,), 600),
    Case("concatenated sines", lambda a, b: torch.cat([a.sin(), b.sin()]), (TEN, TEN), 40),
    Case("concatenation", lambda a, b: torch.cat([a, b]), (TEN, TEN), 40),
    Case("concatenated cosine and operand", lambda a, b: torch.cat([a.cos(), b]), (TEN, TEN), 40),
    Case("concatenated cosine and sine of one", lambda a: torch.cat([a.cos(), a.sin()]), (TEN,), 30),
    Case("concatenated matmul and sine", lambda a, b: torch.cat([a @ a, b.sin()]), (SQUARE, SQUARE), 400, gap=PART),
    Case("three concatenated, plus ten", lambda a, b, c: torch.cat((a + 1, b + 2, c + 3)) + 10, (SQUARE,) * 3, 600),
    Case("five concatenated, plus ten", lambda *given: torch.cat([x + i for i, x in enumerate(given, 1)]) + 10, (SQUARE,) * 5, 2000),
    Case("concatenated column sums", lambda a, b: torch.cat([a.sum(0), b.sum(0)]) + 10, ((10, 10, 10),) * 2, 2600),
    Case("gather", lambda a, b: a[b], (TEN, _indices(10, 10)), 30),
    Case("row sums beside cosine", lambda a: (a.sum(1), a.cos()), (SQUARE,), 210),
    Case("row sums beside row maxima", lambda a: (a.sum(1), a.amax(1)), (SQUARE,), 120),
    Case("row sums plus cosine of a row", lambda a, b: b.cos() + a.sum(1), (SQUARE, TEN), 120),
    Case("column sums plus cosine of a row", lambda a, b: b.cos() + a.sum(0), (SQUARE, TEN), 120),
    Case("row sums times a broadcast row", lambda a, b: a.sum(1, keepdim=True) * b.cos(), (SQUARE, TEN), 210),
    Case("cosine, row sums, cosine", lambda a: a.cos().sum(1).cos(), (SQUARE,), 110),
    Case("three normalizations in a row", _norm_chain, (SQUARE,), 200),
    Case("softmax", lambda a: a.softmax(1), (SQUARE,), 200),
    Case(
        "layer norm",
        nn.LayerNorm(10),
        (SQUARE,),
        220,
        gap=STATISTICS,
    ),
    Case("two softmaxes in a row", _double_softmax, (SQUARE,), 200),
    Case("softmax backward", lambda g, y: aten._softmax_backward_data(g, y, 1, torch.float32), (SQUARE, SQUARE), 300),
    Case("largest distance, width 4", _neighbor, ((10, 1, 4), (1, 10, 4)), 90),
    Case("sums of constants", lambda x: (torch.ones(10) + torch.ones(10, 10)).sum(-1), (TEN,), 10),
    Case("gathered rows, cosine", lambda a, b: a[b].cos(), (SQUARE, _indices(20, 10)), 320),
    Case("gathered rows, cosine, row sums", lambda a, b: a[b].cos().sum(1), (SQUARE, _indices(20, 10)), 140),
    Case("two operands written", _written, (SQUARE,) * 3, 500),
    Case("break anywhere", _choice1, (SQUARE,), 700),
    Case("keep the small one", _choice2, (SQUARE,), 620),
    Case("keep the one that is wanted anyway", _choice3, (SQUARE,), 800),
    Case("plus a transpose", lambda a, b: a + b.t(), (SQUARE, SQUARE), 300),
    Case("transpose plus", lambda a, b: a.t() + b, (SQUARE, SQUARE), 300),
    Case("three ways through a cube", lambda a, b, c: a + b.permute(1, 2, 0) + c.permute(2, 0, 1), ((10, 10, 10),) * 3, 4000),
    Case("three cosines, training", lambda x: x.cos().cos().cos(), (TEN,), 50, trains=True),
    Case("sum of four, two cosines, training", lambda a, b, c, d: (a + b + c + d).cos().cos(), (TEN,) * 4, 90, trains=True),
    Case("masked by its sign, training", lambda x: (x < 0) * x, ((100,),), 450, trains=True),
    Case("matmul and two tanh, training", lambda x: (x @ x.new_ones(x.shape)).tanh().tanh(), (SQUARE,), 1300, trains=True),
    Case("two matmuls, training", _unrematerialized, (SQUARE,), 2600, trains=True),
    Case("outer product, row sums, training", lambda a, b: (a * b).cos().sum(1), ((20, 1), (1, 20)), 220, trains=True, gap=BOTH_WAYS),
    Case("concatenated tanh, training", lambda a, b: torch.cat([a.tanh(), b]), (TEN, TEN), 70, trains=True, gap=TWICE),
    Case("scatter into a cosine", _scattered, (TEN, _indices(2, 5)), 26),
    Case("scatter into columns", _scattered_columns, (SQUARE, _indices(2, 5)), 42, gap=INPUT),
    # What PyTorch's tests call "would be nice": Inductor misses all four.
    Case(
        "nice: column sums beside cosine",
        lambda a: (a.sum(0), a.cos()),
        (SQUARE,),
        210,
        gap=CROSSED,
    ),
    Case("nice: softmax over columns", lambda a: a.softmax(0), (SQUARE,), 200),
    Case("nice: two roads into a matmul", _choice4, (SQUARE, torch.randn(SQUARE).half(), SQUARE), 1000),
    Case("nice: largest distance, width 8", _neighbor, ((10, 1, 8), (1, 10, 8)), 170),
)
