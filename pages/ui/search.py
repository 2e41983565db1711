"""A search's two paths: where greedy stops, and the way that goes through worse graphs to a better one."""

from __future__ import annotations

import streamlit as st

from optimizers.record import Move, SearchRecord
from pages.ui import charts, pipeline, show


def panel(index: int, found: SearchRecord) -> None:
    """Both paths as curves of predicted time, and the found one as steps that can be taken over into the pipeline."""
    with st.expander(heading(found), icon=":material/route:", expanded=True):
        st.plotly_chart(charts.paths(found), key=f"paths {index}", config={"displaylogo": False})
        st.dataframe(rows(found), hide_index=True, key=f"moves {index}")
        st.caption(f"{found.priced:,} graphs were priced. Predicted for a machine of this class; measure to know.")
        st.button(
            "Take these steps one by one",
            icon=":material/call_split:",
            key=f"take {index}",
            help="Puts the path's steps in the place of the search; each is verified on its own.",
            on_click=pipeline.take_apart,
            args=(index, tuple(move.words for move in found.found)),
        )


def heading(found: SearchRecord) -> str:
    """How long the path is, and how far greedy came."""
    steps = show.plural(len(found.found), "step")
    greedy = "which greedy finds too" if found.greedy == found.found else f"greedy stops after {len(found.greedy)}"
    return f"The path: {steps}, {greedy}"


def rows(found: SearchRecord) -> list[dict[str, str | int]]:
    """One row for each step of the found path, with greedy's beside it."""
    count = max(len(found.found), len(found.greedy))
    return [{"step": at + 1, "found": _told(found.found, at), "greedy": _told(found.greedy, at) or "stops"} for at in range(count)]


def _told(path: tuple[Move, ...], at: int) -> str:
    return f"{path[at].words} · {path[at].seconds * 1e6:,.1f} µs" if at < len(path) else ""
