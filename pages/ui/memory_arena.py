"""Every tensor at a fixed place in one arena, as a compiler for a device without an allocator would put them: address over time."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from graphs.caching_allocator import BLOCK
from jobs.record import Arena, ArenaResult, request_hash
from pages.ui import charts, show, work
from pages.ui.memory_sides import Side
from pages.ui.timeline import TONES

SECONDS = 5.0
MOST_DRAWN = 2000
ENDINGS = {
    "optimal": "nothing smaller exists",
    "fits": "it keeps to the size that was asked for",
    "time limit": "a smaller one may exist; the time was over",
    "too large to search": "greedy only: there are too many tensors to search",
}


def panel(side: Side, words: str) -> None:
    """The best plan that is known: greedy at once, and a search when the reader asks for one. Ends the page's part while the worker plans."""
    alignment = BLOCK if side.word == "predicted" else 1
    quick, long = Arena(words, 0.0, alignment), Arena(words, SECONDS, alignment)
    slot = f"arena {request_hash(long)[:12]}"
    searched = work.is_begun(long, slot)
    places = f"multiples of {alignment} bytes" if alignment > 1 else "any byte"
    st.caption(
        f"If all lifetimes are known before, no allocator is needed: every tensor gets a fixed address ({places}) in one piece of memory. Two tensors may "
        "share addresses where their lifetimes do not meet. Finding the smallest arena is NP-hard; parameters and inputs are not in it."
    )
    with show.patient():
        found = work.answer(long if searched else quick, slot, ArenaResult)
        if not found.lives:
            st.info("This graph allocates nothing, so there is nothing to place.")
            return
        figures(found, searched)
        if not searched and found.plan.ending != "optimal":
            st.button(
                f"Search {SECONDS:g} s for a smaller arena",
                key="arena search",
                icon=":material/search:",
                on_click=work.ask,
                args=(long, slot),
            )
        left, right = st.columns([2.2, 1], gap="small")
        left.plotly_chart(picture(found, side), key="arena picture", config={"displaylogo": False})
        with right:
            frame = greedy_frame(found)
            right_aligned = st.column_config.TextColumn(alignment="right")
            config: dict[str, Any] = dict.fromkeys(("arena", "above the bound"), right_aligned)
            st.dataframe(frame, key="arena greedy", hide_index=True, height=38 + 35 * len(frame), column_config=config)


def figures(found: ArenaResult, searched: bool) -> None:
    """How large the arena is, and how far from the best that could be."""
    plan = found.plan
    ending = ENDINGS[plan.ending] if searched or plan.ending == "optimal" else "a smaller one may exist, which nobody searched for yet"
    texts = [
        ("Arena · predicted", show.size(plan.size), f"Found by {plan.found_by} in {plan.seconds:.1f} s."),
        (
            "Lower bound · counted",
            show.size(plan.lower_bound),
            "No arena is smaller: as much is held at one moment, or a search has proven it.",
        ),
        ("Gap", f"{plan.gap:.2%}" if plan.size > plan.lower_bound else "none", f"{ending.capitalize()}."),
        ("All tensors apart · counted", show.size(sum(one.bytes for one in found.lives)), "If no two shared an address."),
    ]
    for column, (title, value, meaning) in zip(st.columns(len(texts)), texts, strict=True):
        column.metric(title, value, border=True, help=meaning)
    st.caption(f"Found by **{plan.found_by}**: {ending}.")


def picture(found: ArenaResult, side: Side) -> go.Figure:
    """Rectangles: from when to when, and from which address to which."""
    scale, unit = charts.scale_of(found.plan.size)
    roles = {one.name: one.role for one in side.memory.holdings}
    placed = sorted(zip(found.lives, found.plan.offsets, strict=True), key=lambda one: -one[0].bytes * (one[0].end + 1 - one[0].start))
    figure = go.Figure()
    for role, tone in TONES.items():
        mine = [(life, offset) for life, offset in placed[:MOST_DRAWN] if roles.get(life.name) == role]
        if mine:
            figure.add_bar(
                x=[life.end + 1 - life.start for life, _ in mine], base=[life.start for life, _ in mine], orientation="h",
                y=[(offset + life.bytes / 2) / scale for life, offset in mine], width=[life.bytes / scale for life, _ in mine],
                name=role, marker={"color": tone, "line": {"width": 0.6, "color": "rgba(255,255,255,0.75)"}},
                text=[f"{life.name}: {show.size(life.bytes)} at {offset:,}, positions {life.start} to {life.end}" for life, offset in mine],
                textposition="none", hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
    figure.add_hline(
        y=found.plan.lower_bound / scale, line={"dash": "dash", "color": charts.WORSE, "width": 1.2}, annotation_text="lower bound"
    )
    shown = f", the {MOST_DRAWN:,} largest of {len(placed):,} tensors" if len(placed) > MOST_DRAWN else ""
    charts.finish(figure, 430, f"Address in the arena, {unit}, over time (predicted){shown}")
    figure.update_layout(barmode="overlay", legend={"y": -0.16, "yanchor": "top", "x": 0, "xanchor": "left"})
    figure.update_xaxes(title="position in the order of execution")
    figure.update_yaxes(range=[0, found.plan.size / scale * 1.04])
    return figure


def greedy_frame(found: ArenaResult) -> pd.DataFrame:
    """What every greedy order gives, the smallest first, and the plan that is drawn."""
    rows = [(f"{one.rule} by {one.order}", one.size) for one in sorted(found.greedy, key=lambda one: one.size)]
    if found.plan.found_by.startswith("search"):
        rows.insert(0, (found.plan.found_by, found.plan.size))
    bound = found.plan.lower_bound
    return pd.DataFrame(
        {
            "order": [name for name, _ in rows],
            "arena": [show.size(size) for _, size in rows],
            "above the bound": [f"{size / bound - 1:.2%}" if bound else "" for _, size in rows],
        }
    )
