"""Accumulate embedding gradient: rows are added where the table's other gradient is already.

## Why it is slow
A language model whose embedding is also its last layer has two gradients for one table: a product, which fills all of it, and the sum of the rows that words
picked, which touches few. Autodiff makes the second as a table of its own: zeros of the vocabulary's size, some rows added, and then both tables are
read and their sum written. For GPT-2 that is 154 MB five times in each step.

## What changes
The rows are added to the product (`index_add`, in place where nobody else reads the product): the table of zeros never exists (Press and Wolf 2017, *Using the Output Embedding to Improve Language Models*, section 3, say which two gradients
meet there).

## When it does not apply
Somebody else reads the rows' table, as when the embedding is not tied. Gradients divided by how often a word occurs (`scale_grad_by_freq`). The two in different precisions.
A padding word's rows are left out by setting them to zero first, which for a small table costs more than it saves. Rows that occur twice are added in no fixed order on a GPU, as in `embedding_dense_backward`.

## Try it
GPT-2 in training: the peak falls by one table where it stands at the end of backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.cost import value_bytes
from optimizers.base import Example, Match, Miss, Optimization, value_of
from optimizers.editing import call, viewed
from optimizers.in_place import ask_in_place
from optimizers.record import Claim

aten = torch.ops.aten
TABLE = aten.embedding_dense_backward.default


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every table of summed rows that is added to something."""
    taken: set[fx.Node] = set()
    for table in gm.graph.find_nodes(op="call_function", target=TABLE):
        sums = [user for user in table.users if user.target is aten.add.Tensor]
        if not sums or sums[0] in taken:
            continue
        reason = _why_not(table, sums[0])
        if reason:
            yield Miss(table, reason)
            continue
        taken.add(sums[0])
        words, width = value_of(table).shape
        yield Match(table, (table, sums[0]), note=f"a table of {words:,} × {width:,}")


def _why_not(table: fx.Node, total: fx.Node) -> str:
    if len(table.users) != 1:
        return "Others read the table of rows too, so it must exist."
    if table.args[4]:
        return "It divides rows by how often their word occurs."
    if total.kwargs or len(total.all_input_nodes) != 2:
        return "It is added with a factor, or to itself."
    whole, other = value_of(table), value_of(_other(table, total))
    if whole.shape != other.shape or whole.dtype != other.dtype:
        return "What it is added to has another shape or precision."
    saved, spent = 2 * value_bytes(whole), _copies(table)
    if spent >= saved:
        return f"Leaving out padding, or putting rows in order, would move {spent:,} bytes; only {saved:,} are saved."
    return ""


def _copies(table: fx.Node) -> int:
    """Bytes of the operators that rows go through first: read and written each time."""
    gradient, words, _, padding = table.args[:4]
    rows, at = value_of(gradient), value_of(words)  # type: ignore[arg-type]
    masks = 2 * value_bytes(rows) + value_bytes(at) + 2 * at.numel() if isinstance(padding, int) and padding >= 0 else 0
    return masks + sum(2 * value_bytes(each) for each in (rows, at) if not each.is_contiguous())


def _other(table: fx.Node, total: fx.Node) -> fx.Node:
    return next(read for read in total.all_input_nodes if read is not table)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Rows added to the other gradient, in the place of the sum."""
    table, total = match.nodes
    gradient, words, _, padding = table.args[:4]
    width = value_of(table).shape[-1]
    with gm.graph.inserting_before(total):
        at = viewed(gm, words, (-1,))  # type: ignore[arg-type]
        rows = viewed(gm, gradient, (-1, width))  # type: ignore[arg-type]
        if isinstance(padding, int) and padding >= 0:
            is_padding = call(gm, aten.unsqueeze.default, call(gm, aten.eq.Scalar, at, padding), 1)
            rows = call(gm, aten.masked_fill.Scalar, rows, is_padding, 0.0)
        added = call(gm, aten.index_add.default, _other(table, total), 0, at, rows)
        ask_in_place(added)
        total.replace_all_uses_with(added)


class _Tied(nn.Module):
    """Words to hidden states to words, by one table."""

    def __init__(self, padding: int | None = None, tied: bool = True, by_frequency: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(32, 8, padding_idx=padding, scale_grad_by_freq=by_frequency)
        self.mixing, self.head = nn.Linear(8, 8), nn.Linear(8, 32, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.mixing(self.words(tokens)).tanh())


def _tokens() -> tuple[Tensor]:
    return (torch.randint(0, 32, (2, 6)),)


OPTIMIZATION = Optimization(
    name="accumulate-embedding-gradient",
    summary="The gradient of picked rows is added to the table's other gradient; no table of zeros in between.",
    find=find,
    rewrite=rewrite,
    # Padding, and gradients that do not lie in order, cost an operator each; additions are counted over the table.
    claim=Claim(launches="any", flops="any", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(_Tied, _tokens, "training", matches=1),
        Example(lambda: _Tied(padding=0), _tokens, "training", matches=1),
    ),
    refusals=(
        Example(lambda: _Tied(by_frequency=True), _tokens, "training", reason="how often"),
        Example(lambda: _Tied(padding=0), lambda: (torch.randint(0, 32, (8, 8)),), "training", reason="only 2,048 are saved"),
    ),
    applies_to=("training",),
    exactness="rounding",
)
