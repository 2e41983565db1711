"""The section Memory: what a run, or a recording, held over time, with the peak and who holds it then."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from pages.ui import profile_charts, show
from pages.ui.profile_side import drawn_over, picked
from profiler.memory_track import alive, events, held, peak, reserved
from profiler.node_record import MemoryTrack

MOST_ROWS = 500
Window = tuple[int, int]


def panel(track: MemoryTrack, key: str, go_to: Callable[[str], None]) -> None:
    """The curve of the stretch that is looked at, and the owners of the peak."""
    at = events(track).at
    if not len(at):
        st.info("Nothing was taken or given back.")
        return
    whole = (int(at[0]), max(int(at[-1]), int(at[0]) + 1))
    of, window = st.session_state.get(f"{key} window", (whole, whole))
    window = window if of == whole else whole
    most, event = peak(track)
    st.caption(_summary(track, most))
    word = "position of the node that runs" if track.by_node else "µs since the first event"
    figure = profile_charts.memory(track, window, "Memory held (measured)" if track.by_node else "Memory held (recorded)", word)
    profile_charts.draw_over(figure, not track.by_node)
    st.plotly_chart(
        figure,
        key=f"{key} curve",
        on_select=lambda: _take(key, whole, go_to),
        selection_mode="points" if track.by_node else "box",
        config={"displayModeBar": False},
    )
    inside = int(((at >= window[0]) & (at <= window[1])).sum())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Whole", key=f"{key} whole", icon=":material/fit_width:", on_click=_set, args=(key, whole, whole), disabled=window == whole
        )
        width = max(2, (window[1] - window[0]) // 8)
        near = (max(whole[0], int(at[max(event, 0)]) - width // 2), min(whole[1], int(at[max(event, 0)]) + width // 2 + 1))
        st.button(
            "Nearer to the peak", key=f"{key} peak", icon=":material/zoom_in:", on_click=_set, args=(key, whole, near), disabled=event < 0
        )
        st.caption(f"{inside:,} of {len(at):,} events in this stretch. {_drawn(inside, track.by_node)}")
    if event >= 0:
        owners(track, event, most, key, go_to)


def _summary(track: MemoryTrack, most: int) -> str:
    curve, (_, kept) = held(track), reserved(track)
    parts = [f"Peak **{show.size(most)}**", f"{show.size(int(curve[-1]))} held at the end"]
    if track.before:
        parts.append(f"{show.size(track.before)} there before the first event")
    if len(kept):
        parts.append(f"{show.size(int(max(kept.max(), track.reserved_before)))} reserved from the device at most")
    if track.left_out:
        parts.append(f"{track.left_out:,} events that change neither, or of other devices, left out")
    word = "measured, without parameters and inputs" if track.by_node else "recorded by the allocator"
    return " · ".join(parts) + f" ({word}; MiB is 2²⁰ bytes)."


def _drawn(inside: int, by_node: bool) -> str:
    """What of the events in a stretch is drawn."""
    drawn = "All are drawn." if inside <= profile_charts.POINTS else "Drawn are the lowest and the highest of every small piece."
    return f"{drawn} {'Click a point for its node.' if by_node else 'Drag over a stretch to see it from near.'}"


def owners(track: MemoryTrack, event: int, most: int, key: str, go_to: Callable[[str], None]) -> None:
    """Who holds the peak, summed by owner."""
    sums: dict[str, list[int]] = {}
    for owner, size in alive(track, event):
        sums.setdefault(owner, []).append(size)
    names = sorted(sums, key=lambda name: -sum(sums[name]))
    st.caption(f"Held at the peak, by {'node' if track.by_node else 'line of code that took it'}:")
    frame = pd.DataFrame(
        {
            "owner": [name or "not recorded" for name in names],
            "size": [show.size(sum(sums[name])) for name in names],
            "share": [sum(sums[name]) / (most or 1) for name in names],
            "bytes": [sum(sums[name]) for name in names],
            "pieces": [len(sums[name]) for name in names],
        }
    )

    def take() -> None:
        rows = st.session_state[f"{key} owners"]["selection"]["rows"]
        if track.by_node and rows and rows[0] < len(names):
            go_to(names[rows[0]])

    st.dataframe(
        frame.head(MOST_ROWS), key=f"{key} owners", hide_index=True, height=min(260, 40 + 35 * len(names)), selection_mode="single-row", on_select=take,
        column_config={"share": st.column_config.NumberColumn(format="percent", width=65), "bytes": st.column_config.NumberColumn(format="localized")},
    )  # fmt: skip


def _set(key: str, whole: Window, window: Window) -> None:
    st.session_state[f"{key} window"] = (whole, window)


def _take(key: str, whole: Window, go_to: Callable[[str], None]) -> None:
    if stretch := drawn_over(f"{key} curve"):
        begin, end = max(whole[0], round(stretch[0])), min(whole[1], round(stretch[1]))
        if end > begin:
            _set(key, whole, (begin, end))
    elif name := picked(f"{key} curve"):
        go_to(name)
