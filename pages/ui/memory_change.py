"""The captured graph's memory over the chosen step's, and which lines of code the difference of their peaks comes from."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from graphs.memory import changes_by_line
from pages.ui import charts, show
from pages.ui.memory_sides import Side
from pages.ui.timeline import drawn_positions


def panel(before: Side, after: Side, step: int) -> None:
    """Both curves, and a table whose changes add up to the change of the peak."""
    if step < 0:
        st.info(
            "This is the graph as captured. Choose a step of the pipeline above to see what it changed; steps are added on the page Optimize."
        )
        st.page_link("pages/optimize.py", label="Go to Optimize", icon=":material/auto_fix_high:")
        return
    st.plotly_chart(overlay(before, after), key="memory overlay", config={"displaylogo": False})
    change = after.memory.peak - before.memory.peak
    rows = changes_by_line((before.graph, before.memory), (after.graph, after.memory))
    st.markdown(
        f"The peak goes from **{show.size(before.memory.peak)}** to **{show.size(after.memory.peak)}** ({after.word}): **{signed(change)} bytes**, "
        "which is the sum of the changes below. Each side is taken at its own peak."
    )
    frame = pd.DataFrame(
        {
            "line": [f"{row.file}:{row.line}" if row.file else "no line known" for row in rows],
            "code": [row.text for row in rows],
            "before (bytes)": [row.before for row in rows],
            "after (bytes)": [row.after for row in rows],
            "change (bytes)": [row.change for row in rows],
            "change": [("+" if row.change > 0 else "−" if row.change else "") + show.size(abs(row.change)) for row in rows],
        }
    )
    exact = st.column_config.NumberColumn(format="localized")
    config: dict[str, Any] = dict.fromkeys(("before (bytes)", "after (bytes)", "change (bytes)"), exact)
    config["change"] = st.column_config.TextColumn(alignment="right")
    st.dataframe(frame, key="memory changes", hide_index=True, height=min(420, 38 + 35 * len(rows)), column_config=config)


def signed(change: int) -> str:
    return f"{'+' if change > 0 else '−' if change else '±'}{abs(change):,}"


def overlay(before: Side, after: Side) -> go.Figure:
    """Bytes held at every position, before and after, with both peaks marked."""
    scale, unit = charts.scale_of(max(before.memory.peak, after.memory.peak))
    figure = go.Figure()
    for name, side, tone, fill in (("as captured", before, charts.FIRST, None), ("after the step", after, charts.LAST, "tozeroy")):
        drawn = drawn_positions(side.memory.at)
        figure.add_scatter(
            x=drawn, y=[side.memory.at[at] / scale for at in drawn], text=[side.graph.nodes[at].name for at in drawn], name=name, mode="lines",
            line={"shape": "hv", "width": 1.8, "color": tone}, fill=fill, hovertemplate=f"%{{text}}<br>%{{y:.2f}} {unit}<extra>{name}</extra>",
        )  # fmt: skip
        figure.add_scatter(
            x=[side.memory.peak_position], y=[side.memory.peak / scale], mode="markers", showlegend=False, hoverinfo="skip",
            marker={"color": tone, "size": 9, "symbol": "diamond"},
        )  # fmt: skip
    charts.finish(figure, 300, f"Memory before and after, {unit} ({after.word}); ◆ marks each peak")
    figure.update_xaxes(title="position in the order of execution, of each graph its own")
    figure.update_yaxes(rangemode="tozero")
    return figure
