"""Where a seam lies in the captured graph: the first node that comes after it."""

from __future__ import annotations

import ast
import linecache
from collections.abc import Sequence
from functools import lru_cache

import msgspec
from torch import fx

from graphs.origin import FRAME, Frame, short_path
from graphs.record import GraphSnapshot, Seam, SeamReport, Source

Stacks = Sequence[tuple[str, list[Frame]]]


def placed(report: SeamReport, graph: GraphSnapshot, gm: fx.GraphModule | None) -> SeamReport:
    """Every seam with the node that follows it.

    Args:
        gm: the graph itself, whose nodes know all the calls that led to them; None where there is only the record."""
    stacks = _stacks(graph, gm)
    return msgspec.structs.replace(report, seams=tuple(msgspec.structs.replace(seam, node=_after(seam, stacks)) for seam in report.seams))


def _stacks(graph: GraphSnapshot, gm: fx.GraphModule | None) -> Stacks:
    """Forward operators in the order of execution, each with the calls that led to it."""
    traces = {node.name: node.meta.get("stack_trace") or "" for node in gm.graph.nodes} if gm else {}
    found: list[tuple[str, list[Frame]]] = []
    for node in graph.nodes:
        if node.op != "call_function" or node.phase not in ("forward", "loss"):
            continue
        frames = [(path, int(line), text) for path, line, text in FRAME.findall(traces.get(node.name, ""))]
        if not frames and node.source:
            frames = [(node.source.file, node.source.line, node.source.text)]
        found.append((node.name, frames))
    return found


def _after(seam: Seam, stacks: Stacks) -> str:
    """The first node made later in the seam's function; where that made none, later in the function that called it, and so on."""
    for place in (seam.source, *reversed(seam.callers)):
        if place and (name := _after_line(place, stacks)):
            return name
    return ""


def _after_line(place: Source, stacks: Stacks) -> str:
    """The first node made on a later line of the function; else the last one of the line itself; else none."""
    own = ""
    for name, frames in stacks:
        lines = [line for path, line, _ in frames if _is_in_function(place, path, line)]
        if lines and lines[-1] > place.line:
            return name
        if lines and lines[-1] == place.line:
            own = name
    return own


def _is_in_function(place: Source, path: str, line: int) -> bool:
    if path != place.file and short_path(path) != place.file:
        return False
    first, last = _function_around(path, place.line)
    return first <= line <= last


@lru_cache(maxsize=256)
def _function_around(path: str, line: int) -> tuple[int, int]:
    """First and last line of the innermost function around a line; (0, -1) where the code cannot be read."""
    try:
        tree = ast.parse("".join(linecache.getlines(path)))
    except SyntaxError:
        return 0, -1
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    around = [(node.lineno, node.end_lineno or node.lineno) for node in functions if node.lineno <= line <= (node.end_lineno or 0)]
    return max(around, default=(0, -1))
