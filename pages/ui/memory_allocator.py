"""What PyTorch's caching allocator on CUDA would do with the graph: what it reserves, and how its segments look at the peak. Predicted."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import streamlit as st

from graphs.caching_allocator import AllocatorRun, SegmentRecord
from pages.ui import charts, show
from pages.ui.memory_sides import Side
from pages.ui.timeline import TONES, drawn_positions

MOST_SEGMENTS, MOST_BLOCKS = 24, 2500
SOURCE = "https://github.com/pytorch/pytorch/blob/v2.13.0/c10/cuda/CUDACachingAllocator.cpp"


def panel(side: Side) -> None:
    """The curves of allocated and reserved memory, and the segments at the peak."""
    run = side.run
    unused = run.reserved[run.peak_position] - run.allocated_peak
    st.markdown(
        f"Allocated peak **{show.size(run.allocated_peak)}** (predicted), reserved peak **{show.size(run.reserved_peak)}** (predicted). At the peak "
        f"{show.size(unused)} of what is reserved are in no block: {unused / (run.reserved[run.peak_position] or 1):.0%} lost to segments that are "
        f"larger than what was asked, and to holes. The largest hole has {show.size(largest_hole(run.segments))}."
    )
    left, right = st.columns([1, 1.15], gap="small")
    left.plotly_chart(reserved(run), key="allocator curves", config={"displaylogo": False})
    right.plotly_chart(segments(side), key="allocator segments", config={"displaylogo": False})
    few = f" The {MOST_SEGMENTS} largest of {len(run.segments):,} segments are drawn." if len(run.segments) > MOST_SEGMENTS else ""
    st.caption(
        f"By the rules of [CUDACachingAllocator.cpp]({SOURCE}) with no setting changed, one stream and an empty cache at the start: blocks of whole "
        "512 bytes; segments of 2 MiB for blocks up to 1 MiB, of 20 MiB below 10 MiB, larger ones rounded up to 2 MiB; the smallest free block "
        f"that fits is taken and split, neighbours that are free join. Workspaces of libraries are not seen.{few}"
    )


def largest_hole(found: Sequence[SegmentRecord]) -> int:
    return max((block.bytes for segment in found for block in segment.blocks if not block.name), default=0)


def reserved(run: AllocatorRun) -> go.Figure:
    """Bytes in blocks, and in segments, over time."""
    scale, unit = charts.scale_of(run.reserved_peak)
    drawn = drawn_positions(run.allocated)
    figure = go.Figure()
    for name, values, tone in (("reserved", run.reserved, charts.QUIET), ("allocated", run.allocated, charts.LAST)):
        figure.add_scatter(
            x=drawn, y=[values[at] / scale for at in drawn], name=name, mode="lines", fill="tozeroy",
            line={"shape": "hv", "width": 1.6, "color": tone}, hovertemplate=f"%{{y:.2f}} {unit}<extra>{name}</extra>",
        )  # fmt: skip
    charts.finish(figure, 380, f"Allocated and reserved, {unit} (predicted)")
    figure.update_xaxes(title="position in the order of execution")
    figure.update_yaxes(rangemode="tozero")
    return figure


def segments(side: Side) -> go.Figure:
    """The segments at the peak as bars, their blocks in the colour of their role, holes left pale."""
    chosen = sorted(side.run.segments, key=lambda segment: -segment.bytes)[:MOST_SEGMENTS]
    scale, unit = charts.scale_of(max((segment.bytes for segment in chosen), default=1))
    roles = {one.name: one.role for one in side.memory.holdings}
    titles = [f"{number}. {show.size(segment.bytes)}" for number, segment in enumerate(chosen, 1)]
    blocks = [(title, block) for title, segment in zip(titles, chosen, strict=True) for block in segment.blocks]
    blocks = sorted(blocks, key=lambda one: -one[1].bytes)[:MOST_BLOCKS]
    figure = go.Figure()
    for role in ("free", *TONES):
        mine = [(title, block) for title, block in blocks if (roles.get(block.name, "") if block.name else "free") == role]
        if mine:
            figure.add_bar(
                y=[title for title, _ in mine], x=[block.bytes / scale for _, block in mine], base=[block.offset / scale for _, block in mine],
                orientation="h", name=role, marker={"color": TONES.get(role, "rgba(128,136,150,0.16)"), "line": {"width": 0.5, "color": charts.QUIET}},
                text=[f"{block.name or 'free'}: {show.size(block.bytes)}" for _, block in mine], textposition="none",
                hovertemplate="%{text}<extra></extra>",
            )  # fmt: skip
    charts.finish(figure, min(900, max(300, 180 + 24 * len(chosen))), f"Segments at the peak, {unit} from their start (predicted)")
    figure.update_layout(barmode="overlay", bargap=0.2, legend={"y": -0.14, "yanchor": "top", "x": 0, "xanchor": "left"})
    figure.update_yaxes(categoryorder="array", categoryarray=titles[::-1])
    return figure
