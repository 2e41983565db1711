"""A graph as a problem: what allocates what, who keeps it, and what must stay in order beyond the data.

The truth of memory is `graphs/lifetimes.py`; a problem is made of its holdings, so that an order's peak is that of the graph's memory curve.
A unit is a node of the graph; an operator that holds branches or a loop is one unit with all that runs inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from graphs.diff import longest_rising
from graphs.in_place import IN_PLACE
from graphs.lifetimes import Held, holdings
from graphs.randomness import is_random
from graphs.snapshot import graph_records
from optimizers.ordering.record import Problem, Storage
from optimizers.patterns.aliases import Aliases


def units_of(gm: fx.GraphModule) -> list[fx.Node]:
    """The nodes that can move: all but inputs and outputs."""
    return [node for node in gm.graph.nodes if node.op not in ("placeholder", "output")]


def problem_of(gm: fx.GraphModule) -> Problem:
    """The problem of ordering `units_of` the graph."""
    units = units_of(gm)
    number = {node: at for at, node in enumerate(units)}
    before = [[number[read] for read in node.all_input_nodes if read in number] for node in units]
    for node, others in _fixed_order(gm, units):
        before[number[node]] += [number[other] for other in others]
    inside, storages = _memory(gm, units)
    return Problem(tuple(inside), tuple(storages), tuple(tuple(dict.fromkeys(needed)) for needed in before))


def _fixed_order(gm: fx.GraphModule, units: Sequence[fx.Node]) -> list[tuple[fx.Node, list[fx.Node]]]:
    """(node, those that must stay before it) beyond what it reads: draws of random numbers among one another, effects too, and who writes to memory
    and who reads it."""
    found: list[tuple[fx.Node, list[fx.Node]]] = []
    draws = [node for node in units if is_random(node)]
    effects = [node for node in units if _has_effect(node)]
    for chain in (draws, effects):
        found += [(later, [earlier]) for earlier, later in zip(chain, chain[1:], strict=False)]
    if not any(_writes(node) for node in units):
        return found
    aliases = Aliases(gm)
    touched: dict[fx.Node, list[fx.Node]] = {}
    written: dict[fx.Node, fx.Node] = {}
    for node in units:
        for owner in {aliases.owner(node), *(aliases.owner(read) for read in node.all_input_nodes)}:
            if owner in written:
                found.append((node, [written[owner]]))
            if _writes(node):
                found.append((node, touched.get(owner, [])))
                written[owner] = node
                touched[owner] = []
            touched.setdefault(owner, []).append(node)
    return [(node, [other for other in others if other is not node]) for node, others in found]


def _has_effect(node: fx.Node) -> bool:
    """Something outside of the graph's values changes. What a step put in place only writes, and its order is that of its memory."""
    return node.op == "call_function" and node.is_impure(impure_random=False) and IN_PLACE not in node.meta


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _memory(gm: fx.GraphModule, units: Sequence[fx.Node]) -> tuple[list[int], list[Storage]]:
    """What each unit holds inside of itself at most, and what lives on."""
    nodes, outputs = graph_records(gm)
    number = {node.name: at for at, node in enumerate(units)}
    unit_at = [number.get(node.name.partition("/")[0], -1) for node in nodes]  # -1: inputs and the output
    storages: list[Storage] = []
    inner: list[list[Held]] = [[] for _ in units]
    stays: dict[str, bool] = {}
    for held in holdings(nodes, outputs):
        maker = unit_at[held.start]
        readers = {unit_at[at] for at in held.uses} - {maker}
        if readers:
            storages.append(Storage(held.bytes, maker, tuple(sorted(readers - {-1})), -1 in readers))
        inner[maker].append(held)
        stays[held.name] = bool(readers)
    return [_most_inside(one, stays) for one in inner], storages


def _most_inside(made: Sequence[Held], stays: dict[str, bool]) -> int:
    """The most bytes at once of what one unit makes."""
    change: dict[int, int] = {}
    for held in made:
        change[held.start] = change.get(held.start, 0) + held.bytes
        if not stays[held.name]:
            change[max(held.uses) + 1] = change.get(max(held.uses) + 1, 0) - held.bytes
    now = most = 0
    for at in sorted(change):
        now += change[at]
        most = max(most, now)
    return most


def put_in_order(graph: fx.Graph, order: Sequence[fx.Node]) -> None:
    """Moves the nodes so that they stand in this order before the output."""
    output = graph.output_node()
    for node in order:
        output.prepend(node)


def moved(order: Sequence[fx.Node]) -> list[fx.Node]:
    """The fewest nodes that must move for the graph to be in this order."""
    number = {node: at for at, node in enumerate(sorted(order))}
    still = set(longest_rising([number[node] for node in order]))
    return [node for node in order if number[node] not in still]
