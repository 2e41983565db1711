"""The charts: records in, Plotly figures out. Every title says counted or measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from graphs.lifetimes import memory_curve
from graphs.record import GraphSnapshot
from optimizers.record import SearchRecord
from pages.ui import show
from pages.ui.titles import step_title
from profiler.record import Measurement

# A point that was not clicked looks as before: Plotly fades what is not selected, its text too.
AS_BEFORE = {"marker": {"opacity": 1}, "textfont": {"color": "#7d8796"}}

# Middle tones that hold on a light and on a dark page.
FIRST, LAST, BETTER, WORSE, QUIET = "#7d8796", "#3f76c4", "#3d9463", "#c9574c", "#98a2b3"
ERROR = "#d08a00"  # seen on bars and beside them, in the light and in the dark
SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up", "x")
PHASE_TONES = {"forward": "#3f76c4", "loss": "#c2792a", "backward": "#8a5a9e", "recompute": "#3d9463", "update": "#7d8796"}


def memory(graph: GraphSnapshot) -> go.Figure:
    """Allocated bytes while each node runs, one colour per phase, with the peak marked."""
    curve = memory_curve(graph.nodes, graph.outputs)
    scale, unit = scale_of(curve.peak)
    figure = go.Figure()
    names = [node.name for node in graph.nodes]
    for phase in dict.fromkeys(node.phase for node in graph.nodes):
        # Nothing, rather than a gap, where another phase runs: a filled line goes straight across gaps.
        figure.add_scatter(
            x=list(range(len(curve.at))),
            y=[at / scale if node.phase == phase else 0 for node, at in zip(graph.nodes, curve.at, strict=True)],
            name=phase,
            mode="lines",
            line={"shape": "hv", "width": 0, "color": PHASE_TONES.get(phase, QUIET)},
            fill="tozeroy",
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=list(range(len(curve.at))), y=[at / scale for at in curve.at], text=names, mode="lines", showlegend=False,
        line={"shape": "hv", "width": 1.2, "color": QUIET}, hovertemplate=f"%{{text}}<br>%{{y:.2f}} {unit}<extra></extra>",
    )  # fmt: skip
    if curve.peak:
        name = graph.nodes[curve.peak_position].name
        figure.add_annotation(
            x=curve.peak_position,
            y=curve.peak / scale,
            text=f"peak {show.size(curve.peak)} at {name}",
            arrowhead=2,
            arrowcolor=QUIET,
            ay=-22,
        )
    finish(figure, 340, f"Allocated memory, {unit} (counted)")
    figure.update_xaxes(title="position in the order of execution")
    figure.update_yaxes(range=[0, curve.peak / scale * 1.18 or 1])
    return figure


def times(measurement: Measurement, labels: Sequence[str]) -> go.Figure:
    """Median time of every graph with its 95 % interval."""
    scale, unit = show.time_scale(max(timing.median_ms for timing in measurement.timings))
    medians = [timing.median_ms / scale for timing in measurement.timings]
    lows = [(timing.median_ms - timing.interval_ms[0]) / scale if timing.has_interval else None for timing in measurement.timings]
    highs = [(timing.interval_ms[1] - timing.median_ms) / scale if timing.has_interval else None for timing in measurement.timings]
    figure = go.Figure(
        go.Bar(
            y=list(labels),
            x=medians,
            orientation="h",
            marker_color=[FIRST, *[LAST] * (len(medians) - 1)],
            error_x={"type": "data", "array": highs, "arrayminus": lows, "thickness": 1.6, "width": 5, "color": ERROR},
            text=[show.milliseconds(timing.median_ms) for timing in measurement.timings],
            textposition="inside",
            insidetextanchor="start",
            hovertemplate=f"%{{y}}: %{{x:.4g}} {unit}<extra></extra>",
        )
    )
    finish(figure, 110 + 42 * len(medians), f"Time of a run, {unit}: median and 95 % interval (measured)")
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(rangemode="tozero")
    return figure


def peaks(measurement: Measurement, counted: Sequence[int | None]) -> go.Figure:
    """Peak memory of every graph: counted beside measured; what is neither has no bar."""
    labels = measurement.labels
    measured = [timing.peak_bytes for timing in measurement.timings]
    scale, unit = scale_of(max(value or 1 for value in (*measured, *counted)))
    figure = go.Figure()
    for name, values, tone in (("counted", counted, QUIET), ("measured", measured, LAST)):
        figure.add_bar(
            y=list(labels), x=[(value or 0) / scale for value in values], orientation="h", name=name, marker_color=tone,
            text=["" if value is None else show.size(value) for value in values], textposition="inside", insidetextanchor="start",
        )  # fmt: skip
    finish(figure, 120 + 62 * len(measured), f"Peak memory, {unit}")
    figure.update_layout(barmode="group", legend_traceorder="normal")
    figure.update_yaxes(autorange="reversed")
    return figure


def waterfall(labels: Sequence[str], values: Sequence[float], title: str, unit: str) -> go.Figure:
    """From the first graph to the last: what each step took away or added. `unit`: bytes, ms, FLOP or empty."""
    scale, name = scale_of(max(values)) if unit == "bytes" else show.time_scale(max(values)) if unit == "ms" else (1.0, unit)
    steps = [after - before for before, after in zip(values, values[1:], strict=False)]
    texts = [_amount(values[0], unit), *[_signed(step, unit) for step in steps], _amount(values[-1], unit)]
    figure = go.Figure(
        go.Waterfall(
            x=[*(label.replace("-", "-<br>").replace(" (", "<br>(") for label in labels), "result"],
            y=[value / scale for value in (values[0], *steps, values[-1])],
            measure=["absolute", *["relative"] * len(steps), "total"],
            text=texts,
            textposition="outside",
            increasing_marker_color=WORSE,
            decreasing_marker_color=BETTER,
            totals_marker_color=FIRST,
            connector_line={"color": QUIET, "width": 1},
            hovertemplate="%{x}: %{text}<extra></extra>",
        )
    )
    finish(figure, 330, f"{title}, {name}" if name else title)
    figure.update_xaxes(tickangle=0)
    figure.update_yaxes(range=[0, max(values) / scale * 1.16 or 1])
    return figure


def _amount(value: float, unit: str) -> str:
    return show.milliseconds(value) if unit == "ms" else show.number(value, unit)


def _signed(value: float, unit: str) -> str:
    return "0" if not value else f"{'+' if value > 0 else '−'}{_amount(abs(value), unit)}"


def scale_of(largest: float) -> tuple[float, str]:
    """Bytes of the unit in which that many are written, and its name."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if largest >= 1024**power:
            return float(1024**power), unit
    return 1.0, "B"


def log_axis(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis whose every mark says its whole number: Plotly's own writes a lone digit at most of them."""
    found = [value for value in values if value > 0]
    if not found:
        return {"type": "log"}
    low, high = math.floor(math.log10(min(found))), math.ceil(math.log10(max(found)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [step * 10.0**power for power in range(low, high + 1) for step in steps]
    return {"type": "log", "tickvals": ticks, "ticktext": [_short_number(tick) for tick in ticks]}


def _short_number(value: float) -> str:
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:g}{prefix}"
    return f"{value:g}"


def finish(figure: go.Figure, height: int, title: str) -> None:
    """The look that all charts share."""
    figure.update_layout(
        title={"text": title, "font": {"size": 14}},
        height=height,
        margin={"l": 8, "r": 34, "t": 52, "b": 8},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right"},
        bargap=0.35,
        modebar={"orientation": "v"},  # across it would lie on titles and legends
    )


def paths(found: SearchRecord) -> go.Figure:
    """Predicted time after every step of a search's path, beside greedy's, both from the same start."""
    figure = go.Figure()
    for name, moves, tone in (("greedy", found.greedy, QUIET), ("found", found.found, LAST)):
        times = [found.seconds, *(move.seconds for move in moves)]
        labels = ["start", *(step_title(move.words) for move in moves)]
        figure.add_scatter(
            x=list(range(len(times))),
            y=[1e6 * seconds for seconds in times],
            text=labels,
            name=name,
            mode="lines+markers",
            line={"color": tone},
            marker={"symbol": "x" if name == "greedy" else "circle", "size": 9},
            hovertemplate="%{text}<br>%{y:.1f} µs<extra></extra>",
        )
    figure.update_layout(
        title="Time after each step (predicted)",
        xaxis={"title": "step", "dtick": 1},
        yaxis={"title": "µs", "rangemode": "tozero"},
        height=300,
    )
    return figure
