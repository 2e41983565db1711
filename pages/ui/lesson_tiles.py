"""A product in tiles, drawn: C with one of its tiles, and the rows of A and columns of B that the tile reads."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from lessons.tiling import Product
from pages.ui import charts

GAP = 0.08
SEEN = 0.06  # of a side: a smaller tile could not be seen
PLAIN, LIT = "rgba(125,135,150,0.18)", {"A": "#3f76c4", "B": "#c2792a", "C": "#3d9463"}


def picture(product: Product, tile: tuple[int, int, int], key: str) -> None:
    """A on the left, B above, C where they meet; `tile` is rows, columns and depth of one step."""
    st.plotly_chart(figure(product, tile), key=f"{key} tiles", config={"displaylogo": False, "staticPlot": True})
    st.caption(
        "One tile of C. Pale: all that it reads. Full: what it holds at one step. A tile that could not be seen is drawn larger than it is."
    )


def figure(product: Product, tile: tuple[int, int, int]) -> go.Figure:
    """Three rectangles to scale, a gap between them, and in them the tile, large enough to be seen."""
    m, n, k = product
    rows, columns, depth = (min(max(one, SEEN * side), side) for one, side in zip(tile, product, strict=True))
    gap = GAP * max(m + k, n + k)
    drawn = go.Figure()
    for name, left, bottom, wide, high in (("A", -gap - k, 0, k, m), ("B", 0, m + gap, n, k), ("C", 0, 0, n, m)):
        _box(drawn, (left, bottom, wide, high), PLAIN, charts.QUIET)
        drawn.add_annotation(x=left + wide / 2, y=bottom + high / 2, text=f"{name}<br>{high:,} × {wide:,}", showarrow=False)
    _box(drawn, (-gap - k, m - rows, k, rows), LIT["A"], None, 0.35)
    _box(drawn, (-gap - k, m - rows, depth, rows), LIT["A"], LIT["A"])
    _box(drawn, (0, m + gap, columns, k), LIT["B"], None, 0.35)
    _box(drawn, (0, m + gap + k - depth, columns, depth), LIT["B"], LIT["B"])
    _box(drawn, (0, m - rows, columns, rows), LIT["C"], LIT["C"])
    charts.finish(drawn, 400, f"One tile of {tile[0]:,} × {tile[1]:,}, in steps of {tile[2]:,}")
    drawn.update_xaxes(visible=False, range=[-gap - k, n])
    drawn.update_yaxes(visible=False, range=[0, m + gap + k], scaleanchor="x")
    return drawn


def _box(drawn: go.Figure, place: tuple[float, float, float, float], fill: str, line: str | None, opacity: float = 1.0) -> None:
    """Left, bottom, width, height."""
    left, bottom, wide, high = place
    drawn.add_shape(
        type="rect", x0=left, x1=left + wide, y0=bottom, y1=bottom + high, fillcolor=fill, opacity=opacity,
        line={"color": line or "rgba(0,0,0,0)", "width": 1 if line else 0},
    )  # fmt: skip
