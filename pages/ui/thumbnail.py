"""A graph as a small picture: its depth from left to right, at each depth a bar as high as there are operators."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from graphs.record import GraphSnapshot, NodeRecord

WIDTH, HEIGHT, COLUMNS, WIDEST, GAP, TALLEST = 320, 96, 80, 18, 0.25, 9
FORWARD, BACKWARD, NEW = "#4c7fce", "#cf8a3d", "#3f9d69"
STRONG, MEDIUM, FAINT = 1.0, 0.6, 0.25  # matrices; other work; views


def svg(graph: GraphSnapshot, new: Collection[str]) -> str:
    """The picture.

    Args:
        new: names of the nodes that steps have made.
    """
    columns = _columns([node for node in graph.nodes if node.op == "call_function"])
    step = min(WIDTH / max(len(columns), 1), WIDEST)
    left = (WIDTH - step * len(columns)) / 2
    most = max((len(column) for column in columns), default=1)
    tall = (HEIGHT - 8) / max(most, TALLEST)
    cells: list[str] = []
    for at, column in enumerate(columns):
        top = HEIGHT / 2 - tall * len(column) / 2
        for row, node in enumerate(column):
            cells.append(
                f'<rect x="{left + at * step:.1f}" y="{top + row * tall:.1f}" width="{max(step - GAP, 0.5):.1f}" height="{max(tall - GAP, 0.5):.1f}"'
                f' fill="{_tone(node, new)}" opacity="{_weight(node)}"/>'
            )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">{"".join(cells)}</svg>'
    )


def _columns(nodes: Iterable[NodeRecord]) -> list[list[NodeRecord]]:
    """Nodes by how many stand before them on the longest way from an input; neighbouring depths share a column where there are many."""
    depth: dict[str, int] = {}
    ordered = list(nodes)
    for node in ordered:
        depth[node.name] = 1 + max((depth.get(read, -1) for read in node.inputs), default=-1)
    deepest = max(depth.values(), default=0) + 1
    columns: list[list[NodeRecord]] = [[] for _ in range(min(deepest, COLUMNS))]
    for node in ordered:
        columns[depth[node.name] * len(columns) // deepest].append(node)
    return columns


def _tone(node: NodeRecord, new: Collection[str]) -> str:
    if node.name in new:
        return NEW
    return BACKWARD if node.phase in ("backward", "update", "recompute") else FORWARD


def _weight(node: NodeRecord) -> float:
    if node.cost.known and node.cost.launches == 0:
        return FAINT
    return STRONG if node.cost.matmul_flops else MEDIUM
