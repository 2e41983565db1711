"""A graph that writes in place, made functional for the length of one step, and then in place again.

Optimizations think in values: who reads what, and not when. In a graph that writes over its own memory the order means something too. But an operator in place and
the one that is not compute the same numbers, and where nobody reads the old value later they may stand for one another. So the runner puts the functional operator in the place of each that a
step had put in place, lets the next optimization look and rewrite, and puts those back that may still be.
"""

from __future__ import annotations

from torch import fx

from graphs.in_place import IN_PLACE, INPUT, MEMORY, in_place_overload, out_of_place_overload, writes_in_place
from optimizers.patterns.overwriting import SUFFIX, Memory, could_overwrite, memory_of, operands, way_to_new_value, why_not, why_not_renewed


def foreign_writer(gm: fx.GraphModule) -> fx.Node | None:
    """An operator that writes in place and that no step has put there: what it means functionally is not known."""
    return next((node for node in gm.graph.nodes if writes_in_place(node) and IN_PLACE not in node.meta), None)


def is_in_place(gm: fx.GraphModule) -> bool:
    """Does the graph write over memory by a step's choice?"""
    return any(IN_PLACE in node.meta for node in gm.graph.nodes)


def make_functional(gm: fx.GraphModule) -> None:
    """Operators that steps had put in place compute new values again; their marks stay."""
    for node in gm.graph.nodes:
        if IN_PLACE in node.meta and writes_in_place(node):
            node.target = out_of_place_overload(node.target)  # type: ignore[arg-type,assignment]


def ask_in_place(node: fx.Node) -> None:
    """Marks a new node: the runner lets it write over an operand, if it may, when the step is over."""
    node.meta[IN_PLACE] = MEMORY


def put_in_place_again(gm: fx.GraphModule) -> None:
    """Marked nodes write in place where they may; the others lose their mark."""
    waiting = {node for node in gm.graph.nodes if IN_PLACE in node.meta and not writes_in_place(node)}
    if not waiting:
        return
    for placeholder in gm.graph.find_nodes(op="placeholder"):
        steps = way_to_new_value(placeholder, marked=True)
        if steps and not why_not_renewed(placeholder, steps):
            for node, _ in steps:
                waiting.discard(node)
                _write(node, 0, INPUT)
    for node in waiting:
        del node.meta[IN_PLACE]
    memory = memory_of(gm)
    able = [(node, _operand(node, memory)) for node in sorted(waiting)]
    for node, operand in able:
        if operand is not None:
            _write(node, node.args.index(operand), MEMORY)
        elif node.name.endswith(SUFFIX):
            node._rename(node.name.removesuffix(SUFFIX))


def _operand(node: fx.Node, memory: Memory) -> fx.Node | None:
    """What the node may be written over."""
    if not could_overwrite(node) or in_place_overload(node.target) is None:  # type: ignore[arg-type]
        return None
    return next((one for one in operands(node) if not why_not(node, one, memory)), None)


def _write(node: fx.Node, position: int, kind: str) -> None:
    """The same node, in place over the operand at a position of its arguments."""
    node.target = in_place_overload(node.target)  # type: ignore[arg-type,assignment]
    node.args = node.args if position == 0 else (node.args[1], node.args[0])
    node.meta[IN_PLACE] = kind
