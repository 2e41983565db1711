"""Recompute log-softmax: backward takes the logarithms of probabilities from the logits again, and of every row two numbers are kept.

## Why it is slow
A loss over many classes keeps for backward the logarithm of every probability: for a language model the largest tensor of the step, as large as the logits and written beside them. What is
needed to make it again from the logits are two numbers for each row: the maximum, and the logarithm of the sum of exponentials.

## What changes
The log-softmax is written out: maximum `m`, `l = log Σ exp(x − m)`, and `(x − m) − l`: for the loss, at the numbers only that its targets pick, and for everything right
before backward. What stands between forward and backward are `m` and `l`; the logits are read instead of their log-softmax. It is the trick by which attention's
backward keeps a row's logarithm and no probabilities (Dao et al. 2022, *FlashAttention*, section 3.1).

## When it does not apply
The graph has no backward, or somebody reads the result as such: then it exists anyway. Rows of few numbers are not worth two. Where the logits would not be there for backward otherwise they now are, in
the place of the result.

## Try it
Alone it moves *more*: every part of the formula is an operator that reads and writes. Follow with *fuse-loops* and compare bytes moved: the forward part becomes one loop over
the rows that writes two numbers for each, and the backward part goes into the loop of the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.cost import is_view
from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of, value_of
from optimizers.editing import call
from optimizers.patterns.numbering import SAME_VALUE, readers
from optimizers.record import Claim

aten = torch.ops.aten
SHORTEST = 8  # numbers in a row, of which two are kept
NOBODYS = -100  # a class that no row can have


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every log-softmax that is kept for backward."""
    for node in gm.graph.find_nodes(op="call_function", target=aten._log_softmax.default):
        if phase_of(node) == "backward":
            continue
        reason = _why_not(node)
        if reason:
            yield Miss(node, reason)
            continue
        note = f"{value_of(node).numel() // _classes(node):,} rows of {_classes(node):,}"
        yield Match(node, (node, *_aliases(node)), note=note)


def _aliases(node: fx.Node) -> list[fx.Node]:
    """Nodes that show the same value."""
    direct = [user for user in node.users if user.target in SAME_VALUE]
    return [*direct, *(deeper for alias in direct for deeper in _aliases(alias))]


def _in_backward(user: fx.Node) -> bool:
    return user.op != "output" and phase_of(user) == "backward"


def _classes(node: fx.Node) -> int:
    value = value_of(node)
    return value.shape[node.args[1]] if value.dim() else 1  # type: ignore[index]


def _why_not(node: fx.Node) -> str:
    reading = list(readers(node))
    if any(user.op == "output" for user in reading):
        return "It is an output of the graph, so it exists anyway."
    looked = next((user for user in reading if is_view(user.target) and any(_in_backward(reader) for reader in user.users)), None)
    if looked is not None:
        return f"Backward reads {looked.name}, a view of it."
    if not any(_in_backward(user) for user in reading):
        return "Backward does not read it."
    if _classes(node) < SHORTEST:
        return f"Its rows have {_classes(node)} numbers: keeping two of each saves nothing worth the work."
    return ""


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The formula in forward, and its last two operators once more before the first backward reader."""
    node = match.anchor
    x, dim = node.args[:2]
    wide = value_of(node).dtype
    late = min(user for user in readers(node) if _in_backward(user))
    with gm.graph.inserting_before(node):
        logits = _widened(gm, x, wide)  # type: ignore[arg-type]
        largest = call(gm, aten.amax.default, logits, [dim], True)
        shifted = call(gm, aten.sub.Tensor, logits, largest)
        total = call(gm, aten.sum.dim_IntList, call(gm, aten.exp.default, shifted), [dim], True)
        logarithm = call(gm, aten.log.default, total)
        _pick_for_losses(gm, node, logits, largest, logarithm)
        once = call(gm, aten.sub.Tensor, shifted, logarithm)
    with gm.graph.inserting_before(late):
        again = call(gm, aten.sub.Tensor, _widened(gm, x, wide), largest)  # type: ignore[arg-type]
        again = call(gm, aten.sub.Tensor, again, logarithm)
    for made in _chain(again, largest, logarithm):
        made.meta["origin"] = node.meta["origin"].into("recompute")
    for same in reversed(match.nodes):
        same.replace_all_uses_with(again, delete_user_cb=_in_backward)
        same.replace_all_uses_with(once)
        gm.graph.erase_node(same)


def _pick_for_losses(gm: fx.GraphModule, node: fx.Node, logits: fx.Node, largest: fx.Node, logarithm: fx.Node) -> None:
    """Losses read of every row one number: what they pick is picked from the logits, [N, 1], and is then class 0 of one."""
    for loss in [user for user in readers(node) if user.target is aten.nll_loss_forward.default and user.args[2] is None]:
        target, ignored = loss.args[1], loss.args[4]
        if value_of(node).dim() != 2 or node.args[1] not in (1, -1):
            continue
        with gm.graph.inserting_before(loss):
            zeros = call(gm, aten.zeros_like.default, target)
            skipped = call(gm, aten.eq.Scalar, target, ignored)
            at = call(gm, aten.unsqueeze.default, call(gm, aten.where.self, skipped, zeros, target), 1)
            picked = call(gm, aten.sub.Tensor, call(gm, aten.gather.default, logits, 1, at), largest)
            picked = call(gm, aten.sub.Tensor, picked, logarithm)
            mark = (
                target if ignored else call(gm, aten.full_like.default, target, NOBODYS)
            )  # what is picked is class 0, which may be the ignored one
            classes = call(gm, aten.where.self, skipped, mark, zeros)
        loss.args = (picked, classes, *loss.args[2:4], ignored or NOBODYS)


def _widened(gm: fx.GraphModule, x: fx.Node, dtype: torch.dtype) -> fx.Node:
    """The logits in the precision of the result; a cast before it is made again from what was cast, which is what stays."""
    source = x
    if x.target is aten._to_copy.default and set(x.kwargs) == {"dtype"}:
        narrow: fx.Node = x.args[0]  # type: ignore[assignment]
        if value_of(narrow).is_floating_point() and value_of(narrow).element_size() < value_of(x).element_size():
            source = narrow
    return source if value_of(source).dtype == dtype else call(gm, aten._to_copy.default, source, dtype=dtype)


def _chain(last: fx.Node, *ends: fx.Node) -> list[fx.Node]:
    """What was made for backward: the last difference, the one before it, and a cast."""
    first = last.args[0]
    assert isinstance(first, fx.Node)
    cast = first.args[0]
    return [last, first, *([cast] if isinstance(cast, fx.Node) and "origin" not in cast.meta and cast not in ends else [])]


class _Classifier(nn.Module):
    def __init__(self, classes: int = 64, narrow: bool = False, ignored: int = -100) -> None:
        super().__init__()
        self.layer, self.narrow, self.ignored = nn.Linear(16, classes), narrow, ignored

    def forward(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.layer(x)
        if self.narrow:
            logits = logits.bfloat16()
        return nn.functional.cross_entropy(logits.float(), target, ignore_index=self.ignored), logits


def _probabilities(x: Tensor) -> tuple[Tensor, Tensor]:
    logs = x.log_softmax(-1)
    return logs.square().sum(), logs


def _batch() -> tuple[Tensor, Tensor]:
    return torch.randn(12, 16), torch.randint(0, 4, (12,))


OPTIMIZATION = Optimization(
    name="recompute-log-softmax",
    summary="Keeps two numbers of every row for backward, and makes the log-softmax again from the logits.",
    find=find,
    rewrite=rewrite,
    # Written out it moves more bytes; in loops, less. The peak is lower only where the logits stay anyway.
    claim=Claim(launches="higher", flops="any", bytes_moved="any", peak_bytes="any"),
    examples=(
        Example(_Classifier, _batch, "training", matches=1),
        Example(lambda: _Classifier(narrow=True), _batch, "training", matches=1),
        Example(lambda: _Classifier(ignored=0), _batch, "training", matches=1),
        Example(lambda: _Classifier(ignored=2), _batch, "training", matches=1),
    ),
    refusals=(
        Example(_Classifier, _batch, reason="Backward does not read"),
        Example(lambda: _Classifier(4), _batch, "training", reason="rows have 4 numbers"),
        Example(
            lambda: Function(_probabilities), lambda: (torch.randn(3, 64, requires_grad=True),), "training", reason="output of the graph"
        ),
    ),
    exactness="rounding",
)
