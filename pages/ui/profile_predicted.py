"""Measured beside predicted, node by node: what the prediction for this very machine says, and how far it is off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from jobs.record import CeilingsResult, Predict, PredictResult
from pages.ui import charts, show, this_machine, work
from pages.ui.profile_side import NO_LOGO, Side, go_to_all, take_point
from profiler.calibrations import model_of
from profiler.node_record import NodeProfile, NodeTiming
from profiler.prediction.predict import can_run, predict
from profiler.prediction_record import NodePrediction, Prediction

SLOT, CEILINGS, POINTS, HISTOGRAM = "profile prediction", "profile ceilings", "profile predicted points", "profile predicted histogram"
BINS = 31


class Pair(NamedTuple):
    """One node, measured and predicted, milliseconds."""

    name: str
    kind: str
    measured: float
    predicted: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted / self.measured


def panel(side: Side) -> None:
    """Asks for ceilings where there are none, and then shows how the prediction fits."""
    kind = side.profile.device.kind
    found, request = this_machine.kept(kind), this_machine.ceilings(kind)
    if found is None and not work.is_begun(request, CEILINGS):
        st.info("A prediction for this machine needs its ceilings: matmul rates, copies, launches.", icon=":material/speed:")
        st.button(
            "Measure ceilings",
            key="profile measure ceilings",
            icon=":material/speed:",
            on_click=work.ask,
            args=(request, CEILINGS),
        )
        return
    found = found or work.answer(request, CEILINGS, CeilingsResult)
    answer = work.answer(
        Predict(side.words, (found.known,), found.sheet.name), f"{SLOT} {side.words}", PredictResult
    )  # no other graph's prediction
    if answer.chosen is None:
        st.info("This machine has no rate for the dtypes of this graph, so nothing is predicted.", icon=":material/info:")
        return
    body(side, answer.chosen)
    if found.calibration is None:
        st.page_link("pages/predict.py", label="Calibrate on this machine, so that predictions fit it", icon=":material/tune:")


def of_recording(side: Side, found: CeilingsResult) -> None:
    """The same of a graph that ran elsewhere, by what was measured there."""
    if can_run(side.graph, found.sheet):
        body(side, predict(side.graph, found.sheet, model_of(found.known)), "that device's")
    else:
        st.info("That device has no recorded rate for the dtypes of this graph, so nothing is predicted.", icon=":material/info:")


def body(side: Side, prediction: Prediction, whose: str = "this machine's") -> None:
    """The whole in words, and every node as a point and in a histogram."""
    found = pairs(side.profile.nodes, prediction.nodes)
    whole, predicted = side.profile.whole_ms, 1e3 * prediction.seconds
    st.markdown(
        f"A run takes **{show.milliseconds(whole)}** (measured) and should take **{show.milliseconds(predicted)}** (predicted): "
        f"{show.change(whole, predicted)}. {nodes_in_words(side.profile, found)}"
    )
    if not found:
        return
    st.plotly_chart(points(found, side.chosen), key=POINTS, on_select=lambda: take_point(POINTS), selection_mode="points", config=NO_LOGO)
    st.plotly_chart(histogram(found), key=HISTOGRAM, on_select=lambda: _take_bar(found), selection_mode="points", config=NO_LOGO)
    st.caption(
        f"Predicted from counted work, {whose} measured ceilings and the efficiency model “{prediction.model}”. "
        "A node far above the diagonal is slower than such work usually is: worth a look. Click a bar: the graph marks its nodes."
    )


def nodes_in_words(profile: NodeProfile, found: Sequence[Pair]) -> str:
    """How many of the nodes that took time have a prediction, how close it is, and what the others took."""
    timed = [timing for timing in profile.nodes if timing.ms > 0]
    rest_ms = sum(timing.ms for timing in timed) - sum(pair.measured for pair in found)
    others = f"; the others, most of which launch nothing, took {show.milliseconds(rest_ms)}" if rest_ms > 0 else ""
    close = f", half of them within {within(found):.0%}" if found else ""
    return (
        f"All nodes together take {show.milliseconds(profile.nodes_ms)} (measured). "
        f"{len(found):,} of {show.plural(len(timed), 'node')} have a prediction{close}{others}."
    )


def _take_bar(found: Sequence[Pair]) -> None:
    """The nodes of the bar that was clicked, the one that takes longest first."""
    edges = _edges(found)
    for point in st.session_state[HISTOGRAM]["selection"]["points"]:
        number = int(np.searchsorted(edges, float(point["x"]))) - 1
        inside = [pair for pair in found if _bar_of(pair, edges) == number]
        go_to_all([pair.name for pair in sorted(inside, key=lambda pair: -pair.measured)])


def pairs(timings: Sequence[NodeTiming], nodes: Sequence[NodePrediction]) -> list[Pair]:
    """Nodes that have both times."""
    predicted = {node.name: node for node in nodes}
    both = ((timing, predicted[timing.name]) for timing in timings if timing.name in predicted)
    return [Pair(timing.name, node.kind, timing.ms, 1e3 * node.seconds) for timing, node in both if timing.ms > 0 and node.seconds > 0]


def within(found: Sequence[Pair]) -> float:
    """The share by which half of the nodes are off at most."""
    return float(np.median([abs(pair.ratio - 1) for pair in found])) if found else 0.0


def points(found: Sequence[Pair], chosen: str) -> go.Figure:
    """Measured over predicted, both logarithmic, with the diagonal."""
    figure = go.Figure()
    ends = [min(min(pair.measured, pair.predicted) for pair in found), max(max(pair.measured, pair.predicted) for pair in found)]
    figure.add_scatter(x=ends, y=ends, mode="lines", name="as predicted", line={"color": charts.QUIET, "dash": "dash"}, hoverinfo="skip")
    for number, kind in enumerate(dict.fromkeys(pair.kind for pair in found)):
        part = [pair for pair in found if pair.kind == kind]
        figure.add_scatter(
            x=[pair.predicted for pair in part], y=[pair.measured for pair in part], mode="markers", name=kind, customdata=[[pair.name] for pair in part],
            marker={
                "size": [13 if pair.name == chosen else 8 for pair in part], "symbol": charts.SYMBOLS[number % len(charts.SYMBOLS)], "opacity": 0.75,
                "line": {"width": [3 if pair.name == chosen else 0.5 for pair in part]},
            },
            text=[f"{pair.name}<br>{show.milliseconds(pair.measured)} measured, {show.milliseconds(pair.predicted)} predicted<br>predicted ÷ measured {pair.ratio:.2f}" for pair in part],
            hovertemplate="%{text}<extra></extra>",
        )  # fmt: skip
    charts.finish(figure, 400, "Time of every node, ms: measured over predicted")
    figure.update_layout(clickmode="event+select", legend={"y": -0.2, "yanchor": "top", "x": 0, "xanchor": "left"})
    figure.update_xaxes(title="predicted, ms", **charts.log_axis(pair.predicted for pair in found))
    figure.update_yaxes(title="measured, ms", **charts.log_axis(pair.measured for pair in found))
    figure.update_traces(unselected={"marker": {"opacity": 0.75}}, selector={"mode": "markers"})
    return figure


def _edges(found: Sequence[Pair]) -> np.ndarray:
    """Of the bars of the histogram, in equal steps of the logarithm around 1."""
    most = max(2.0, *(max(pair.ratio, 1 / pair.ratio) for pair in found))
    return np.geomspace(1 / most, most, BINS + 1)


def _bar_of(pair: Pair, edges: np.ndarray) -> int:
    return int(np.clip(np.searchsorted(edges, pair.ratio, side="right") - 1, 0, BINS - 1))


def histogram(found: Sequence[Pair]) -> go.Figure:
    """How many nodes are off by how much, and how much of the time they take."""
    edges = _edges(found)
    most = float(edges[-1])
    at = [_bar_of(pair, edges) for pair in found]
    weights = np.array([pair.measured for pair in found])
    shares = np.bincount(at, weights / weights.sum(), BINS)
    counts = np.bincount(at, minlength=BINS)
    middle = np.sqrt(edges[1:] * edges[:-1])
    figure = go.Figure(
        go.Bar(
            x=middle, y=100 * shares, width=np.diff(edges), marker_color=charts.LAST, customdata=counts,
            hovertemplate="predicted ÷ measured about %{x:.2f}: %{customdata} nodes, %{y:.1f} % of the nodes' time<extra></extra>",
        )
    )  # fmt: skip
    figure.add_vline(x=1, line={"color": charts.QUIET, "dash": "dash"})
    figure.update_layout(clickmode="event+select")
    figure.update_traces(selected={"marker": {"opacity": 1}}, unselected={"marker": {"opacity": 0.8}})
    charts.finish(figure, 260, "Predicted ÷ measured: share of the nodes' time, %")
    ticks = [2.0**power for power in range(-math.ceil(math.log2(most)), math.ceil(math.log2(most)) + 1)]
    figure.update_xaxes(type="log", title="predicted ÷ measured", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return figure
