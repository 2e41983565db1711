"""The section Timeline: what ran when, in one run; gaps in which nothing works; and the window that is looked at. Recordings are shown by it too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from pages.ui import profile_charts, show
from pages.ui.profile_side import drawn_over, picked
from profiler.node_record import Timeline
from profiler.timeline import by_name, columns, gaps, visible
from profiler.trace_file import write_trace

MOST_SLICES = 1500
LEAST = 1000  # nanoseconds that are seen at once
NEAR = 6  # so many times its own length is seen around a node


Window = tuple[int, int]


def panel(timeline: Timeline, key: str, chosen: str, go_to: Callable[[str], None] | None, title: str) -> None:
    """The picture of the window, and what to do with it. `go_to` is told the node of a slice that was clicked; without it, stretches can be drawn over."""
    found, idle = columns(timeline), gaps(timeline)
    whole = (0, max(LEAST, int(found.end.max())))
    window = _window(key, whole)
    begin, end = window
    shown, left_out = visible(found, begin, end, MOST_SLICES)
    idle_ns = int(idle[1].sum())
    longest = f", the longest {show.milliseconds(int(idle[1].max()) / 1e6)}" if len(idle[1]) else ""
    st.caption(
        f"{len(found.start):,} slices in {show.milliseconds(whole[1] / 1e6)}; {show.plural(len(idle[1]), 'gap')} in which no work runs, "
        f"{show.milliseconds(idle_ns / 1e6)} together ({idle_ns / whole[1]:.0%}){longest} (measured). "
        + ("Click a slice for its node." if go_to else "Drag over a stretch to see it from near.")
    )
    with st.container(horizontal=True):
        at = _span(timeline, chosen) if chosen else None
        near = within(whole, sum(at) / 2, NEAR * (at[1] - at[0])) if at else whole
        moves = (
            ("Whole", "fit_width", whole),
            ("Nearer", "zoom_in", _moved(whole, window, times=0.5)),
            ("Farther", "zoom_out", _moved(whole, window, times=2.0)),
            ("Left", "chevron_left", _moved(whole, window, by=-0.5)),
            ("Right", "chevron_right", _moved(whole, window, by=0.5)),
            ("The chosen node", "my_location", near),
        )
        for label, icon, to in moves:
            st.button(label, key=f"{key} {label}", icon=f":material/{icon}:", on_click=_set, args=(key, whole, to), disabled=to == window)
        st.download_button(
            "Chrome trace", lambda: write_trace(timeline, title), "timeline.json", "application/json", key=f"{key} save", icon=":material/download:",
            on_click="ignore", help="Opens in Perfetto (ui.perfetto.dev) and chrome://tracing.",
        )  # fmt: skip
    _stretch(key, whole, window)
    drags = go_to is None  # Plotly reports clicks, or stretches that were drawn over
    figure = profile_charts.lanes(timeline, found, shown, idle, window, chosen)
    profile_charts.draw_over(figure, drags)
    st.plotly_chart(
        figure,
        key=f"{key} picture",
        on_select=lambda: _take(key, whole, window, go_to),
        selection_mode="box" if drags else "points",
        config={"displayModeBar": False},
    )
    if left_out:
        st.caption(f"{left_out:,} shorter slices of this stretch are not drawn; they appear from nearer.")


def table(timeline: Timeline, key: str, choose: Callable[[list[str]], None] | None = None) -> None:
    """What ran, by name. `choose` is told the nodes behind a row that was clicked."""
    rows = by_name(timeline)
    frame = pd.DataFrame(
        {
            "name": [row.name for row in rows],
            "kind": [row.kind for row in rows],
            "own ms": [row.own_ns / 1e6 for row in rows],
            "ms": [row.ns / 1e6 for row in rows],
            "times": [row.count for row in rows],
            "nodes": [", ".join(list(row.nodes)[:5]) + (" …" if len(row.nodes) > 5 else "") for row in rows],
        }
    )
    number = st.column_config.NumberColumn(format="%.3f")
    config: dict[str, Any] = {"own ms": number, "ms": number, "name": st.column_config.TextColumn(width=190)}
    if not choose:
        st.dataframe(frame, key=f"{key} table", hide_index=True, height=320, column_config=config)
        return

    def take() -> None:
        chosen = st.session_state[f"{key} table"]["selection"]["rows"]
        choose(list(rows[chosen[0]].nodes) if chosen and chosen[0] < len(rows) else [])

    st.dataframe(frame, key=f"{key} table", hide_index=True, height=320, column_config=config, selection_mode="single-row", on_select=take)


# ---------------------------------------------------------------- the window


def _window(key: str, whole: Window) -> Window:
    """The stretch that is looked at; the whole for another timeline than before."""
    of, window = st.session_state.get(f"{key} window", (whole, whole))
    return window if of == whole else whole


def _set(key: str, whole: Window, window: Window) -> None:
    st.session_state[f"{key} window"] = (whole, window)


def _stretch(key: str, whole: Window, window: Window) -> None:
    """The two ends of the window, to be moved by hand."""
    scale, slot = profile_charts.nanoseconds_of(whole), f"{key} stretch"

    def take() -> None:
        begin, end = (int(value * scale) for value in st.session_state[slot])
        _set(key, whole, within(whole, (begin + end) / 2, end - begin))

    st.session_state[slot] = (window[0] / scale, window[1] / scale)
    st.slider(
        "Stretch",
        0.0,
        whole[1] / scale,
        key=slot,
        format="%.4g " + ("µs" if scale == 1e3 else "ms"),
        on_change=take,
        label_visibility="collapsed",
    )


def within(whole: Window, middle: float, width: float) -> Window:
    """A stretch of that width around a middle, moved so that it lies inside of the whole."""
    width = min(max(int(width), LEAST), whole[1] - whole[0])
    begin = min(max(int(middle - width / 2), whole[0]), whole[1] - width)
    return begin, begin + width


def _moved(whole: Window, window: Window, by: float = 0.0, times: float = 1.0) -> Window:
    """Moved by a share of its width, or wider."""
    width = window[1] - window[0]
    return within(whole, (window[0] + window[1]) / 2 + by * width, times * width)


def _span(timeline: Timeline, name: str) -> Window | None:
    """From the first to the last slice of a node."""
    if name not in timeline.nodes:
        return None
    found = columns(timeline)
    mine = found.node == timeline.nodes.index(name)
    return int(found.start[mine].min()), int(found.end[mine].max())


def _take(key: str, whole: Window, window: Window, go_to: Callable[[str], None] | None) -> None:
    """A slice was clicked, or a stretch was drawn over."""
    if stretch := drawn_over(f"{key} picture", profile_charts.nanoseconds_of(window)):
        _set(key, whole, within(whole, sum(stretch) / 2, stretch[1] - stretch[0]))
    elif go_to and (name := picked(f"{key} picture")):
        go_to(name)
