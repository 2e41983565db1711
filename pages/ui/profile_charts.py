"""The charts of the page Profile: records in, Plotly figures out; every point carries the name of its node."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from pages.ui import charts, show
from pages.ui.profile_rows import WIDE, Box, Group, Row, groups_of
from profiler.memory_track import events, held, peak, thinned
from profiler.node_record import MemoryTrack, NodeProfile, Timeline
from profiler.timeline import NODE, ON_DEVICE, Columns

TONES = ("#3f76c4", "#c2792a", "#3d9463", "#8a5a9e", "#4f9aa0", "#c9574c", "#7d6ad0", "#9a8a3c", "#b0628f", "#7d8796")
CHOSEN = "#d6a100"
GAP = "rgba(201, 87, 76, 0.28)"
DEPTHS = 6
SHOWN_GAPS = 60
POINTS = 1200


def composition(profile: NodeProfile) -> go.Figure:
    """A whole run as one bar: nodes, what lies between them, and what runs differ by."""
    parts = [
        ("nodes", profile.nodes_ms, charts.LAST),
        ("between nodes", profile.between_ms, "#c2792a"),
        ("uneven runs", profile.uneven_ms, charts.QUIET),
    ]
    figure = go.Figure()
    for title, value, tone in parts:
        label = f"{title} {show.milliseconds(abs(value))}" if abs(value) > 0.08 * profile.whole_ms else ""
        figure.add_bar(
            y=["a run"], x=[value], orientation="h", name=title, marker_color=tone, text=[label], textposition="inside", insidetextanchor="middle",
            hovertemplate=f"{title}: {show.milliseconds(value)} (%{{customdata:.1%}} of a run)<extra></extra>", customdata=[value / (profile.whole_ms or 1)],
        )  # fmt: skip
    charts.finish(figure, 84, "Where a run's time is (measured)")
    figure.update_layout(barmode="relative", legend_traceorder="normal", bargap=0, margin={"l": 0, "r": 0, "t": 40, "b": 4})
    figure.update_yaxes(visible=False)
    figure.update_xaxes(visible=False, range=[min(0.0, *(value for _, value, _ in parts)), sum(max(0.0, value) for _, value, _ in parts)])
    return figure


def tree(groups: Sequence[Group], found: Sequence[Box], chosen: str) -> go.Figure:
    """A map of rectangles as large as their nodes' time, in the colours of their groups; bars, so that each can be clicked."""
    whole = sum(group.ms for group in groups) or 1.0
    texts = [_box_text(box) for box in found]
    hover = [
        f"{box.row.node.name if box.row else show.plural(box.nodes, 'smaller node')}<br>{groups[box.group].title[:80]}<br>"
        f"{box.ms * 1e3:.1f} µs, {box.ms / whole:.1%} of all nodes"
        for box in found
    ]
    is_chosen = [box.row is not None and box.row.node.name == chosen for box in found]
    figure = go.Figure(
        go.Bar(
            x=[box.x + box.width / 2 for box in found],
            width=[box.width for box in found],
            base=[box.y for box in found],
            y=[box.height for box in found],
            marker={
                "color": [TONES[box.group % len(TONES)] if box.group < len(TONES) - 1 else TONES[-1] for box in found],
                "line": {
                    "color": [CHOSEN if one else "rgba(255,255,255,0.75)" for one in is_chosen],
                    "width": [4 if one else 1 for one in is_chosen],
                },
            },
            text=texts,
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            insidetextfont={"color": "white", "size": 12},
            hovertext=hover,
            hovertemplate="%{hovertext}<extra></extra>",
            customdata=[[box.row.node.name if box.row else ""] for box in found],
        )  # fmt: skip
    )
    charts.finish(figure, 430, "Time by node, in groups (measured)")
    figure.update_layout(
        margin={"l": 0, "r": 0, "t": 40, "b": 0}, clickmode="event+select", uniformtext={"minsize": 9, "mode": "hide"}, bargap=0
    )
    figure.update_xaxes(visible=False, range=[0, WIDE], fixedrange=True)
    figure.update_yaxes(visible=False, range=[1, 0], fixedrange=True)
    same = {"marker": {"opacity": 1}, "textfont": {"color": "white"}}
    figure.update_traces(selected=same, unselected=same)
    return figure


def _box_text(box: Box) -> str:
    if box.width * box.height < 0.004 or box.width < 0.05:
        return ""
    fits = int(box.width / WIDE * 90)
    name = box.row.node.name if box.row else f"{box.nodes} more"
    return name if len(name) <= fits else f"{name[: fits - 1]}…"


def roofline(rows: Sequence[Row], chosen: str, flops_per_s: float | None = None, bytes_per_s: float | None = None) -> go.Figure:
    """What every node achieves over how much it computes for each byte; with the device's ceilings where they are known."""
    points = [row for row in rows if row.cost.flops and row.cost.bytes_moved and row.timing.ms]
    figure = go.Figure()
    for number, phase in enumerate(dict.fromkeys(row.node.phase for row in points)):
        part = [row for row in points if row.node.phase == phase]
        figure.add_scatter(
            x=[row.intensity for row in part], y=[row.flops_per_s for row in part], name=phase, mode="markers",
            marker={
                "size": [7 + 26 * (row.share**0.5) for row in part], "color": charts.PHASE_TONES.get(phase, TONES[number % len(TONES)]), "opacity": 0.75,
                "line": {"width": [3 if row.node.name == chosen else 0.5 for row in part], "color": [CHOSEN if row.node.name == chosen else "white" for row in part]},
            },
            customdata=[[row.node.name] for row in part],
            text=[f"{row.node.name}<br>{row.timing.ms * 1e3:.1f} µs, {row.bytes_per_s / 1e9:.2f} GB/s" for row in part],
            hovertemplate="%{text}<br>%{y:.3s}FLOP/s at %{x:.3g} FLOP/byte<extra></extra>",
        )  # fmt: skip
    if points and bytes_per_s:
        low, high = (edge(row.intensity for row in points) for edge in (min, max))
        spread = np.geomspace(low / 2, high * 2, 60)
        roof = np.minimum(spread * bytes_per_s, flops_per_s or np.inf)
        figure.add_scatter(x=spread, y=roof, mode="lines", name="ceiling", line={"color": charts.QUIET, "dash": "dash"}, hoverinfo="skip")
    charts.finish(figure, 430, "Roofline: counted ÷ measured time")
    figure.update_layout(clickmode="event+select", legend={"y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left"})
    figure.update_xaxes(title="FLOP for each byte moved (counted)", **charts.log_axis(row.intensity for row in points))
    figure.update_yaxes(title="FLOP/s (counted ÷ measured)", **charts.log_axis(row.flops_per_s for row in points))
    figure.update_traces(selected={"marker": {"opacity": 0.9}}, unselected={"marker": {"opacity": 0.75}}, selector={"mode": "markers"})
    return figure


def lanes(
    timeline: Timeline, found: Columns, shown: np.ndarray, gaps: tuple[np.ndarray, np.ndarray], window: tuple[int, int], chosen: str
) -> go.Figure:
    """Slices as bars on their lanes, and the longest gaps as red bands."""
    begin, end = window
    unit = nanoseconds_of(window)
    name = "µs" if unit == 1e3 else "ms"
    at, deep = found.lane[shown], np.minimum(found.depth[shown], DEPTHS - 1)
    rows = {key: number for number, key in enumerate(sorted({(int(lane), int(depth)) for lane, depth in zip(at, deep, strict=True)}))}
    words = [plain(word) for word in timeline.names]
    figure = go.Figure()
    for kind in np.unique(found.kind[shown]).tolist():
        mine = found.kind[shown] == kind
        part, title = shown[mine], timeline.kinds[kind] or "other"
        nodes = [timeline.nodes[node] if node >= 0 else "" for node in found.node[part].tolist()]
        figure.add_bar(
            base=found.start[part] / unit, x=found.length[part] / unit, y=[rows[int(lane), int(depth)] for lane, depth in zip(at[mine], deep[mine], strict=True)],
            orientation="h", name="mark around a node" if title == NODE else title, width=0.82,
            marker={
                "color": _tone(title), "opacity": 0.9,
                "line": {"color": [CHOSEN if node and node == chosen else "rgba(127,127,127,0.6)" for node in nodes], "width": [3 if node and node == chosen else 0.5 for node in nodes]},
            },
            text=[words[word].removeprefix("node: ").removeprefix("aten::") if length > (end - begin) / 24 else "" for word, length in zip(found.name[part].tolist(), found.length[part].tolist(), strict=True)],
            textposition="inside", insidetextanchor="start", textangle=0, constraintext="inside", cliponaxis=True,
            customdata=[[node, words[word], length / 1e3] for node, word, length in zip(nodes, found.name[part].tolist(), found.length[part].tolist(), strict=True)],
            hovertemplate="%{customdata[1]}<br>%{customdata[2]:,.1f} µs<br>node: %{customdata[0]}<extra></extra>",
        )  # fmt: skip
    for start, length in _longest_gaps(gaps, window):
        figure.add_vrect(x0=start / unit, x1=(start + length) / unit, fillcolor=GAP, line_width=0, layer="below")
    height = 180 + 30 * max(3, len(rows))
    charts.finish(figure, height, f"What ran when, {name} (measured); red: no work runs")
    figure.update_layout(legend={"y": -70 / (height - 110), "yanchor": "top", "x": 0, "xanchor": "left"})
    firsts = {lane: row for (lane, depth), row in rows.items() if depth == min(other for one, other in rows if one == lane)}
    figure.update_layout(
        barmode="overlay",
        uniformtext={"minsize": 9, "mode": "hide"},
    )
    figure.update_yaxes(
        tickvals=list(firsts.values()),
        ticktext=[plain(_short(timeline.lanes[lane])) for lane in firsts],
        autorange="reversed",
        fixedrange=True,
    )
    figure.update_xaxes(range=[begin / unit, end / unit], fixedrange=True, title=f"{name} since the first event")
    figure.update_traces(selected={"marker": {"opacity": 0.9}}, unselected={"marker": {"opacity": 0.9}})
    return figure


def draw_over(figure: go.Figure, drags: bool) -> None:
    """Lets the mouse draw over a stretch, or click a point: Streamlit is told of one of the two."""
    figure.update_layout(clickmode="event+select", dragmode="select" if drags else False, selectdirection="h")


def plain(name: str) -> str:
    """A name from a file as Plotly is to write it: what looks like markup is text."""
    return html.escape(name[:90], quote=False)


def nanoseconds_of(window: tuple[int, int]) -> float:
    """Of the unit in which a stretch is drawn: microseconds, or milliseconds where it is long."""
    return 1e3 if window[1] - window[0] < 5_000_000 else 1e6


def _longest_gaps(gaps: tuple[np.ndarray, np.ndarray], window: tuple[int, int]) -> list[tuple[int, int]]:
    starts, lengths = gaps
    inside = np.flatnonzero((starts < window[1]) & (starts + lengths > window[0]))
    longest = inside[np.argsort(-lengths[inside])[:SHOWN_GAPS]]
    return [(int(starts[row]), int(lengths[row])) for row in longest]


def _tone(kind: str) -> str:
    if kind == NODE:
        return charts.LAST
    return "#c2792a" if kind in ON_DEVICE else "#8a5a9e" if kind.startswith("cuda") else charts.QUIET


def _short(lane: str) -> str:
    return lane if len(lane) < 26 else f"…{lane[-24:]}"


def memory(track: MemoryTrack, window: tuple[int, int], title: str, axis: str) -> go.Figure:
    """Bytes held after every event of a stretch, with the peak marked; thinned so that no peak is lost."""
    at, values = events(track).at, held(track)
    kept = thinned(at, values, *window, buckets=POINTS // 4)
    most, peak_event = peak(track)
    scale, unit = charts.scale_of(max(most, 1))
    owners = events(track).owner[kept]
    names = [plain(track.owners[owner]) if owner >= 0 else "" for owner in owners.tolist()]
    figure = go.Figure(
        go.Scatter(
            x=at[kept],
            y=values[kept] / scale,
            mode="lines+markers" if track.by_node else "lines",
            marker={"size": 4},
            line={"shape": "hv", "width": 1.5, "color": charts.LAST},
            fill="tozeroy",
            name="held",
            customdata=[[name] for name in names],
            hovertemplate=f"%{{y:.3f}} {unit}<br>%{{customdata[0]}}<extra></extra>",
        )  # fmt: skip
    )
    if peak_event >= 0 and window[0] <= at[peak_event] <= window[1]:
        owner = events(track).owner[peak_event]
        label = f"peak {show.size(most)}" + (f" at {plain(track.owners[owner][:60])}" if owner >= 0 else "")
        figure.add_annotation(x=int(at[peak_event]), y=most / scale, text=label, arrowhead=2, arrowcolor=charts.QUIET, ay=-26)
    charts.finish(figure, 360, f"{title}, {unit}")
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title=axis, range=list(window), fixedrange=True)
    figure.update_yaxes(rangemode="tozero", fixedrange=True)
    return figure


def _both_ends(title: str, most: int = 40) -> str:
    """A long name without its middle: those of backward operators differ from the forward ones at the end."""
    return title if len(title) <= most else f"{title[: most // 2]}…{title[-most // 2 :]}"


def before_and_after(first: Sequence[Row], last: Sequence[Row], by: str, most: int = 14) -> go.Figure:
    """Measured time by group, of two graphs; the groups whose time changed most come first."""
    found = [{group.title: group.ms for group in groups_of(rows, by)} for rows in (first, last)]
    scale, unit = show.time_scale(max((ms for side in found for ms in side.values()), default=0.0))
    sides = [{title: ms / scale for title, ms in side.items()} for side in found]
    titles = sorted(sides[0].keys() | sides[1].keys(), key=lambda title: -abs(sides[1].get(title, 0.0) - sides[0].get(title, 0.0)))[:most]
    figure = go.Figure()
    for name, side, tone in (("as captured", sides[0], charts.FIRST), ("after the pipeline", sides[1], charts.LAST)):
        values = [side.get(title, 0.0) for title in titles]
        figure.add_bar(
            y=[_both_ends(title) for title in titles], x=values, name=name, orientation="h", marker_color=tone,
            customdata=[[title] for title in titles],
            text=[show.milliseconds(scale * value) if value else "" for value in values], textposition="outside", cliponaxis=False,
        )  # fmt: skip
    charts.finish(figure, 110 + 38 * len(titles), f"Time by {by}, {unit} (measured)")
    figure.update_layout(barmode="group", legend_traceorder="normal", clickmode="event+select")
    figure.update_traces(selected=charts.AS_BEFORE, unselected=charts.AS_BEFORE)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(range=[0, 1.15 * max((side.get(title, 0.0) for side in sides for title in titles), default=1.0)])
    return figure
