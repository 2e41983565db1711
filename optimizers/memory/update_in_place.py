"""Update in place: the new parameter is written where the old one is, and so are the optimizer's states.

## Why it is slow
A functional training step makes new parameters beside the old ones, and of each state a new one too. With AdamW that is three tensors of a parameter's size for every parameter, on top of parameters and gradients, and all of them are there
together at the end. No optimizer of PyTorch does so: `torch.optim.AdamW` writes into the tensors that it has (Loshchilov and Hutter 2019, *Decoupled Weight Decay Regularization*, algorithm 2, updates θ, m and v).

## What changes
The operators on the way from the old value to the new one write over it: `mul_`, `lerp_`, `addcmul_`, `addcdiv_`. They compute the same numbers. What they give out is the very tensor that came in, which is not allocated by the graph and counts in
no peak. Who runs the graph finds the new values in the old tensors, as behind `optimizer.step()`. That holds for parameters, states, and buffers that a module counts up.

## When it does not apply
Somebody reads the old value later. The way to the new value leads through an operator that torch has not in place (a batch norm's running mean comes out of the norm itself), or through a compiled part of the graph. The
new value has another precision, or elements of the old one share memory.

## Try it
Train `zoo/gpt2` with `update=adamw`: the peak stood in the update and now stands in backward. Then put `update-as-gradients-come` behind it: now that the update takes no memory, each gradient can be freed at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.cost import value_bytes
from graphs.in_place import IN_PLACE, INPUT, new_value
from graphs.options import CaptureOptions
from optimizers.base import Example, Match, Miss, Optimization
from optimizers.patterns.overwriting import put_in_place, way_to_new_value, why_not_renewed
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every input whose new value is an output."""
    renewed = [(old, new) for old in gm.graph.find_nodes(op="placeholder") if (new := new_value(old)) is not None and new is not old]
    if not renewed and any(node.meta["origin"].phase == "backward" for node in gm.graph.nodes if node.op == "call_function"):
        yield Miss(gm.graph.output_node(), "No optimizer's update is in this graph; capture it with `update=sgd` or `update=adamw`.")
    for old, new in renewed:
        steps = way_to_new_value(old)
        if not steps:
            yield Miss(new, f"{old.name} does not become {new.name} by operators that torch has in place, each over the one before.")
        elif reason := why_not_renewed(old, steps):
            yield Miss(new, reason)
        elif not all(_is_mine(node) for node, _ in steps):
            note = f"{value_bytes(new.meta['val']):,} bytes less are allocated (counted)"
            yield Match(new, tuple(node for node, _ in steps), data=steps, note=note)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Each operator over the result of the one before, the first over the input."""
    made: dict[fx.Node, fx.Node] = {}
    for node, operand in match.data:
        made[node] = put_in_place(node, node.args.index(made.get(operand, operand)), INPUT)


def _is_mine(node: fx.Node) -> bool:
    """Does it write over the input already?"""
    return node.meta.get(IN_PLACE) == INPUT


class _Net(nn.Module):
    """Two layers and a norm with running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.norm(self.first(x))))


def _batch() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="update-in-place",
    summary="Writes new parameters and optimizer states where the old ones are.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="same", flops="same", bytes_moved="same", peak_bytes="lower"),
    examples=(
        Example(_Net, _batch, "training", matches=6, options=CaptureOptions(update="sgd")),
        Example(_Net, _batch, "training", matches=17, options=CaptureOptions(update="adamw")),
    ),
    refusals=(
        Example(_Net, _batch, "training", reason="by operators that torch has in place", options=CaptureOptions(update="sgd")),
        Example(lambda: nn.Linear(8, 8), _batch, "training", reason="No optimizer's update"),
    ),
    exactness="bitwise",
)
