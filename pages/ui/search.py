"""A search's two paths: where greedy stops, and the way that goes through worse graphs to a better one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from graphs.align import aligned
from graphs.diff import diff
from graphs.record import GraphSnapshot
from jobs.experiment import parse_pipeline
from jobs.record import Optimize, OptimizeResult
from optimizers.record import Move, SearchRecord
from pages.ui import charts, pipeline, show, state, work
from pages.ui.graph_view import graph_view
from pages.ui.titles import step_title

HEIGHT = 520


def panel(index: int, found: SearchRecord) -> DeltaGenerator | None:
    """Both paths as curves of predicted time, and the found one as steps that can be taken over into the pipeline; gives the place for the
    picture of both ends, where it is wanted."""
    with st.expander(heading(found), icon=":material/route:", expanded=True):
        st.plotly_chart(charts.paths(found), key=f"paths {index}", config={"displaylogo": False})
        st.dataframe(
            rows(found),
            hide_index=True,
            key=f"moves {index}",
            column_config={
                "step": st.column_config.NumberColumn(width=50),
                "found": st.column_config.TextColumn("found, with the time after it (predicted)"),
                "greedy": st.column_config.TextColumn("greedy (predicted)"),
            },
        )
        st.caption(
            f"{show.plural(found.priced, 'graph')} {'was' if found.priced == 1 else 'were'} priced. Predicted for a machine of this class; measure to know."
        )
        st.button(
            "Take these steps one by one",
            icon=":material/call_split:",
            key=f"take {index}",
            help="Puts the path's steps in the place of the search; each is verified on its own.",
            on_click=pipeline.take_apart,
            args=(index, tuple(move.words for move in found.found)),
        )
        differ = found.greedy != found.found
        return st.container() if differ and st.toggle("Draw greedy's end beside the found graph", key=f"ends {index}") else None


def ends(index: int, found: SearchRecord, graphs: Sequence[GraphSnapshot]) -> None:
    """Where greedy stops, and what the search found, side by side with what differs marked.

    Args:
        graphs: of the pipeline, the graph before this step at `index`.
    """
    stopped = graphs[index]
    if found.greedy:
        before = state.current().prefix(index)
        moves = parse_pipeline(",".join(move.words for move in found.greedy))
        words = msgspec.structs.replace(before, pipeline=(*before.pipeline, *moves)).words
        stopped = work.answer(Optimize(words), f"greedy's end: {words}", OptimizeResult).graphs[-1]
    reached = aligned(stopped, graphs[index + 1])
    changed = diff(stopped, reached)
    left, right = st.columns(2)
    left.caption(f"Where greedy stops, after {show.plural(len(found.greedy), 'step')}: {_price(found.seconds, found.greedy)}")
    right.caption(f"What the search found, after {show.plural(len(found.found), 'step')}: {_price(found.seconds, found.found)}")
    graph_view(
        [stopped, reached],
        f"ends {index} graph",
        steps=["greedy", "found"],
        diffs=[changed],
        titles=("Greedy's end", "Found"),
        height=HEIGHT,
    )
    show.legend(marks=True, sides=("greedy's end", "the found graph"))
    show.totals_table([("greedy", stopped.totals), ("found", graphs[index + 1].totals)])


def _price(start: float, path: tuple[Move, ...]) -> str:
    return f"{(path[-1].seconds if path else start) * 1e6:,.1f} µs predicted"


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
    return f"{step_title(path[at].words)} · {show.milliseconds(1e3 * path[at].seconds)}" if at < len(path) else ""
