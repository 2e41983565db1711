"""Update as gradients come: each parameter is updated right behind its gradient, which is then freed.

## Why it is slow
A training step that updates at its end holds the gradient of every parameter until backward is over: as many bytes as there are parameters, all at once.

## What changes
The nodes of a parameter's update move to right behind its gradient, so that the gradient dies there (Lv et al. 2023, *Full Parameter Fine-tuning for Large Language Models with Limited Resources*,
section 3.1; PyTorch calls it an optimizer step in backward). What all updates share, such as the number of the step, moves before the first of them. The values are the same.

## When it does not apply
A gradient that is also an output stays anyway. Clipping by the norm of all gradients needs the last before the first can be used. Updates here write new tensors beside the old ones, as functional graphs do, and
the new ones live to the end: where they are larger than the gradient (AdamW writes three), coming early takes more than it frees. Where the counted peak would rise, or nothing is freed earlier, updates stay.

## Try it
Train `zoo/resnet18` with `update=sgd` and look at *Memory over time* on the page Explore before and after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from graphs.options import CaptureOptions
from optimizers.base import Example, Match, Miss, Optimization, is_random, phase_of
from optimizers.ordering.from_graph import problem_of, put_in_order, units_of
from optimizers.ordering.problem import Index, levels
from optimizers.record import Claim

JUDGED = 32  # places that are judged one by one


@dataclass
class _Update:
    """The nodes that update from one gradient, in order of execution."""

    gradient: fx.Node
    nodes: list[fx.Node] = field(default_factory=list)


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every gradient that an update reads."""
    late = [node for node in gm.graph.nodes if node.op == "call_function" and phase_of(node) == "update"]
    if not late:
        if any(phase_of(node) == "backward" for node in gm.graph.nodes if node.op == "call_function"):
            yield Miss(gm.graph.output_node(), "No optimizer's update is in this graph; capture it with `update=sgd` or `update=adamw`.")
        return
    updates, misses = _updates(late)
    yield from misses
    results = set(gm.graph.output_node().all_input_nodes)
    able: list[_Update] = []
    for update in updates:
        reason = _why_not(update, results)
        if reason:
            yield Miss(update.gradient, reason)
        else:
            able.append(update)
    yield from _judged(gm, able)


def _updates(late: Sequence[fx.Node]) -> tuple[list[_Update], list[Miss]]:
    """Updates by their gradient. What depends on no gradient goes with those that read it; what depends on several is a miss."""
    inside = set(late)
    reads: dict[fx.Node, set[fx.Node]] = {}
    for node in late:
        reads[node] = {one for one in node.all_input_nodes if one not in inside and one.op == "call_function"}
        reads[node].update(*(reads[one] for one in node.all_input_nodes if one in inside))
    found: dict[fx.Node, _Update] = {}
    joint: dict[fx.Node, int] = {}
    for node in late:
        if len(reads[node]) == 1:
            gradient = next(iter(reads[node]))
            found.setdefault(gradient, _Update(gradient)).nodes.append(node)
        for gradient in reads[node] if len(reads[node]) > 1 else ():
            joint[gradient] = max(joint.get(gradient, 0), len(reads[node]))
    misses = [
        Miss(gradient, f"Its update needs {count} gradients, as clipping by their common norm does, so it must wait for the last of them.")
        for gradient, count in joint.items()
    ]
    return [update for gradient, update in found.items() if gradient not in joint], misses


def _why_not(update: _Update, results: set[fx.Node]) -> str:
    if any(is_random(node) for node in update.nodes):
        return "Its update draws random numbers, whose order must stay."
    if update.gradient in results:
        return "The gradient is an output of the graph and stays to the end."
    new = sum(_bytes(node) for node in update.nodes if node in results)
    if new > _bytes(update.gradient):
        return f"Its update gives {new:,} bytes that live to the end, more than the {_bytes(update.gradient):,} of the gradient that would be freed."
    return ""


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _judged(gm: fx.GraphModule, able: Sequence[_Update]) -> Iterator[Match | Miss]:
    """Those updates that come early without a higher peak: one after another, beside those taken before it. Of many, neighbours are judged together."""
    units = units_of(gm)
    number = {node: at for at, node in enumerate(units)}
    index = Index(problem_of(gm))
    now = levels(index, range(len(units)))
    given, taken = max(now, default=0), list[_Update]()
    together = -(-len(able) // JUDGED)
    for start in range(0, len(able), together or 1):
        several = able[start : start + together]
        alone = levels(index, [number[node] for node in _early(units, several)])
        joint = levels(index, [number[node] for node in _early(units, [*taken, *several])])
        if max(alone) > given or max(joint) > max(now):
            reason = f"With its update here the counted peak would be {max(*alone, *joint):,} bytes, above {max(now):,}."
        elif (max(joint), sum(joint)) >= (max(now), sum(now)):
            reason = "It would free nothing on balance: the new parameter takes at once what the gradient gives back."
        else:
            taken += several
            now = joint
            nodes = tuple(node for one in several for node in (one.gradient, *one.nodes))
            note = f"{sum(_bytes(one.gradient) for one in several):,} bytes of gradients freed at once"
            yield Match(several[0].gradient, nodes, data=several, note=note)
            continue
        yield from (Miss(one.gradient, reason) for one in several)


def _early(units: Sequence[fx.Node], updates: Sequence[_Update]) -> list[fx.Node]:
    """The order with each update, and what it needs and has not run, right behind its gradient."""
    behind = {update.gradient: update.nodes for update in updates}
    ran: set[fx.Node] = set()
    order: list[fx.Node] = []

    def run(node: fx.Node) -> None:
        for read in node.all_input_nodes:
            if read not in ran and read.op not in ("placeholder", "output"):
                run(read)
        if node not in ran:
            ran.add(node)
            order.append(node)

    for node in units:
        run(node)
        for each in behind.get(node, ()):
            run(each)
    return order


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Moves the update, and what it needs that stands later, behind the gradient."""
    put_in_order(gm.graph, _early(units_of(gm), match.data))


class _Net(nn.Module):
    """Three layers, the last of them largest: its gradient comes first and waits longest."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in ((8, 8), (8, 64), (64, 128)))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


def _batch() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="update-as-gradients-come",
    summary="Updates each parameter right behind its gradient, which is then freed.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="same", flops="same", bytes_moved="same", peak_bytes="lower"),
    examples=(Example(_Net, _batch, "training", matches=1, options=CaptureOptions(update="sgd")),),
    refusals=(
        Example(_Net, _batch, "training", reason="live to the end", options=CaptureOptions(update="adamw")),
        Example(_Net, _batch, "training", reason="No optimizer's update"),
    ),
    exactness="bitwise",
    applies_to=("training",),
)
