"""Reorder for peak: run the same nodes in another order, in which fewer bytes are needed at once.

## Why it is slow
A graph says what needs what, and many orders satisfy it. The captured one is the order in which the model's code was written: a branch that makes something large may run long before
it is read, while others wait. What does not fit at the peak does not run at all, or only with a smaller batch.

## What changes
Nodes move, and nothing else: the same operators on the same values. The order is looked for by rules (PyTorch's own three among them, and one with look-ahead), by local search around the peak, and in small
graphs among all orders (Ahn et al. 2020, *Ordering Chaos*, section 3.1). A minimum cut at the peak gives a lower bound that often proves that nothing lower exists. Draws of random
numbers and checks keep their order, and who writes over memory waits for those who read the old value.

## When it does not apply
Where the order is proven to be the best, where each node needs the one before it, where less than a thousandth would be saved, or where no lower peak was found within the effort that is spent; the reason names the lower bound. An operator that
holds branches or a loop moves as a whole.

## Try it
Train `zoo/gpt2`, where gradients of weights can wait until the table's is summed up, or a model with branches of unequal size, and look at *Memory over time* on the page Explore before and after. After *recompute-activations* look again: what is
recomputed can move too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.ordering import Ordering, solve
from optimizers.ordering.from_graph import moved, problem_of, put_in_order, units_of
from optimizers.record import Claim

WORTH = 1000  # a saving of less than this part of the peak is not worth moving nodes for


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """One place: the whole graph, named by the node at whose side the peak is."""
    units = units_of(gm)
    if not units:
        return
    found = solve(problem_of(gm))
    anchor = units[found.at]
    if found.given_peak - found.peak < max(1, found.given_peak // WORTH):
        yield Miss(anchor, _why_not(found, anchor))
        return
    order = [units[one] for one in found.order]
    note = f"counted peak {found.given_peak:,} → {found.peak:,} bytes, found by {found.found_by}; {_bound(found)}"
    yield Match(anchor, tuple(moved(order)), data=order, note=note)


def _bound(found: Ordering) -> str:
    if found.ending == "optimal":
        return "no order needs less"
    return f"no order needs less than {found.lower_bound:,}"


def _why_not(found: Ordering, anchor: fx.Node) -> str:
    if not found.peak:
        return "This graph allocates nothing."
    if found.ending == "only order":
        return "Each node needs the one before it, so there is no other order."
    if found.peak < found.given_peak:
        return f"Another order would save only {found.given_peak - found.peak:,} of {found.given_peak:,} bytes, not worth moving nodes for."
    if found.ending == "optimal":
        return f"The order is already optimal: none needs fewer than {found.peak:,} bytes at once, as here at {anchor.name}."
    return f"No order below {found.peak:,} bytes was found; none needs less than {found.lower_bound:,}."


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the nodes in the order found."""
    order: Sequence[fx.Node] = match.data
    put_in_order(gm.graph, order)


def _early(x: Tensor) -> Tensor:
    """Two large branches that could each be summed up before the next begins."""
    one, two = x.exp(), x.sin()
    return one.sum(0) + two.sum(0)


def _drawn(x: Tensor) -> tuple[Tensor, Tensor]:
    """The same with random draws between, whose order must stay."""
    one, two = torch.rand_like(x), x.sin()
    return one.sum(0) + two.sum(0), torch.rand_like(x[0])


def _batch() -> tuple[Tensor]:
    return (torch.randn(12, 16),)


OPTIMIZATION = Optimization(
    name="reorder-for-peak",
    summary="Runs the same nodes in an order that needs fewer bytes at once.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="same", flops="same", bytes_moved="same", peak_bytes="lower"),
    examples=(Example(lambda: Function(_early), _batch, matches=1), Example(lambda: Function(_drawn), _batch, matches=1)),
    refusals=(
        Example(lambda: Function(lambda x: x.exp().sin()), _batch, reason="no other order"),
        Example(lambda: Function(lambda x: x.exp().sum(0) + x.sin().sum(0)), _batch, reason="already optimal"),
    ),
    exactness="bitwise",
    costly=True,
    in_place=True,
)
