"""Graphs inside of a graph: the branches of `torch.cond`, the rounds of `torch.while_loop`, the step of `scan` and `map`.

torch writes such an operator as one node that is given whole graphs, by name, and the operands they work on. This file says for
each operator which graphs it holds, what each placeholder of them stands for, and how often each runs.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.utils import _pytree as pytree

LOOPS = ("while_loop", "while_loop_stack_output")
FLEX = {"flex_attention": (("score_mod", 5), ("mask_mod", 4)), "flex_attention_backward": (("score_mod", 5), ("joint", 6), ("mask_mod", 4))}


@dataclass(frozen=True)
class Operand:
    """What a placeholder of a body stands for.

    Attributes:
        value: the node outside, or a number; None where the operator itself makes the value.
        word: empty where the placeholder is that value, else what it is: a `slice` of it, a `state` that begins with it.
    """

    value: Any
    word: str = ""


@dataclass(frozen=True)
class Body:
    """A graph that an operator holds.

    Attributes:
        label: if_true, if_false, condition, body, step …
        operands: one for each placeholder.
        times: how often it runs when the operator runs; one round where that is unknown.
        elements: for how many elements at once each of its nodes works, where it is written for one.
    """

    label: str
    gm: fx.GraphModule
    operands: tuple[Operand, ...]
    times: int = 1
    elements: int = 1


def kind_of(node: fx.Node) -> str:
    """`cond`, `while_loop` …; empty for operators that hold no graph."""
    return node.target.name() if isinstance(node.target, torch._ops.HigherOrderOperator) and node.op == "call_function" else ""


def held_graph(node: fx.Node) -> fx.GraphModule | None:
    """The graph that a `get_attr` node names, if it names one."""
    if node.op != "get_attr" or node.graph.owning_module is None:
        return None
    value = operator.attrgetter(str(node.target))(node.graph.owning_module)
    return value if isinstance(value, fx.GraphModule) else None


def bodies(node: fx.Node) -> tuple[Body, ...]:
    """The graphs that an operator holds, in the order in which they run; empty for most operators."""
    kind = kind_of(node)
    if not kind:
        return ()
    args = node.args
    match kind:
        case "cond":
            same = _same(args[3])
            return _made([("if_true", args[1], same), ("if_false", args[2], same)])
        case "while_loop" | "while_loop_stack_output":
            given = [*_worded("state", args[2]), *_same(args[3])]
            return _made([("condition", args[0], given), ("body", args[1], given)])
        case "scan":
            given = [*_worded("state", args[1]), *_worded("slice", args[2]), *_same(args[3])]
            return _made([("step", args[0], given)], times=_length(args[2]))
        case "map_impl":
            return _made([("step", args[0], [*_worded("slice", args[1]), *_same(args[2])])], times=_length(args[1]))
        case "associative_scan":
            given = [*_worded("slice", args[1]), *_worded("slice", args[1]), *_same(args[2])]
            return _made([("combine", args[0], given)], times=max(1, _length(args[1]) - 1))
        case _ if kind in FLEX:
            return _of_attention(node, kind)
    return _of_any(node)


def copied(gm: fx.GraphModule) -> fx.GraphModule:
    """A graph of its own with the same nodes, names and notes; constants and the graphs that it holds are shared. Its Python code is written
    when somebody asks for it or calls it: interpreters, and all that only reads the graph, never do."""
    graph, values = fx.Graph(), dict[fx.Node, fx.Node]()
    output = graph.output(graph.graph_copy(gm.graph, values))  # type: ignore[arg-type]
    for old, new in [*values.items(), (gm.graph.output_node(), output)]:
        new.meta = copy.copy(old.meta)
        new.name = old.name
    return _LazyGraphModule(gm, graph)


def all_graphs(gm: fx.GraphModule) -> Iterator[fx.GraphModule]:
    """The graph and every graph inside of it, each once."""
    yield gm
    held = {id(inner): inner for node in gm.graph.nodes if (inner := held_graph(node)) is not None}
    for inner in held.values():
        yield from all_graphs(inner)


def body_notes(gm: fx.GraphModule) -> tuple[str, ...]:
    """What to say of how bodies are counted."""
    kinds = [kind_of(node) for graph in all_graphs(gm) for node in graph.graph.nodes]
    notes: list[str] = []
    if "cond" in kinds:
        notes.append(f"{kinds.count('cond')} torch.cond: one branch of each runs; what is counted is the costlier")
    loops = sum(kind in LOOPS for kind in kinds)
    if loops:
        notes.append(f"{loops} torch.while_loop: the number of rounds is unknown; one round is counted")
    return tuple(notes)


Given = tuple[str, Any, list[Operand]]


def _made(given: Iterable[Given], times: int = 1) -> tuple[Body, ...]:
    found = [(label, held_graph(node), operands) for label, node, operands in given if isinstance(node, fx.Node)]
    return tuple(Body(label, gm, tuple(operands), times) for label, gm, operands in found if gm is not None)


def _same(values: Any) -> list[Operand]:
    return [Operand(value) for value in values]


def _worded(word: str, values: Any) -> list[Operand]:
    return [Operand(value, word) for value in values]


def _length(values: Any) -> int:
    """How many slices there are: the first size of what is gone through."""
    value = values[0].meta.get("val") if len(values) and isinstance(values[0], fx.Node) else None
    return int(value.shape[0]) if isinstance(value, Tensor) else 1


def _of_any(node: fx.Node) -> tuple[Body, ...]:
    """An operator without a rule: its graphs are given all its other operands, where their number is the same."""
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    graphs = [leaf for leaf in leaves if isinstance(leaf, fx.Node) and held_graph(leaf) is not None]
    others = [Operand(leaf) for leaf in leaves if isinstance(leaf, fx.Node) and leaf not in graphs]
    labels = ["body", *(f"body_{number}" for number in range(1, len(graphs)))]
    return tuple(
        replaced for label, graph in zip(labels, graphs, strict=True) for replaced in _made([(label, graph, _fitting(graph, others))])
    )


def _fitting(graph: fx.Node, others: list[Operand]) -> list[Operand]:
    gm = held_graph(graph)
    count = len(gm.graph.find_nodes(op="placeholder")) if gm is not None else 0
    return others if count == len(others) else [Operand(None, "given")] * count


def _of_attention(node: fx.Node, kind: str) -> tuple[Body, ...]:
    """Functions of one score and its place, which attention calls for all scores at once; other tensors that they read come last."""
    leaves = [leaf for leaf in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(leaf, fx.Node)]
    graphs = [leaf for leaf in leaves if held_graph(leaf) is not None]
    query, key = (leaf.meta["val"] for leaf in leaves[:2])
    scores = query.shape[0] * query.shape[1] * query.shape[2] * key.shape[2]
    tails = [list(part) if isinstance(part, tuple | list) else [] for part in node.args[-2:]]
    found: list[Body] = []
    for graph, (label, own) in zip(graphs, FLEX[kind], strict=False):
        others = tails[1] if label == "mask_mod" else tails[0]
        found += _made([(label, graph, [*[Operand(None, "given")] * own, *_same(others)])])
    return tuple(Body(body.label, body.gm, body.operands, 1, scores) for body in found)
