"""Memory at most so much: a front of peak against predicted time, a slider over it, and the cheapest pipeline that keeps to it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from jobs.experiment import parse_pipeline
from jobs.record import Budget, BudgetResult, request_hash
from optimizers.record import BudgetFront, BudgetPoint
from pages.ui import charts, pipeline, show, state, work

RUNGS = 9
CHOSEN, APPROXIMATE = "budget chosen", "budget approximate"
NAMED = 4
ANSWERS = {"bitwise": "the same, bit for bit", "rounding": "the same up to rounding", "approximate": "approximate"}


def panel(words: str, step: int) -> None:
    """What is known at once, and then what recomputation reaches for a ladder of budgets, while the first stays on screen."""
    st.caption(
        "How low can the peak go, and what would it cost? Each point is a pipeline: the steps shown so far and those named. Peaks are **counted**; times are "
        "**predicted** for a machine of this class, one operator after another. Take a point, and its steps are verified and can be measured like any others; a recomputation is planned anew then, for the same budget, and may come out cheaper."
    )
    approximate = st.toggle(
        "with steps that change the answers a little", key=APPROXIMATE, help="Activations kept in 16 or 8 bits: approximate."
    )
    quick, whole = Budget(words, 0, approximate), Budget(words, RUNGS, approximate)
    slot = f"budget {request_hash(whole)[:12]}"
    if not work.is_kept(whole):
        with show.patient():
            first = work.answer(quick, f"{slot} quick", BudgetResult)
            body(first.front, words, step, "Planning for more budgets; what is known so far:")
            work.answer(whole, slot, BudgetResult)
        return
    with show.patient():
        body(work.answer(whole, slot, BudgetResult).front, words, step, "")


def body(front: BudgetFront, words: str, step: int, note: str) -> None:
    """The slider, the figures of the point that it leads to, the chart and the table."""
    if front.points[-1].peak >= front.now.peak:
        st.info("Nothing was found that lowers this graph's peak." + _why(front))
        return
    if note:
        st.caption(note)
    left, right = st.columns([1, 1.1], gap="medium")
    with left:
        point = slider(front.points, words)
        figures(front.now, point)
        st.button(
            "Take these steps", key="budget take", type="primary", icon=":material/add:", disabled=not point.words, on_click=take,
            args=(point.words, step), help="Adds them behind the step that is shown; every step is verified.",
        )  # fmt: skip
        st.caption(("Steps: " + ", ".join(f"`{one}`" for one in point.words)) if point.words else "The graph as it is.")
        st.caption(f"The smallest peak found is {show.size(front.points[-1].peak)}." + _why(front))
    right.plotly_chart(picture(front, point), key=f"budget picture {note != ''}", config={"displaylogo": False})
    with st.expander(f"All {len(front.points)} points as a table", icon=":material/table:"):
        table(front)


def slider(points: Sequence[BudgetPoint], words: str) -> BudgetPoint:
    """Memory at most so much: the cheapest point that keeps to it."""
    peaks = [point.peak for point in reversed(points)]
    texts = {peak: show.size(peak) for peak in peaks}
    if st.session_state.get(CHOSEN) not in peaks or st.session_state.get("budget of") != words:
        st.session_state.update({CHOSEN: peaks[len(peaks) // 2], "budget of": words})
    most = st.select_slider("Memory at most (counted peak)", peaks, key=CHOSEN, format_func=lambda peak: texts[peak])
    return next(point for point in points if point.peak <= most)


def figures(now: BudgetPoint, point: BudgetPoint) -> None:
    """Peak and time of the point, against the graph as it is."""
    gap = point.seconds / point.bound - 1 if point.bound else 0.0
    bound = (
        f"No recomputation behind the same other steps needs less than {show.milliseconds(1e3 * point.bound)}: {gap:.1%} below."
        if point.bound
        else "No bound is known."
    )
    columns = st.columns(2)
    for column, title, value, before, after, meaning in (
        (columns[0], "Peak · counted", show.size(point.peak), now.peak, point.peak, "Beside the graph as it is."),
        (columns[1], "Time · predicted", show.milliseconds(1e3 * point.seconds), now.seconds, point.seconds, bound),
    ):
        delta = show.change(before, after).replace("−", "-") if before != after else None  # the sign by which Streamlit chooses a colour
        column.metric(title, value, delta, delta_color="inverse", border=True, help=meaning)
    st.caption(f"Answers: {ANSWERS[point.exactness]}.")


def picture(front: BudgetFront, chosen: BudgetPoint) -> go.Figure:
    """Peak against predicted time; between two points the line takes a step, for a budget between them takes the lower one."""
    scale, unit = charts.scale_of(front.now.peak)
    figure = go.Figure()
    for points, mode, symbol, size in (
        (front.points, "lines+markers", "circle", 9),
        ((front.now,), "markers", "x", 10),
        ((chosen,), "markers", "circle-open", 18),
    ):
        figure.add_scatter(
            x=[point.peak / scale for point in points], y=[_more(front.now, point) for point in points], mode=mode, line_shape="hv",
            marker={"size": size, "symbol": symbol, "line": {"width": 3 if symbol == "circle-open" else 0}},
            text=["<br>".join(point.words) or "as it is" for point in points],
            customdata=[f"{show.size(point.peak)} counted, {show.milliseconds(1e3 * point.seconds)} predicted" for point in points],
            hovertemplate="%{text}<br>%{customdata}<extra></extra>",
        )  # fmt: skip
    charts.finish(figure, 400, "Peak memory against time; × is the graph as it is")
    figure.update_layout(showlegend=False)
    figure.update_xaxes(title=f"peak memory, counted, {unit}", rangemode="tozero")
    figure.update_yaxes(title="more time than now, predicted, %", zeroline=True)
    return figure


def _more(now: BudgetPoint, point: BudgetPoint) -> float:
    """Percent more predicted time than now."""
    return 100 * (point.seconds / now.seconds - 1) if now.seconds else 0.0


def table(front: BudgetFront) -> None:
    now, points = front.now, front.points
    frame = pd.DataFrame(
        {
            "peak, counted": [show.size(point.peak) for point in points],
            "of now": [f"{point.peak / now.peak:.0%}" for point in points],
            "time, predicted": [show.milliseconds(1e3 * point.seconds) for point in points],
            "more": [show.change(now.seconds, point.seconds) for point in points],
            "answers": [point.exactness for point in points],
            "steps": [", ".join(point.words) or "as it is" for point in points],
        }
    )
    right = st.column_config.TextColumn(alignment="right")
    st.dataframe(frame, hide_index=True, key="budget table", column_config=dict.fromkeys(list(frame)[:4], right))


def take(words: Sequence[str], step: int) -> None:
    """The pipeline up to the step that is shown, and these steps behind it."""
    kept = state.current().pipeline[: step + 1]
    more = parse_pipeline(",".join(words))
    state.change(pipeline=(*kept, *more))
    pipeline.take_step(len(kept) + len(more) - 1)


def _why(front: BudgetFront) -> str:
    """What is there at the smallest peak."""
    if not front.at:
        return ""
    held = ", ".join(f"`{name}` ({show.size(size)})" for name, size in front.held[:NAMED])
    return f" It is reached while `{front.at}` runs, when {held} and others are there."
