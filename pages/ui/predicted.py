"""Predictions side by side: a bar and a line per device, and the nodes on one of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from graphs.record import GraphSnapshot
from jobs.record import PredictResult
from pages.ui import charts, show
from pages.ui.graph_view import graph_view, wish
from profiler.prediction_record import LAUNCH, Ceilings, NodePrediction, Prediction

BOUNDS = {
    "compute": ("arithmetic", "#c2792a"),
    "memory": ("memory bandwidth", "#3f76c4"),
    "launch": ("launches", "#8a5a9e"),
    "nothing": ("nothing", "#7d8796"),
}
PANE = "predicted graph"
FOCUS, TURN, MARKED = "predicted focus", "predicted turn", "predicted marked"
LOGO: dict[str, Any] = {"displaylogo": False}
MOST = 200
FAR_APART = 30  # times the shortest bar: beyond, it would not be seen beside the longest
ROOM = 1.14
UNSTEADY = 0.25
NOWHERE: Mapping[str, float] = MappingProxyType({})


def ceilings_in_words(found: Ceilings) -> str:
    """Measured ceilings with their spread."""
    rates = ", ".join(f"{dtype} {one.value / 1e9:,.0f} GFLOP/s (±{one.spread:.0%})" for dtype, one in found.flops.items())
    return (
        f"This machine, **measured**: {show.plain(found.device)}, {show.plural(found.threads, 'thread')}; matmul {rates}; copies "
        f"{found.bandwidth.value / 1e9:,.1f} GB/s (±{found.bandwidth.spread:.0%}), in cache {found.cache_bandwidth.value / 1e9:,.0f} GB/s; "
        f"a launch {found.launch_s.value * 1e6:,.1f} µs.{_unsteady(found)}"
    )


def _unsteady(found: Ceilings) -> str:
    """Where a ceiling moved so far while it was measured that predictions are moved by it."""
    worst = max(one.spread for one in (*found.flops.values(), found.bandwidth, found.cache_bandwidth, found.launch_s))
    return (
        f" **The machine changed its pace meanwhile** (by up to {worst:.0%}): measure again when nothing else runs."
        if worst > UNSTEADY
        else ""
    )


def side_by_side(answer: PredictResult, has_steps: bool, chosen: str, measured: Mapping[str, float] = NOWHERE) -> None:
    """Times as bars, and the table in which a device is chosen; `measured` has seconds by the names of devices where the graph ran."""
    names = [device.name for device in answer.devices]
    st.plotly_chart(
        bars(answer, has_steps, measured),
        key="predicted bars",
        config=LOGO,
        selection_mode="points",
        on_select=lambda: _choose_bar(names, chosen),
    )
    st.dataframe(
        table(answer, has_steps, measured), hide_index=True, key="predicted table", selection_mode="single-row", placeholder="",
        on_select=lambda: _choose(names, chosen), height=min(36 * (len(names) + 1), 430), column_config=_columns(answer, has_steps),
    )  # fmt: skip
    if len(names) > 1 and all(one.bound == LAUNCH for one in answer.after):
        st.caption("On every one of these devices launches decide: the graph is too small to keep any of them busy.")
    said = ["GB/s and TFLOP/s are decimal, GiB binary; matmul-only operations for MFU and HFU; dense rates, without sparsity"]
    if answer.without:
        said.append(f"without a rate for this graph's dtypes: {', '.join(answer.without)}")
    st.caption("; ".join(said) + ".")
    for device in answer.devices:
        if device.name == st.session_state.get(chosen) and not device.measured:
            st.caption(f"Figures of {device.name}: {show.plain(device.source)}")


def bars(answer: PredictResult, has_steps: bool, measured: Mapping[str, float] = NOWHERE) -> go.Figure:
    """Predicted time of every device, and a mark where it was measured. Bars begin at zero, so that their lengths compare; where devices lie too far apart for that, the axis is
    logarithmic and begins a decade below. A hatched bar does not fit."""
    figure = go.Figure()
    names = [device.name for device in answer.devices]
    times = [1e3 * one.seconds for one in (*answer.before, *answer.after) if one.seconds > 0]
    times += [1e3 * measured[name] for name in names if name in measured]
    scale, unit = show.time_scale(max(times, default=1.0))
    for title, found, faint in (("as captured", answer.before, True), ("after the pipeline", answer.after, False)):
        if faint and not has_steps:
            continue
        figure.add_bar(
            y=names, x=[1e3 * one.seconds / scale for one in found], orientation="h", name=title, showlegend=faint,
            marker={
                "color": charts.QUIET if faint else [BOUNDS[one.bound][1] for one in found],
                "pattern": {"shape": ["" if one.fits else "/" for one in found]},
            },
            text=[f"{show.milliseconds(1e3 * one.seconds)}{'' if one.fits else ' · does not fit'}" for one in found], textposition="outside",
            constraintext="none", textfont={"size": 11}, cliponaxis=False,
            customdata=[BOUNDS[one.bound][0] for one in found], hovertemplate="%{y}: %{text}, most of it %{customdata}<extra></extra>",
        )  # fmt: skip
    for text, tone in BOUNDS.values():
        if text != "nothing":
            # A square and no bar: every bar's trace takes room beside the others, drawn or not.
            marker = {"symbol": "square", "size": 11, "color": tone}
            figure.add_scatter(y=[None], x=[None], mode="markers", name=f"most of it: {text}", marker=marker)
    ran = [name for name in names if name in measured]
    if ran:
        figure.add_scatter(
            y=ran, x=[1e3 * measured[name] / scale for name in ran], mode="markers", name="measured, after the pipeline" if has_steps else "measured",
            marker={"symbol": "diamond", "size": 11, "color": charts.ERROR, "line": {"width": 1, "color": "white"}}, cliponaxis=False,
            text=[show.milliseconds(1e3 * measured[name]) for name in ran], hovertemplate="%{y}: %{text}, measured<extra></extra>",
        )  # fmt: skip
    charts.finish(figure, 120 + (38 if has_steps else 24) * len(names), "Time of a run (predicted)")
    figure.update_layout(barmode="group", legend={"traceorder": "normal"}, bargap=0.25, clickmode="event+select")
    figure.update_traces(selected=charts.AS_BEFORE, unselected=charts.AS_BEFORE, selector={"type": "bar"})
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(**_axis(min(times, default=1.0) / scale, max(times, default=1.0) / scale, unit))
    return figure


def _axis(least: float, most: float, unit: str) -> dict[str, Any]:
    """Of bars between these lengths, with room for the text at the end of the longest."""
    if most <= FAR_APART * least:
        return {"title": unit, "range": [0, most * ROOM]}
    first = math.floor(math.log10(least))
    last = math.log10(most)
    return {"type": "log", "title": f"{unit}, logarithmic", "dtick": 1, "range": [first, last + (last - first) * (ROOM - 1)]}


def _clock(answer: PredictResult) -> tuple[float, str]:
    """Milliseconds of the unit in which the table's times stand, and its name: numbers of one unit can be sorted and compared."""
    return show.time_scale(1e3 * max(one.seconds for one in (*answer.before, *answer.after)))


def _memory(answer: PredictResult) -> tuple[float, str]:
    return charts.scale_of(max(one.peak_bytes + one.resident_bytes for one in answer.after))


def table(answer: PredictResult, has_steps: bool, measured: Mapping[str, float] = NOWHERE) -> pd.DataFrame:
    """One line per device, in numbers; `_columns` says their units."""
    rows = []
    names = {device.name for device in answer.devices}
    clock, amount = _clock(answer)[0] / 1e3, _memory(answer)[0]
    for device, before, after in zip(answer.devices, answer.before, answer.after, strict=True):
        first = {"as captured": before.seconds / clock} if has_steps else {}
        ran = {"measured": measured[device.name] / clock if device.name in measured else None} if measured.keys() & names else {}
        ratio = {"÷": after.seconds / before.seconds if before.seconds else None} if has_steps else {}
        rows.append(
            {
                "device": device.name,
                **first,
                "time": after.seconds / clock,
                **ran,
                **ratio,
                "least": after.roofline_s / clock,
                "bound by": BOUNDS[after.bound][0],
                "memory needed": (after.peak_bytes + after.resident_bytes) / amount,
                "its memory": device.memory_bytes / (1 << 30),
                "fits": "yes" if after.fits else "no",
                "MFU": after.mfu,
                "HFU": after.hfu,
                "figures": f"ceilings {device.source.partition(',')[0]}" if device.measured else _sheet_words(device.source),
            }
        )
    return pd.DataFrame(rows)


def _columns(answer: PredictResult, has_steps: bool) -> dict[str, Any]:
    """Units and meanings of the table's columns."""
    clock, amount = _clock(answer)[1], _memory(answer)[1]
    after = " after the pipeline." if has_steps else "."
    return {
        "as captured": _number(f"as captured, {clock}", "Predicted time of one run without the pipeline."),
        "time": _number(f"time, {clock}", f"Predicted, of one run of the graph{after}"),
        "measured": _number(f"measured, {clock}", "Measured, where this machine or a recording has run this experiment: median of a run."),
        "÷": st.column_config.NumberColumn(format="%.3f", help="Time after the pipeline ÷ time as captured, both predicted."),
        "least": _number(f"least, {clock}", "Predicted too: what the peak rates alone would allow, operator by operator: the roofline."),
        "bound by": st.column_config.TextColumn(help="What most of the predicted time goes to."),
        "memory needed": _number(f"memory needed, {amount}", "Counted: the peak, with parameters and inputs."),
        "its memory": _number("its memory, GiB", "The device's memory, by its data sheet."),
        "MFU": st.column_config.NumberColumn(
            format="percent", help="Model FLOPs utilisation: matmul operations, those that run again left out, over time × peak rate."
        ),
        "HFU": st.column_config.NumberColumn(format="percent", help="Hardware FLOPs utilisation: with those that run again."),
        "figures": st.column_config.TextColumn(help="Where the device's rates come from."),
    }


def _number(label: str, meaning: str) -> Any:
    return st.column_config.NumberColumn(label, format="%.3g", help=meaning)


def _sheet_words(source: str) -> str:
    """Short, for a cell: which of a data sheet's figures nobody verified."""
    doubt = source.partition(". ")[0]
    return f"data sheet; {doubt[:1].lower()}{doubt[1:]}" if doubt.startswith("Not verified") else "data sheet"


def _choose_bar(names: Sequence[str], chosen: str) -> None:
    for point in st.session_state["predicted bars"]["selection"]["points"]:
        if point.get("y") in names:
            st.session_state[chosen] = point["y"]


def _choose(names: Sequence[str], chosen: str) -> None:
    rows = st.session_state["predicted table"]["selection"]["rows"]
    st.session_state[chosen] = names[int(rows[0])] if rows and rows[0] < len(names) else ""


@st.fragment
def nodes(graph: GraphSnapshot, found: Prediction) -> None:
    """Where the time would go on one device: by class of work, in the picture, and node by node."""
    st.subheader(f"On {found.device}, predicted", anchor=False)
    work_s = sum(node.seconds for node in found.nodes)
    host = f"; the host needs {show.milliseconds(1e3 * found.host_s)} to launch it all" if found.host_s else ""
    st.caption(
        f"Operators together {show.milliseconds(1e3 * work_s)}{host}. Least by the roofline: {show.milliseconds(1e3 * found.roofline_s)}. "
        f"Efficiency: {found.model}. " + " ".join(found.notes)
    )
    left, right = st.columns([1, 1.25])
    left.plotly_chart(by_class(found), key="predicted classes", config=LOGO, selection_mode="points", on_select=lambda: _take_class(found))
    longest = sorted(found.nodes, key=lambda node: -node.seconds)[:MOST]
    with right:
        st.dataframe(
            node_table(graph, longest, work_s), hide_index=True, key="predicted nodes", height=280, selection_mode="single-row",
            on_select=lambda: _focus([node.name for node in longest]),
            column_config=_node_columns(longest),
        )  # fmt: skip
        st.download_button(
            "CSV", lambda: nodes_csv(graph, found), "predicted-nodes.csv", "text/csv", icon=":material/download:", on_click="ignore",
            help="Every node, in seconds.",
        )  # fmt: skip
    details(graph, found, work_s)
    seen = graph_view(
        [graph], PANE, predicted_ms={node.name: 1e3 * node.seconds for node in found.nodes}, height=520, look={"colour": "predicted"},
        on_select=_take_node,
    )  # fmt: skip
    wish(PANE, seen["digest"], st.session_state.get(TURN, 0), st.session_state.get(FOCUS, ""), chosen=st.session_state.get(MARKED, ()))


def details(graph: GraphSnapshot, found: Prediction, whole: float) -> None:
    """The chosen node: what was counted of it, and what follows for this device."""
    node, one = graph.by_name().get(st.session_state.get(FOCUS, "")), {one.name: one for one in found.nodes}
    if node is None or node.name not in one:
        st.caption("Click a row or a node: what is predicted for it is told here. Click a bar: the graph marks its nodes.")
        return
    mine = one[node.name]
    st.markdown(
        f"**`{node.name}`** &ensp; `{node.target}` &ensp; **{show.milliseconds(1e3 * mine.seconds)}** (predicted), "
        f"{mine.seconds / (whole or 1):.1%} of all operators; least by the roofline {show.milliseconds(1e3 * mine.roofline_s)}; "
        f"bound by {BOUNDS[mine.bound][0]}; {show.number(node.total.flops, 'FLOP')} and {show.size(node.total.bytes_moved)} (counted)"
    )


def _take_node() -> None:
    """The reader clicked a node in the graph. What the page itself made the graph select moves nothing."""
    clicked = st.session_state[PANE].get("selected")
    if clicked and clicked["name"] != st.session_state.get(FOCUS):
        st.session_state.update({FOCUS: clicked["name"], MARKED: ()})


def _take_class(found: Prediction) -> None:
    """A bar was clicked: its nodes are marked, and the longest of them is brought into sight."""
    for point in st.session_state["predicted classes"]["selection"]["points"]:
        inside = [node for node in found.nodes if [node.kind, node.bound] == point.get("customdata")]
        if inside:
            longest = max(inside, key=lambda node: node.seconds)
            st.session_state.update(
                {FOCUS: longest.name, TURN: st.session_state.get(TURN, 0) + 1, MARKED: tuple(node.name for node in inside)}
            )


def nodes_csv(graph: GraphSnapshot, found: Prediction) -> str:
    """One line per node, the longest first."""
    longest = sorted(found.nodes, key=lambda node: -node.seconds)
    rows = [(node.name, node.seconds, node.roofline_s, node.bound, node.kind, graph.by_name()[node.name].module) for node in longest]
    return pd.DataFrame(rows, columns=["node", "predicted s", "roofline s", "bound by", "class", "module"]).to_csv(index=False)


def by_class(found: Prediction) -> go.Figure:
    """Seconds of each class of work, split by what bounds them."""
    seconds: Counter[tuple[str, str]] = Counter()
    for node in found.nodes:
        seconds[node.kind, node.bound] += node.seconds  # type: ignore[assignment]  # counters of floats add up as well
    kinds = sorted({kind for kind, _ in seconds}, key=lambda kind: -sum(seconds[kind, bound] for bound in BOUNDS))
    figure = go.Figure()
    scale, unit = show.time_scale(1e3 * max((sum(seconds[kind, bound] for bound in BOUNDS) for kind in kinds), default=0.0))
    for bound, (text, tone) in BOUNDS.items():
        values = [1e3 * seconds[kind, bound] / scale for kind in kinds]
        if any(values):
            figure.add_bar(
                y=kinds, x=values, orientation="h", name=text, marker_color=tone, customdata=[[kind, bound] for kind in kinds],
                hovertemplate="%{y}: %{x:.4g} " + unit + ", bound by " + text + "<extra></extra>",
            )  # fmt: skip
    charts.finish(figure, 330, f"Time by class of work, {unit} (predicted)")
    figure.update_traces(selected=charts.AS_BEFORE, unselected=charts.AS_BEFORE, selector={"type": "bar"})
    figure.update_layout(barmode="stack", clickmode="event+select", legend={"y": -0.12, "yanchor": "top", "x": 0, "xanchor": "left"})
    figure.update_yaxes(autorange="reversed")
    return figure


def _node_clock(shown: Sequence[NodePrediction]) -> tuple[float, str]:
    return show.time_scale(1e3 * max((node.seconds for node in shown), default=0.0))


def _node_columns(shown: Sequence[NodePrediction]) -> dict[str, Any]:
    clock = _node_clock(shown)[1]
    return {
        "time": _number(f"time, {clock}", "Predicted."),
        "share": st.column_config.NumberColumn(format="percent", help="Of all operators' predicted time."),
        "least": _number(f"least, {clock}", "Predicted too: by the roofline."),
    }


def node_table(graph: GraphSnapshot, shown: Sequence[NodePrediction], whole: float) -> pd.DataFrame:
    by_name, clock = graph.by_name(), _node_clock(shown)[0] / 1e3
    return pd.DataFrame(
        {
            "node": [node.name for node in shown],
            "time": [node.seconds / clock for node in shown],
            "share": [node.seconds / whole if whole else None for node in shown],
            "least": [node.roofline_s / clock for node in shown],
            "bound by": [BOUNDS[node.bound][0] for node in shown],
            "class": [node.kind for node in shown],
            "module": [by_name[node.name].module for node in shown],
        }
    )


def _focus(names: Sequence[str]) -> None:
    rows = st.session_state["predicted nodes"]["selection"]["rows"]
    if rows and rows[0] < len(names):
        st.session_state.update({FOCUS: names[int(rows[0])], TURN: st.session_state.get(TURN, 0) + 1, MARKED: ()})
