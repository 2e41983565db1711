"""The roofline of a lesson: how fast the graphs of an experiment can run at most on this machine, by what they compute for each byte."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from jobs.record import CeilingsResult, MeasureCeilings
from lessons.lesson import Found
from lessons.vocabulary import intensity, of_kind, ridge
from pages.ui import charts, work
from profiler.prediction_record import Ceilings

SLOT = "lesson ceilings"
DTYPE = "float32"


def ceilings() -> Ceilings | None:
    """This machine's, where they were measured; otherwise a button that measures them, or how far that is."""
    request = MeasureCeilings()
    if not work.is_begun(request, SLOT):
        st.info(
            "This screen needs two figures of the machine that this runs on: how fast it multiplies, and how fast it reads and writes memory.",
            icon=":material/speed:",
        )
        st.button(
            "Measure this machine",
            key="lesson measure ceilings",
            type="primary",
            icon=":material/speed:",
            on_click=work.ask,
            args=(request, SLOT),
        )
        return None
    return work.answer(request, SLOT, CeilingsResult).ceilings


def picture(found: Found, key: str, told: bool) -> None:
    """The roof, and under it the whole graph and each of its matmuls; the graph itself only once the answer was told."""
    if found.ceilings:
        st.plotly_chart(figure(found, found.ceilings, told), key=f"{key} roofline", config={"displaylogo": False})
        st.caption(
            "Roof: measured on this machine. Place from left to right: counted. Height of a point: the most that the roof allows there, not what was reached."
        )


def figure(found: Found, roof: Ceilings, told: bool) -> go.Figure:
    """Points lie on the roof: it is a limit, and nothing was timed."""
    rate, bandwidth = roof.flops[DTYPE].value, roof.bandwidth.value
    points = [("whole graph", intensity(found.after))] if told else []
    points += [
        (node.name, node.cost.flops / node.cost.bytes_moved)
        for node in (of_kind(found.after, "mm", "linear", "conv") if told else ())
        if node.cost.bytes_moved and node.cost.flops
    ]
    edge = ridge(roof, DTYPE)
    low, high = min([edge / 1000, *(at / 2 for _, at in points)]), max([edge * 100, *(at * 2 for _, at in points)])
    drawn = go.Figure()
    drawn.add_scatter(
        x=[low, edge, high], y=[low * bandwidth, rate, rate], mode="lines", name="roof", line={"color": charts.QUIET}, hoverinfo="skip"
    )
    drawn.add_scatter(
        x=[edge], y=[rate], mode="markers+text", text=[f"ridge: {edge:.3g}" if told else "ridge"], textposition="top center", name="ridge", marker={"size": 9, "color": charts.QUIET},
        hoverinfo="skip",
    )  # fmt: skip
    for name, chosen in (("matmuls", points[1:]), ("whole graph", points[:1])):
        drawn.add_scatter(
            x=[at for _, at in chosen], y=[min(rate, at * bandwidth) for _, at in chosen], text=[one for one, _ in chosen], name=name, mode="markers",
            marker={"size": 14 if name == "whole graph" else 8, "opacity": 0.8}, hovertemplate="%{text}: %{x:.3g} FLOP/byte, at most %{y:.3s}FLOP/s<extra></extra>",
        )  # fmt: skip
    charts.finish(drawn, 430, f"The most that this machine allows, {DTYPE}")
    drawn.update_xaxes(title="FLOP for each byte moved (counted)", **charts.log_axis([low, high]))
    drawn.update_yaxes(title="FLOP/s at most", **charts.log_axis([low * bandwidth, rate]))
    return drawn
