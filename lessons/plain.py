"""Formulas of lessons as plain Python that needs nothing but Python: for the cells of a notebook."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from graphs.exporting.written_out import Carried
from lessons.formula import Worked
from lessons.lesson import Screen
from lessons.numbers import Numbers
from lessons.scalar import Graph
from lessons.vocabulary import WORDS

WRITTEN = {
    "add": "{0} + {1}", "sub": "{0} - {1}", "mul": "{0} * {1}", "div": "{0} / {1}", "pow": "{0} ** {1}", "neg": "-{0}", "id": "{0}",
    "ln": "math.log({0})", "exp": "math.exp({0})", "sin": "math.sin({0})", "cos": "math.cos({0})", "tanh": "math.tanh({0})", "sqrt": "math.sqrt({0})",
}  # fmt: skip
TINY = 1e-6


def of_formula(worked: Worked, picture: str) -> str:
    """The formula, a line for each node, and what the screen tells: its gradient, or the gradient of that, beside differences.

    Args:
        picture: of the screen; of `values` only the forward pass is written.
    """
    forward = ["import math", "", *_function("forward", worked.graph, (worked.graph.output,), worked.graph.variables)]
    point = ", ".join(f"{value!r}" for value in worked.point.values())
    shown = [f"print({f'{worked.words}: '!r}, forward({point}))"]
    if picture == "values":
        return "\n".join([*forward, "", *shown])
    derivatives = [worked.reverse.of(name) for name in worked.point]
    gradient = _function("gradient", worked.reverse.graph, derivatives, worked.graph.variables)
    lines = [*forward, "", *gradient, "", *_compared("gradient", "forward", worked, "")]
    if picture == "again":
        twice = [worked.again.of(name) for name in worked.point]
        again = _function("gradient_of_first", worked.again.graph, twice, worked.graph.variables)
        lines += ["", *again, "", *_compared("gradient_of_first", "gradient", worked, "[0]")]
    return "\n".join([*lines[: len(forward)], "", *shown, *lines[len(forward) :]])


def _function(name: str, graph: Graph, results: Sequence[int], variables: Sequence[int]) -> list[str]:
    """Nodes in the order in which they run; only those that the results need."""
    needed, waiting = set[int](), list(results)
    while waiting:
        at = waiting.pop()
        if at not in needed:
            needed.add(at)
            waiting += graph.nodes[at].inputs
    lines = [f"def {name}({', '.join(_name(graph, at) for at in variables)}):"]
    for at in sorted(needed - set(variables)):
        node = graph.nodes[at]
        args = [_name(graph, arg) if isinstance(arg, int) else f"({float(arg)!r})" for arg in node.args]
        lines.append(f"    {_name(graph, at)} = {WRITTEN[node.op].format(*args)}  # {node.name}")
    given = ", ".join(_name(graph, at) for at in results)
    return [*lines, f"    return {given}{',' if name != 'forward' else ''}", ""]


def _name(graph: Graph, at: int) -> str:
    """Of a value in the text: nodes' own names hold bars and arrows. What readers called a variable could be a word of Python's."""
    return f"x_{graph.nodes[at].label}" if graph.nodes[at].op == "variable" else f"n{at + 1}"


def _compared(name: str, of: str, worked: Worked, at: str) -> list[str]:
    """Each derivative beside the difference of two runs a little apart."""
    return [
        f"POINT = {dict(worked.point)!r}",
        f"for number, (name, found) in enumerate(zip(POINT, {name}(*POINT.values()))):",
        f"    above = {of}(*(value + {TINY} * (number == other) for other, value in enumerate(POINT.values()))){at}",
        f"    below = {of}(*(value - {TINY} * (number == other) for other, value in enumerate(POINT.values()))){at}",
        f'    print(f"{name} for {{name}}: {{found:.6g}}; by differences {{(above - below) / {2 * TINY}:.6g}}")',
    ]


def of_numbers(screen: Screen, given: Numbers) -> str:
    """The screen's own code for its answer, with the formulas that it reads; empty where it asks nothing."""
    if screen.answer is None:
        return ""
    defined = {name: node for node in ast.parse(screen.source).body for name in _defines(node)}
    carried, kept, waiting = Carried(), dict[str, None](), ["answer"]
    while waiting:
        name = waiting.pop()
        node = defined.get(name)
        if isinstance(node, ast.ImportFrom):
            carried.add(str(node.module), name)
        elif isinstance(node, ast.Import):
            carried.imports[ast.unparse(node)] = None
        elif node is None and name in WORDS:
            carried.add("lessons.vocabulary", name)
        elif node is not None and (text := ast.unparse(node)) not in kept:
            kept[text] = None
            waiting += sorted(_reads(node))
    imports = "\n".join(["from __future__ import annotations", *carried.imports])
    mine = [text for node in defined.values() if (text := ast.unparse(node)) in kept]
    end = f"found = {dict(given.values)!r}  # change them and run again\nanswer(found)"
    return "\n\n\n".join(filter(None, [imports, carried.text(), *dict.fromkeys(mine), end]))


def _reads(node: ast.stmt) -> set[str]:
    """Names that a definition takes from outside: neither its parameters nor what it assigns itself."""
    names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
    own = {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)} | {one.id for one in names if isinstance(one.ctx, ast.Store)}
    return {one.id for one in names} - own


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [one.asname or one.name for one in node.names]
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)]
