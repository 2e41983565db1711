"""Pictures of a lesson that stand still: SVG and tables, for a file that needs no server and no library."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from graphs.lifetimes import memory_curve
from graphs.record import GraphSnapshot
from lessons.formula import Worked
from lessons.ledger import What as Amount
from lessons.ledger import tree
from lessons.lesson import Found
from lessons.scalar import Graph
from lessons.tiling import Product
from lessons.vocabulary import intensity, of_kind, percent, ridge
from pages.ui import charts, lesson_roofline, lesson_scalar, lesson_tiles, lesson_treemap, show
from profiler.prediction_record import Ceilings
from profiler.record import Measurement

WIDE, HIGH = 720, 240
TILES_WIDE = 420
MOST_ROWS = 40
BOX_HIGH, ROW_HIGH, LETTER = 24, 58, 7.4


def table(head: Sequence[str], rows: Iterable[Sequence[str]], shares: Sequence[float] = ()) -> str:
    """Text in rows; with `shares` a bar before each row's first cell, as long as its share of the whole."""
    cells = ["".join(f"<th>{html.escape(cell)}</th>" for cell in head)]
    for at, row in enumerate(rows):
        bar = f'<i class="bar-of" style="width:{100 * shares[at]:.2f}%"></i>' if shares else ""
        cells.append("".join(f"<td>{'' if column else bar}{html.escape(cell)}</td>" for column, cell in enumerate(row)))
    return f'<div class="wide"><table>{"".join(f"<tr>{one}</tr>" for one in cells)}</table></div>'


def totals(graphs: Sequence[GraphSnapshot], names: Sequence[str]) -> str:
    """What is counted of every graph, a line each."""
    head = ["counted", *(figure.title.lower() for figure in show.FIGURES)]
    rows = [
        [name, *(show.number(getattr(graph.totals, figure.field), figure.unit) for figure in show.FIGURES)]
        for name, graph in zip(names, graphs, strict=True)
    ]
    return table(head, rows)


def _svg(content: str, title: str, wide: float = WIDE, high: float = HIGH) -> str:
    said = html.escape(title)
    return f'<svg class="drawn" role="img" aria-label="{said}" viewBox="0 0 {wide:.0f} {high:.0f}">{content}</svg>'


def _narrow(picture: str, wide: float) -> str:
    """Not stretched over the whole page."""
    return picture.replace("<svg ", f'<svg style="max-width:{wide:.0f}px" ', 1)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


# ---------------------------------------------------------------- memory


def memory(graph: GraphSnapshot) -> str:
    """Allocated bytes while each node runs, a colour for each phase, the peak marked."""
    curve = memory_curve(graph.nodes, graph.outputs)
    left, top, low = 10.0, 40.0, HIGH - 24.0
    step, scale = (WIDE - 2 * left) / max(len(curve.at), 1), (low - top) / max(curve.peak, 1)
    bars: dict[str, list[str]] = {}
    for at, (node, held) in enumerate(zip(graph.nodes, curve.at, strict=True)):
        bars.setdefault(node.phase, []).append(f"M{left + at * step:.2f} {low:.1f}v{-held * scale:.2f}h{step:.2f}V{low:.1f}z")
    drawn = [f'<path d="{"".join(path)}" fill="{charts.PHASE_TONES.get(phase, charts.QUIET)}"/>' for phase, path in bars.items()]
    drawn.append(f'<path d="M{left} {low}H{WIDE - left}" stroke="currentColor"/>')
    at = left
    for phase in bars:
        drawn.append(
            f'<rect x="{at}" y="6" width="10" height="10" fill="{charts.PHASE_TONES.get(phase, charts.QUIET)}"/>'
            + _text(at + 14, 15, phase)
        )
        at += 30 + LETTER * len(phase)
    if curve.peak:
        peak_at = left + (curve.peak_position + 0.5) * step
        name = f"peak {show.size(curve.peak)} at {graph.nodes[curve.peak_position].name}"
        drawn.append(_text(min(max(peak_at, 130), WIDE - 130), top - 6, name, "middle"))
    drawn.append(_text(WIDE / 2, HIGH - 6, "position in the order of execution", "middle"))
    return _captioned(
        _svg("".join(drawn), "Allocated memory over the order of execution"), "Allocated memory while each node runs (counted)."
    )


def _captioned(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>"


# ---------------------------------------------------------------- treemap, roofline, runs


def amounts(graph: GraphSnapshot, what: Amount) -> str:
    """How much is where, by modules: what the page draws as a treemap, as a table with bars."""
    sizes = lesson_treemap.with_parents(tree(graph, what))
    whole = max(sizes[()], 1)
    paths = [path for path in sorted(sizes, key=lambda path: _rank(path, sizes)) if path]
    kept = [path for path in paths if sizes[path] > lesson_treemap.SMALL * whole][:MOST_ROWS]
    rows = [
        ["\u2003" * (len(path) - 1) + path[-1], lesson_treemap.written(sizes[path], what), percent(sizes[path], whole)] for path in kept
    ]
    left = f" {len(paths) - len(kept)} small parts are left out." if len(kept) < len(paths) else ""
    return _captioned(
        table(["part", what, "share"], rows, [sizes[path] / whole for path in kept]), f"Where the {what} are (counted).{left}"
    )


def _rank(path: tuple[str, ...], sizes: Mapping[tuple[str, ...], int]) -> list[tuple[int, str]]:
    """Below its parent, the larger first."""
    return [(-sizes[path[:end]], path[end - 1]) for end in range(1, len(path) + 1)]


def roofline(found: Found, roof: Ceilings) -> str:
    """Each matmul under the roof of the machine that it was saved on."""
    rate, bandwidth, dtype = roof.flops[lesson_roofline.DTYPE].value, roof.bandwidth.value, lesson_roofline.DTYPE
    points = [("whole graph", intensity(found.after))]
    points += [
        (node.name, node.cost.flops / node.cost.bytes_moved)
        for node in of_kind(found.after, "mm", "linear", "conv")
        if node.cost.bytes_moved and node.cost.flops
    ]
    rows = [
        [name, f"{at:.3g}", f"{min(rate, at * bandwidth) / 1e9:.3g}", "memory" if at * bandwidth < rate else "arithmetic"]
        for name, at in points
    ]
    said = f"{roof.device}: ridge at {ridge(roof, dtype):.3g} FLOP/byte, {rate / 1e9:.3g} GFLOP/s and {bandwidth / 1e9:.3g} GB/s (measured there)."
    head = ["operator", "FLOP/byte (counted)", "GFLOP/s at most", "limited by"]
    return _captioned(table(head, rows[:MOST_ROWS]), said)


def runs(measurement: Measurement) -> str:
    """Every run as a point, and the figures."""
    most = max((time for timing in measurement.timings for time in timing.times_ms), default=1.0)
    high, drawn = 44.0 * len(measurement.timings) + 10, list[str]()
    for row, (label, timing) in enumerate(zip(measurement.labels, measurement.timings, strict=True)):
        y = 44.0 * row + 30
        drawn.append(_text(4, y - 14, label))
        tone = charts.FIRST if row == 0 else charts.LAST
        drawn += [
            f'<circle cx="{10 + time / most * (WIDE - 20):.1f}" cy="{y:.1f}" r="3" fill="{tone}" opacity="0.55"/>'
            for time in timing.times_ms
        ]
    head = ["measured", "median", "95 % interval", "runs", "against the first"]
    rows = [
        [
            label, show.milliseconds(timing.median_ms), " to ".join(show.milliseconds(one) for one in timing.interval_ms), str(timing.runs),
            f"{ratio:.3f}: {verdict}",
        ]
        for label, timing, ratio, verdict in zip(
            measurement.labels, measurement.timings, measurement.ratios, measurement.verdicts, strict=True
        )
    ]  # fmt: skip
    picture = _svg("".join(drawn), "Every measured run", high=high)
    said = f"Every run, from 0 to {show.milliseconds(most)} (measured on {measurement.device.name})."
    return _captioned(picture + table(head, rows), said)


# ---------------------------------------------------------------- tiles


def tiles(product: Product, tile: tuple[int, int, int]) -> str:
    """The same rectangles as on the page."""
    layout: Any = lesson_tiles.figure(product, tile).layout
    low, high = layout.xaxis.range
    top = layout.yaxis.range[1]
    scale = TILES_WIDE / max(high - low, top)
    drawn: list[str] = []
    for shape in layout.shapes:
        x, y = (shape.x0 - low) * scale, (top - shape.y1) * scale
        wide, tall = (shape.x1 - shape.x0) * scale, (shape.y1 - shape.y0) * scale
        line = f'stroke="{shape.line.color}"' if shape.line.width else ""
        drawn.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{tall:.1f}" fill="{shape.fillcolor}" opacity="{shape.opacity}" {line}/>'
        )
    for one in layout.annotations:
        x, y = (one.x - low) * scale, (top - one.y) * scale
        lines = one.text.split("<br>")
        drawn += [_text(x, y + 16 * at, line, "middle") for at, line in enumerate(lines)]
    caption = f"One tile of {tile[0]:,} × {tile[1]:,}, in steps of {tile[2]:,}. Pale: all that it reads. Full: what it holds at one step."
    return _captioned(_narrow(_svg("".join(drawn), caption, (high - low) * scale, top * scale), TILES_WIDE), caption)


# ---------------------------------------------------------------- formulas


def formula(worked: Worked, with_values: bool) -> str:
    """The formula's graph; with the value of every node below its name."""
    values = {at: lesson_scalar.short(value) for at, value in enumerate(worked.values)} if with_values else {}
    return _captioned(_graph(worked.graph, values), "The formula as a graph" + (", with its values (computed)." if with_values else "."))


def formula_table(worked: Worked, picture: str) -> str:
    """What the screen tells of its formula once it was predicted."""
    short, names = lesson_scalar.short, [node.name for node in worked.graph.nodes]
    if picture == "reverse":
        count = len(worked.reverse.rounds)
        rounds = "".join(f"<li>{_words(lesson_scalar.round_in_words(worked, done))}</li>" for done in range(1, count + 1))
        rows = [list(row.values()) for row in lesson_scalar.collected_rows(worked, count)]
        return f"<ol>{rounds}</ol>" + table(["node", "parts", "adjoint (computed)"], rows)
    if picture == "again":
        rows = [[f"{worked.first}, then {name}", short(worked.second(name))] for name in worked.point]
        return table(["second derivative for", "is (computed)"], rows)
    rows = [[name, worked.graph.formula(at), short(worked.values[at])] for at, name in enumerate(names)]
    if picture == "forward":
        tangents = worked.tangents(worked.first)
        rows = [[*row, short(one)] for row, one in zip(rows, tangents, strict=True)]
    return table(["node", "is", "value (computed)", f"tangent for {worked.first}"][: len(rows[0])], rows)


def _words(text: str) -> str:
    """The few signs of Markdown in a round's sentence."""
    bold = html.escape(text).split("**")
    parts = "".join(f"<b>{part}</b>" if at % 2 else part for at, part in enumerate(bold)).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _graph(graph: Graph, values: Mapping[int, str]) -> str:
    """Rows by how many steps a node needs; the boxes of a row side by side."""
    depth: list[int] = []
    for node in graph.nodes:
        depth.append(1 + max((depth[one] for one in node.inputs), default=-1))
    labels = [_label(graph, at, values) for at in range(len(graph.nodes))]
    rows = [[at for at in range(len(depth)) if depth[at] == level] for level in range(max(depth) + 1)]
    widths = [LETTER * len(label) + 20 for label in labels]
    wide = max(sum(widths[at] + 16 for at in row) for row in rows)
    place: dict[int, tuple[float, float]] = {}
    for level, row in enumerate(rows):
        gap = (wide - sum(widths[at] for at in row)) / (len(row) + 1)
        x = gap
        for at in row:
            place[at] = (x + widths[at] / 2, 14 + level * ROW_HIGH)
            x += widths[at] + gap
    lines = [
        f'<path d="M{place[one][0]:.1f} {place[one][1] + BOX_HIGH / 2:.1f}L{x:.1f} {y - BOX_HIGH / 2:.1f}" stroke="{charts.QUIET}"/>'
        for at, (x, y) in place.items()
        for one in graph.nodes[at].inputs
    ]
    boxes = [
        f'<rect class="box" x="{x - widths[at] / 2:.1f}" y="{y - BOX_HIGH / 2:.1f}" width="{widths[at]:.1f}" height="{BOX_HIGH}" rx="5"'
        f' stroke="{charts.LAST}" stroke-width="{2.5 if at == graph.output else 1}"/>' + _text(x, y + 4, labels[at], "middle")
        for at, (x, y) in place.items()
    ]
    high = 14 + (len(rows) - 1) * ROW_HIGH + BOX_HIGH
    return _narrow(_svg("".join(lines + boxes), "The graph of the formula", wide, high), wide)


def _label(graph: Graph, at: int, values: Mapping[int, str]) -> str:
    node, said = graph.nodes[at], graph.formula(at)
    return f"{node.name} = {said}" + (f" = {values[at]}" if at in values else "")
