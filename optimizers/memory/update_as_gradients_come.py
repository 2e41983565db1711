"""Update as gradients come: each parameter is updated right behind its gradient, which is then freed.

## Why it is slow
A training step that updates at its end holds the gradient of every parameter until backward is over: as many bytes as there are parameters, all at once.

## What changes
The nodes of a parameter's update move to right behind its gradient, so that the gradient dies there (Lv et al. 2023, *Full Parameter Fine-tuning for Large Language Models with Limited Resources*,
section 3.1; PyTorch calls it an optimizer step in backward). What all updates share, such as the number of the step, moves before the first of them. The values are the same. A parameter that is updated in
place waits until backward has read its old value too.

## When it does not apply
A gradient that is also an output stays anyway. Clipping by the norm of all gradients needs the last before the first can be used. Updates of a functional graph write new tensors beside the old ones, and
the new ones live to the end: where they are larger than the gradient (AdamW writes three), coming early takes more than it frees, and `update-in-place` has to come before. Where the counted peak would rise, or nothing is freed earlier, updates stay.

## Try it
Train `zoo/resnet18` with `update=sgd` and look at *Memory over time* on the page Explore before and after. With `update=adamw` put `update-in-place` before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn

from graphs.options import CaptureOptions
from optimizers.base import Example, Match, Miss, Optimization, is_random, phase_of
from optimizers.ordering.from_graph import problem_of, put_in_order, units_of
from optimizers.ordering.problem import Index, levels
from optimizers.patterns.aliases import Aliases
from optimizers.record import Claim

JUDGED = 32  # places that are judged one by one


@dataclass
class _Update:
    """The nodes that update from one gradient, in order of execution."""

    gradient: fx.Node
    nodes: list[fx.Node] = field(default_factory=list)


Unit = TypeVar("Unit")
_Place = tuple[int, list[int]]  # the unit of a gradient, and those of its update


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
    aliases = Aliases(gm)
    new = {node for node in results if aliases.owner(node).op == "call_function"}
    able: list[_Update] = []
    for update in updates:
        reason = _why_not(update, results, new)
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


def _why_not(update: _Update, results: set[fx.Node], new: set[fx.Node]) -> str:
    """Why the update stays. `new` are the results that take memory of their own."""
    if any(is_random(node) for node in update.nodes):
        return "Its update draws random numbers, whose order must stay."
    if update.gradient in results:
        return "The gradient is an output of the graph and stays to the end."
    given = sum(_bytes(node) for node in update.nodes if node in new)
    if given > _bytes(update.gradient):
        why = f"Its update gives {given:,} bytes that live to the end, more than the {_bytes(update.gradient):,} of the gradient that would be freed"
        return f"{why}: put update-in-place before."
    return ""


def _bytes(node: fx.Node) -> int:
    value = node.meta.get("val")
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _judged(gm: fx.GraphModule, able: Sequence[_Update]) -> Iterator[Match | Miss]:
    """Those updates that come early without a higher peak: one after another, beside those taken before it. Of many, neighbours are judged together."""
    problem = problem_of(gm)
    index = Index(problem)
    units = units_of(gm)
    number = {node: at for at, node in enumerate(units)}
    behind = [(number[one.gradient], [number[node] for node in one.nodes]) for one in able]
    numbers = range(len(units))
    waits = {node: [units[one] for one in needed] for node, needed in zip(units, problem.before, strict=True)}
    moving = {number[node] for one in able for node in one.nodes}

    def weight(order: Sequence[int]) -> tuple[int, int]:
        """The peak, and the bytes that are there while what does not move runs."""
        found = levels(index, order)
        return max(found), sum(bytes for unit, bytes in zip(order, found, strict=True) if unit not in moving)

    now = weight(numbers) if able else (0, 0)
    given, taken = now[0], list[_Place]()
    together = -(-len(able) // JUDGED)
    for start in range(0, len(able), together or 1):
        several, places = able[start : start + together], behind[start : start + together]
        alone = weight(_early(numbers, problem.before, places))
        joint = weight(_early(numbers, problem.before, [*taken, *places]))
        if alone[0] > given or joint[0] > now[0]:
            reason = f"With its update here the counted peak would be {max(alone[0], joint[0]):,} bytes, above {now[0]:,}."
        elif joint >= now:
            reason = "It would free nothing: the gradient is freed at once already, or the new parameter takes what it gives back."
        else:
            taken += places
            now = joint
            nodes = tuple(node for one in several for node in (one.gradient, *one.nodes))
            note = f"{sum(_bytes(one.gradient) for one in several):,} bytes of gradients freed at once"
            yield Match(several[0].gradient, nodes, data=([(one.gradient, one.nodes) for one in several], waits), note=note)
            continue
        yield from (Miss(one.gradient, reason) for one in several)


def _early(units: Sequence[Unit], before: Any, updates: Sequence[tuple[Unit, list[Unit]]]) -> list[Unit]:
    """The order with each update, and what it waits for and has not run, right behind its gradient. `before[unit]` is what a unit waits for."""
    behind = dict(updates)
    ran: set[Unit] = set()
    order: list[Unit] = []

    def run(unit: Unit) -> None:
        for needed in before[unit]:
            if needed not in ran:
                run(needed)
        if unit not in ran:
            ran.add(unit)
            order.append(unit)

    for unit in units:
        run(unit)
        for each in behind.get(unit, ()):
            run(each)
    return order


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Moves the update, and what it waits for that stands later, behind the gradient."""
    updates, waits = match.data
    put_in_order(gm.graph, _early(units_of(gm), waits, updates))


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
    in_place=True,
)
