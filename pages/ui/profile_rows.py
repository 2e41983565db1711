"""What was measured of every node beside what is counted of it: the rows behind the page Profile's tables and charts. No screen in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from graphs.memory import line_of
from graphs.record import Cost, GraphSnapshot, NodeRecord
from pages.ui.graph_view.drawing import short_target
from profiler.node_record import NodeProfile, NodeTiming


class Row(NamedTuple):
    """One node. `cost` is that of one run of the graph, with the branches and loops that the node holds."""

    node: NodeRecord
    timing: NodeTiming
    cost: Cost
    share: float

    @property
    def flops_per_s(self) -> float:
        """Counted operations by measured time."""
        return self.cost.flops / self.timing.ms * 1e3 if self.timing.ms else 0.0

    @property
    def bytes_per_s(self) -> float:
        """Counted bytes moved by measured time."""
        return self.cost.bytes_moved / self.timing.ms * 1e3 if self.timing.ms else 0.0

    @property
    def intensity(self) -> float:
        """Counted operations for each counted byte."""
        return self.cost.flops / self.cost.bytes_moved if self.cost.bytes_moved else 0.0


def rows_of(graph: GraphSnapshot, profile: NodeProfile) -> list[Row]:
    """A row for every timed node, in the order of execution."""
    nodes, inside = graph.by_name(), dict[str, list[Cost]]()
    for node in graph.nodes:
        inside.setdefault(node.name.partition("/")[0], []).append(node.total)
    whole = profile.whole_ms or 1.0
    return [
        Row(nodes[timing.name], timing, _summed(inside[timing.name]), timing.ms / whole) for timing in profile.nodes if timing.name in nodes
    ]


def _summed(costs: Sequence[Cost]) -> Cost:
    if len(costs) == 1:
        return costs[0]
    fields = ("flops", "matmul_flops", "bytes_read", "bytes_written", "launches")
    return Cost(**{field: sum(getattr(cost, field) for cost in costs) for field in fields}, known=all(cost.known for cost in costs))


PLACEHOLDER = "Part of a name, operator, module, line …"


def matching(rows: Sequence[Row], text: str) -> list[Row]:
    """Rows in whose node every word occurs: its name, operator, phase, module or line."""
    words = text.lower().split()
    return [row for row in rows if all(word in _searched(row.node) for word in words)]


def _searched(node: NodeRecord) -> str:
    file, line, code = line_of(node)
    return f"{node.name} {node.target} {node.phase} {node.module} {file}:{line} {code}".lower()


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """One line per node; numbers, so that they sort as numbers."""
    return pd.DataFrame(
        {
            "node": [row.node.name for row in rows],
            "operator": [short_target(row.node.target) for row in rows],
            "µs": [row.timing.ms * 1e3 for row in rows],
            "share": [row.share for row in rows],
            "± µs": [(row.timing.interval_ms[1] - row.timing.interval_ms[0]) / 2 * 1e3 for row in rows],
            "GFLOP/s": [row.flops_per_s / 1e9 if row.cost.flops else None for row in rows],
            "GB/s": [row.bytes_per_s / 1e9 if row.cost.bytes_moved else None for row in rows],
            "launches": [row.cost.launches if row.timing.launches is None else row.timing.launches for row in rows],
            "allocated": [row.timing.allocated for row in rows],
            "freed": [row.timing.freed for row in rows],
            "phase": [row.node.phase for row in rows],
            "module": [row.node.module for row in rows],
            "line": [_line(row.node) for row in rows],
        }
    )


def _line(node: NodeRecord) -> str:
    file, line, _ = line_of(node)
    return f"{file}:{line}" if file else ""


# ---------------------------------------------------------------- groups

GROUPS: Mapping[str, Callable[[NodeRecord], str]] = {
    "operator": lambda node: short_target(node.target),
    "module": lambda node: node.module or "the model itself",
    "source line": lambda node: f"{_line(node)}  {line_of(node)[2]}" if node.source else "no line known",
    "phase": lambda node: node.phase,
}


class Group(NamedTuple):
    """Nodes that have something in common."""

    title: str
    rows: list[Row]

    @property
    def ms(self) -> float:
        return sum(row.timing.ms for row in self.rows)


def groups_of(rows: Sequence[Row], by: str) -> list[Group]:
    """The groups, the one that takes longest first."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(GROUPS[by](row.node), []).append(row)
    return sorted((Group(title, members) for title, members in found.items()), key=lambda group: -group.ms)


def group_frame(groups: Sequence[Group], by: str, whole_ms: float, halves: Sequence[float | None]) -> pd.DataFrame:
    """One line per group; `halves` of the intervals of their times, milliseconds."""
    return pd.DataFrame(
        {
            by: [group.title for group in groups],
            "ms": [group.ms for group in groups],
            "± ms": list(halves),
            "share": [group.ms / (whole_ms or 1) for group in groups],
            "nodes": [len(group.rows) for group in groups],
            "launches": [sum(row.cost.launches for row in group.rows) for group in groups],
            "GFLOP": [sum(row.cost.flops for row in group.rows) / 1e9 for group in groups],
            "moved MiB": [sum(row.cost.bytes_moved for row in group.rows) / 2**20 for group in groups],
            "allocated MiB": [sum(row.timing.allocated for row in group.rows) / 2**20 for group in groups],
        }
    )


# ---------------------------------------------------------------- rectangles


WIDE = 1.45  # of the map, by its height


class Box(NamedTuple):
    """A rectangle of a map that is `WIDE` wide and 1 high; `row` is None where small nodes of a group share one."""

    x: float
    y: float
    width: float
    height: float
    row: Row | None
    group: int
    ms: float
    nodes: int = 1


Place = tuple[float, float, float, float]


def boxes(groups: Sequence[Group], most: int) -> list[Box]:
    """A rectangle for every group, in proportion to its time, and in it one for each of its longest nodes; at most so many altogether."""
    longest = sorted((row.timing.ms for group in groups for row in group.rows), reverse=True)
    least = longest[most] if len(longest) > most else 0.0
    found: list[Box] = []
    for number, (group, place) in enumerate(zip(groups, squares([group.ms for group in groups], (0.0, 0.0, WIDE, 1.0)), strict=True)):
        shown = sorted((row for row in group.rows if row.timing.ms > least), key=lambda row: -row.timing.ms)
        rest = len(group.rows) - len(shown)
        sizes = [row.timing.ms for row in shown]
        members: list[Row | None] = list(shown)
        if rest:
            sizes.append(group.ms - sum(sizes))
            members.append(None)
        for row, size, inner in zip(members, sizes, squares(sizes, place), strict=True):
            found.append(Box(*inner, row, number, size, 1 if row else rest))
    return found


def squares(sizes: Sequence[float], place: Place) -> list[Place]:
    """Rectangles (x, y, width, height) that fill a place in proportion to some falling sizes, each as near to a square as a row of them allows.

    The squarified treemap of Bruls, Huizing and van Wijk (2000).
    """
    whole = sum(sizes)
    x, y, width, height = place
    if whole <= 0:
        return [(x, y, 0.0, 0.0)] * len(sizes)
    areas = [size / whole * width * height for size in sizes]
    found: list[Place] = []
    at = 0
    while at < len(areas):
        side = min(width, height)
        end = at + 1
        while end < len(areas) and _worst(areas[at : end + 1], side) <= _worst(areas[at:end], side):
            end += 1
        thick = sum(areas[at:end]) / side if side else 0.0
        along = 0.0
        for area in areas[at:end]:
            long = area / thick if thick else 0.0
            found.append((x, y + along, thick, long) if width >= height else (x + along, y, long, thick))
            along += long
        x, y, width, height = (x + thick, y, width - thick, height) if width >= height else (x, y + thick, width, height - thick)
        at = end
    return found


def _worst(areas: Sequence[float], side: float) -> float:
    """How far from a square the worst of a row of rectangles is."""
    total = sum(areas)
    if not side or not total or not min(areas):
        return float("inf")
    return max(side**2 * max(areas) / total**2, total**2 / (side**2 * min(areas)))
