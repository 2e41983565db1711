"""Reads a formula that a reader typed, with the point at which it is looked at: `ln(x1) + x1*x2 - sin(x2) at x1=2, x2=5`."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from graphs.errors import RequestError
from lessons.scalar import OPERATORS, Argument, Gradient, Graph, Node, evaluate, gradient, tangents

LONGEST, MOST_NODES, MOST_VARIABLES = 200, 24, 6
INFIX = {ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Pow: "pow"}
FUNCTIONS = ("ln", "exp", "sin", "cos", "tanh", "sqrt")
VARIABLE = re.compile(r"[a-z][a-z0-9_]{0,7}")
ASSIGNED = re.compile(r"\s*([a-z][a-z0-9_]*)\s*=\s*([-+]?[0-9.]+(?:e[-+]?\d+)?)\s*", re.IGNORECASE)
HELP = f"Write + - * / ** , numbers, variables, and {', '.join(FUNCTIONS)}; then ` at x1=2, x2=5`."


@dataclass(frozen=True)
class Worked:
    """A formula with all that lessons tell of it.

    Attributes:
        text: the formula alone; point: its variables' values, in the order in which they occur.
        values: of every node of the formula.
        reverse: its gradient; grown_values: values of all nodes of that graph.
        again: the gradient of the derivative with respect to the first variable; again_values: values of all nodes of that graph.
    """

    text: str
    point: Mapping[str, float]
    graph: Graph
    values: tuple[float, ...]
    reverse: Gradient
    grown_values: tuple[float, ...]
    again: Gradient
    again_values: tuple[float, ...]

    @property
    def words(self) -> str:
        """As a reader types it."""
        return f"{self.text} at {', '.join(f'{name}={value:.6g}' for name, value in self.point.items())}"

    @property
    def value(self) -> float:
        """Of the formula."""
        return self.values[self.graph.output]

    @property
    def operators(self) -> int:
        """How many the formula has; equal parts count once."""
        return sum(node.op != "variable" for node in self.graph.nodes)

    @property
    def first(self) -> str:
        """The variable that comes first."""
        return next(iter(self.point))

    def tangents(self, seed: str) -> tuple[float, ...]:
        """Forward mode for one variable: the derivative of every node."""
        return tangents(self.graph, self.values, seed)

    def derivative(self, variable: str) -> float:
        """By reverse mode."""
        return self.grown_values[self.reverse.of(variable)]

    def second(self, variable: str) -> float:
        """Derivative with respect to the first variable, and then to this one."""
        return self.again_values[self.again.of(variable)]

    def partials(self, at: int) -> tuple[int, ...]:
        """Numbers of the partial adjoints that a node collected."""
        return self.reverse.rounds[-1].node_to_grad.get(at, ())


def work_out(words: str) -> Worked:
    """`formula at point` -> everything.

    Raises:
        RequestError: it cannot be read, or has no value there; says what and where.
    """
    text, _, at = words.partition(" at ")
    point = _point(at)
    graph = _read(text.strip(), point)
    labels = [graph.nodes[one].label for one in graph.variables]
    point = {name: point[name] for name in labels}
    values = evaluate(graph, point)
    reverse = gradient(graph)
    again = gradient(_derivative(reverse, labels[0]))
    return Worked(text.strip(), point, graph, values, reverse, evaluate(reverse.graph, point), again, evaluate(again.graph, point))


def _derivative(reverse: Gradient, variable: str) -> Graph:
    """The gradient's graph with the derivative for its output."""
    return Graph(reverse.graph.nodes, reverse.of(variable), reverse.graph.variables)


def _point(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in filter(str.strip, text.split(",")):
        read = ASSIGNED.fullmatch(part)
        try:
            value = float(read[2]) if read else math.nan
        except ValueError:
            value = math.nan
        if not read or not math.isfinite(value):
            raise RequestError(f"`{part.strip()}` gives no variable a number", where="point", help="Write `at x1=2, x2=5`.")
        found[read[1]] = value
    return found


def _read(text: str, point: Mapping[str, float]) -> Graph:
    if not text or len(text) > LONGEST:
        what = "there is no formula" if not text else f"a formula of {len(text)} characters is too long to draw"
        raise RequestError(what, where="formula", help=f"{HELP} At most {LONGEST} characters.")
    try:
        tree = ast.parse(text.replace("^", "**"), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        column = getattr(error, "offset", None) or 1
        raise RequestError(f"`{text}` is no formula", where=f"formula, character {column}", help=HELP) from error
    reading = _Reading(point)
    output = reading.argument(tree)
    if not isinstance(output, int):
        raise RequestError(f"`{text}` has no variable", where="formula", help="Without one there is nothing to derive by.")
    return _numbered(reading.nodes, output)


class _Reading:
    """Makes a node of every part; equal parts become one node, and numbers are computed at once."""

    def __init__(self, point: Mapping[str, float]) -> None:
        self.nodes: list[Node] = []
        self.point = point
        self.known: dict[tuple[str, str, str], int] = {}

    def argument(self, tree: ast.expr) -> Argument:
        match tree:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return self._constant(value)
            case ast.Name(id=name):
                return self._variable(name)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.argument(operand)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self._node("neg", self.argument(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in INFIX:
                return self._node(INFIX[type(op)], self.argument(left), self.argument(right))
            case ast.Call(func=ast.Name(id="log"), args=[inner], keywords=[]):
                return self._node("ln", self.argument(inner))
            case ast.Call(func=ast.Name(id=name), args=[inner], keywords=[]) if name in FUNCTIONS:
                return self._node(name, self.argument(inner))
        shown = ast.unparse(tree)
        raise RequestError(f"`{shown}` is nothing that this page can derive", where=f"formula, character {tree.col_offset + 1}", help=HELP)

    def _constant(self, value: float) -> float:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise RequestError("a number of the formula is too large", where="formula", help="Write a smaller one.")
        return number

    def _variable(self, name: str) -> int:
        if not VARIABLE.fullmatch(name) or name in FUNCTIONS:
            raise RequestError(
                f"`{name}` is no name of a variable here", where="formula", help="Write a small letter, perhaps with a digit: x, x1."
            )
        if name not in self.point:
            raise RequestError(f"`{name}` has no value", where="point", help=f"Write ` at {name}=…` behind the formula.")
        return self._kept(Node("", "variable", (), name))

    def _node(self, op: str, *args: Argument) -> Argument:
        if any(isinstance(arg, int) for arg in args):
            if op == "pow" and isinstance(args[0], float) and args[0] <= 0:
                raise RequestError(
                    "a power of a base that is not positive has no derivative", where="formula", help="Write a positive base."
                )
            return self._kept(Node("", op, args))
        try:
            return self._constant(OPERATORS[op].value(*args))
        except (ValueError, ZeroDivisionError, OverflowError, TypeError) as error:
            raise RequestError(
                "a part of the formula has no value", where="formula", help="Look for a division by 0 or ln of 0."
            ) from error

    def _kept(self, node: Node) -> int:
        key = (node.op, repr(node.args), node.label)  # as text: node 1 is not the number 1.0
        if key not in self.known:
            if len(self.nodes) >= MOST_NODES:
                raise RequestError(f"the formula has more than {MOST_NODES} nodes", where="formula", help="Write a shorter one.")
            self.nodes.append(node)
            self.known[key] = len(self.nodes) - 1
        return self.known[key]


def _numbered(nodes: list[Node], output: int) -> Graph:
    """Variables first, then operators by how many steps they need, as textbooks number them."""
    steps: list[int] = []
    for node in nodes:
        steps.append(0 if node.op == "variable" else 1 + max(steps[one] for one in node.inputs))
    order = sorted(range(len(nodes)), key=lambda at: (steps[at], nodes[at].label, at))
    if sum(node.op == "variable" for node in nodes) > MOST_VARIABLES:
        raise RequestError(f"the formula has more than {MOST_VARIABLES} variables", where="formula", help="Write one with fewer.")
    place = {old: new for new, old in enumerate(order)}
    renamed = tuple(
        Node(f"v{new + 1}", nodes[old].op, tuple(place[arg] if isinstance(arg, int) else arg for arg in nodes[old].args), nodes[old].label)
        for new, old in enumerate(order)
    )
    return Graph(renamed, place[output], tuple(at for at, node in enumerate(renamed) if node.op == "variable"))
