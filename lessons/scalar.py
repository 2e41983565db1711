"""Scalar functions as graphs, and their derivatives: forward mode, and reverse mode one iteration of its loop at a time.

Reverse mode adds operators to the same graph, so that what it made can be differentiated again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from graphs.errors import RequestError

Argument = int | float  # the number of a node, or a constant


@dataclass(frozen=True)
class Operator:
    """One operator on numbers.

    Attributes:
        arity: how many arguments it reads.
        value: of them.
        slopes: its partial derivatives: (arguments, value) -> one number for each argument.
        shown: how it is written; `{0}` and `{1}` are its arguments.
    """

    arity: int
    value: Callable[..., float]
    slopes: Callable[[Sequence[float], float], tuple[float, ...]]
    shown: str


OPERATORS: dict[str, Operator] = {
    "add": Operator(2, lambda a, b: a + b, lambda x, y: (1.0, 1.0), "{0} + {1}"),
    "sub": Operator(2, lambda a, b: a - b, lambda x, y: (1.0, -1.0), "{0} − {1}"),
    "mul": Operator(2, lambda a, b: a * b, lambda x, y: (x[1], x[0]), "{0} · {1}"),
    "div": Operator(2, lambda a, b: a / b, lambda x, y: (1 / x[1], -y / x[1]), "{0} / {1}"),
    "pow": Operator(2, lambda a, b: a**b, lambda x, y: (x[1] * x[0] ** (x[1] - 1) if x[1] else 0.0, _log_slope(x[0], y)), "{0} ^ {1}"),
    "neg": Operator(1, lambda a: -a, lambda x, y: (-1.0,), "−{0}"),
    "id": Operator(1, lambda a: a, lambda x, y: (1.0,), "{0}"),
    "ln": Operator(1, math.log, lambda x, y: (1 / x[0],), "ln {0}"),
    "exp": Operator(1, math.exp, lambda x, y: (y,), "exp {0}"),
    "sin": Operator(1, math.sin, lambda x, y: (math.cos(x[0]),), "sin {0}"),
    "cos": Operator(1, math.cos, lambda x, y: (-math.sin(x[0]),), "cos {0}"),
    "tanh": Operator(1, math.tanh, lambda x, y: (1 - y * y,), "tanh {0}"),
    "sqrt": Operator(1, math.sqrt, lambda x, y: (0.5 / y,), "√{0}"),
}


def _log_slope(base: float, value: float) -> float:
    """∂(aᵇ)/∂b; where b is a constant, a may be negative and nobody asks."""
    return value * math.log(base) if base > 0 else 0.0


@dataclass(frozen=True)
class Node:
    """One operator, or a variable where `op` is `variable`.

    Attributes:
        name: `v3`; of an adjoint `v̄3`, of a partial adjoint `v̄2→4`: the part of v2 that comes by way of v4.
        args: numbers of nodes, and constants.
        grown: 0 for the formula itself, 1 for what its gradient added, 2 for the gradient of that.
    """

    name: str
    op: str
    args: tuple[Argument, ...] = ()
    label: str = ""
    grown: int = 0

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the nodes that it reads."""
        return tuple(arg for arg in self.args if isinstance(arg, int))


@dataclass(frozen=True)
class Graph:
    """Operators in an order in which they can run; `variables` are the numbers of the nodes that are given."""

    nodes: tuple[Node, ...]
    output: int
    variables: tuple[int, ...]

    def formula(self, at: int) -> str:
        """A node in words: `v1 · v2`."""
        node = self.nodes[at]
        if node.op == "variable":
            return node.label
        shown = [self.nodes[arg].name if isinstance(arg, int) else _plain(arg) for arg in node.args]
        return OPERATORS[node.op].shown.format(*shown)

    def readers(self, at: int) -> list[int]:
        """Who reads a node; twice if twice."""
        return [reader for reader, node in enumerate(self.nodes) for one in node.inputs if one == at]


def _plain(value: float) -> str:
    return f"{value:.6g}"


def evaluate(graph: Graph, point: Mapping[str, float]) -> tuple[float, ...]:
    """The value of every node; variables by their labels.

    Raises:
        RequestError: an operator has no value there, such as ln of a negative number; says which.
    """
    values: list[float] = []
    for at, node in enumerate(graph.nodes):
        if node.op == "variable":
            values.append(point[node.label])
            continue
        numbers = [values[arg] if isinstance(arg, int) else arg for arg in node.args]
        try:
            value = OPERATORS[node.op].value(*numbers)
        except (ValueError, ZeroDivisionError, OverflowError):
            value = math.nan
        if isinstance(value, complex) or not math.isfinite(value):
            what = f"{node.name} = {graph.formula(at)} has no value that a computer can hold at {', '.join(f'{n:.4g}' for n in numbers)}"
            raise RequestError(what, where="formula", help="Choose another point, or another formula.")
        values.append(float(value))
    return tuple(values)


def tangents(graph: Graph, values: Sequence[float], seed: str) -> tuple[float, ...]:
    """Forward mode: the derivative of every node with respect to one variable, in the order in which the nodes run."""
    found: list[float] = []
    for at, node in enumerate(graph.nodes):
        if node.op == "variable":
            found.append(1.0 if node.label == seed else 0.0)
            continue
        numbers = [values[arg] if isinstance(arg, int) else arg for arg in node.args]
        slopes = OPERATORS[node.op].slopes(numbers, values[at])
        found.append(sum((slope * found[arg] for slope, arg in zip(slopes, node.args, strict=True) if isinstance(arg, int)), 0.0))
    return tuple(found)


# ---------------------------------------------------------------- reverse mode


@dataclass(frozen=True)
class Iteration:
    """One round of the loop of reverse mode.

    Attributes:
        node: number of the node that is processed.
        collected: numbers of the partial adjoints that were there for it; they are summed.
        adjoint: number of the node that is its whole adjoint.
        sent: (input, number of the partial adjoint made for it), in the order of its arguments.
        size: how many nodes the graph has after this round.
        node_to_grad: after this round, node -> the partial adjoints collected so far.
    """

    node: int
    collected: tuple[int, ...]
    adjoint: int
    sent: tuple[tuple[int, int], ...]
    size: int
    node_to_grad: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Gradient:
    """The graph with its backward part, the rounds that grew it, and the adjoint of every node that has one."""

    graph: Graph
    rounds: tuple[Iteration, ...]
    adjoints: Mapping[int, int]
    start: int  # nodes before anything was added, the seed not among them

    def of(self, variable: str) -> int:
        """Number of the node that is the derivative with respect to a variable."""
        return next(self.adjoints[at] for at in self.graph.variables if self.graph.nodes[at].label == variable)


@dataclass
class _Growing:
    graph: Graph
    nodes: list[Node] = field(default_factory=list)
    grown: int = 1

    def add(self, name: str, op: str, *args: Argument) -> int:
        self.nodes.append(Node(name, op, args, grown=self.grown))
        return len(self.nodes) - 1


def gradient(graph: Graph) -> Gradient:
    """Reverse mode: the adjoint of every node that the output depends on, as operators added to the graph.

    The loop takes the nodes from the output backwards. Of each it sums the partial adjoints that its readers left, and leaves one for each of its inputs.
    """
    grown = 1 + max(node.grown for node in graph.nodes)
    growing = _Growing(graph, list(graph.nodes), grown)
    needed = _needed(graph)
    seed = growing.add(_bar(graph, graph.output, grown), "id", 1.0)
    node_to_grad: dict[int, tuple[int, ...]] = {graph.output: (seed,)}
    rounds: list[Iteration] = []
    adjoints: dict[int, int] = {}
    for at in sorted(needed, reverse=True):
        collected = node_to_grad[at]
        adjoints[at] = _summed(growing, at, collected)
        sent = _send(growing, at, adjoints[at], needed)
        for name, partial in sent:
            node_to_grad[name] = (*node_to_grad.get(name, ()), partial)
        rounds.append(Iteration(at, collected, adjoints[at], sent, len(growing.nodes), dict(node_to_grad)))
    # A variable that the output does not depend on has the derivative 0.
    for at in graph.variables:
        if at not in adjoints:
            adjoints[at] = growing.add(_bar(graph, at, grown), "id", 0.0)
    return Gradient(replace(graph, nodes=tuple(growing.nodes)), tuple(rounds), adjoints, len(graph.nodes))


def _needed(graph: Graph) -> set[int]:
    """What the output depends on, itself included."""
    found, waiting = {graph.output}, [graph.output]
    while waiting:
        for one in graph.nodes[waiting.pop()].inputs:
            if one not in found:
                found.add(one)
                waiting.append(one)
    return found


def _bar(graph: Graph, at: int, grown: int) -> str:
    """`v̄3`; of a second gradient `v̿3`, and of what is an adjoint already `grad(v̄3)`."""
    name = graph.nodes[at].name
    return f"v{'̄' if grown == 1 else '̿'}{name[1:]}" if graph.nodes[at].grown == 0 else f"grad({name})"


def _summed(growing: _Growing, at: int, collected: Sequence[int]) -> int:
    total = collected[0]
    for one, partial in enumerate(collected[1:], 2):
        name = _bar(growing.graph, at, growing.grown)
        total = growing.add(name if one == len(collected) else f"{name} ({one} summed)", "add", total, partial)
    return total


def _send(growing: _Growing, at: int, adjoint: int, needed: set[int]) -> tuple[tuple[int, int], ...]:
    """One partial adjoint for every argument of a node that is a node."""
    graph, node, sent = growing.graph, growing.graph.nodes[at], []
    for place, arg in enumerate(node.args):
        if not isinstance(arg, int):
            continue
        bar = _bar(graph, arg, growing.grown)
        several = sum(reader in needed for reader in graph.readers(arg)) > 1
        by = "′" if arg in node.args[:place] else ""
        name = f"{bar}→{node.name.removeprefix('v')}{by}" if several else bar
        sent.append((arg, _partial(growing, name, at, place, adjoint)))
    return tuple(sent)


def _partial(growing: _Growing, name: str, at: int, place: int, bar: int) -> int:
    """adjoint · ∂node/∂argument, as operators. The last one bears the name."""
    node = growing.graph.nodes[at]
    a: Argument = node.args[0] if node.args else 0.0
    b: Argument = node.args[1] if len(node.args) > 1 else 0.0

    def step(op: str, *args: Argument) -> int:
        return growing.add(f"h{sum(one.name.startswith('h') for one in growing.nodes) + 1}", op, *args)

    match node.op, place:
        case ("add", _) | ("id", _) | ("sub", 0):
            return growing.add(name, "id", bar)
        case ("sub", 1) | ("neg", _):
            return growing.add(name, "neg", bar)
        case "mul", _:
            return growing.add(name, "mul", bar, b if place == 0 else a)
        case "div", 0:
            return growing.add(name, "div", bar, b)
        case "div", 1:
            return growing.add(name, "neg", step("div", step("mul", bar, at), b))
        case "pow", 0:
            return growing.add(name, "mul", bar, _power_slope(step, a, b))
        case "pow", 1:
            return growing.add(name, "mul", bar, step("mul", at, step("ln", a) if isinstance(a, int) else math.log(a)))
        case "ln", _:
            return growing.add(name, "div", bar, a)
        case "exp", _:
            return growing.add(name, "mul", bar, at)
        case "sin", _:
            return growing.add(name, "mul", bar, step("cos", a))
        case "cos", _:
            return growing.add(name, "neg", step("mul", bar, step("sin", a)))
        case "tanh", _:
            return growing.add(name, "mul", bar, step("sub", 1.0, step("mul", at, at)))
        case "sqrt", _:
            return growing.add(name, "div", bar, step("mul", 2.0, at))
        case other:
            raise AssertionError(other)


def _power_slope(step: Callable[..., int], a: Argument, b: Argument) -> Argument:
    """b · aᵇ⁻¹, without powers of 0 and 1, which would have no derivative at 0."""
    if isinstance(b, int):
        return step("mul", b, step("pow", a, step("sub", b, 1.0)))
    if b in (0.0, 1.0):
        return b
    return step("mul", b, a if b == 2.0 else step("pow", a, b - 1))
