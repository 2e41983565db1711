"""Memory at most so much: a front of peak against predicted time, a slider over it, and the cheapest pipeline that keeps to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from jobs.experiment import parse_pipeline
from jobs.record import Budget, BudgetResult, request_hash
from optimizers.front import RANKS, as_exact
from optimizers.record import BudgetFront, BudgetPoint, Exactness
from pages.ui import charts, pipeline, show, state, work
from pages.ui.titles import step_title

RUNGS = 9
CHOSEN, ANSWERS = "budget chosen", "budget answers"
NAMED = 4
MEANINGS: dict[Exactness, str] = {
    "bitwise": "the same, bit for bit",
    "rounding": "the same up to rounding",
    "approximate": "approximate",
}
POLL_S = 0.5
LATER = "verified when taken"


def panel(words: str, step: int) -> None:
    """The points as they are found, those that keep every bit first; and then the whole front."""
    st.caption(
        "How low can the peak go, and what would it cost? Each point is a pipeline: the steps shown so far and those named. Peaks are **counted**; times are "
        "**predicted** for a machine of this class, one operator after another. A filled point was carried out on a copy of the graph and **proven** to give the same "
        "bits; a hollow one is verified when you take it. The recomputation that you take is the plan of the point: its step holds it as a word (`plan=`), and nothing is planned anew."
    )
    answers = st.segmented_control(
        "Answers may be", RANKS, default=RANKS[0], key=ANSWERS, format_func=lambda one: MEANINGS[one], required=True,
        help="Approximate: activations kept in 16 or 8 bits.",
    )  # fmt: skip
    exactness = cast(Exactness, answers)
    request = Budget(words, RUNGS, exactness == "approximate")
    slot = f"budget {request_hash(request)[:12]}"
    with show.patient():
        if work.is_kept(request):
            body(work.answer(request, slot, BudgetResult).front, words, step, exactness)
        else:
            growing(request, slot, step, exactness)


@st.fragment(run_every=POLL_S)
def growing(request: Budget, slot: str, step: int, exactness: Exactness) -> None:
    """What is found up to now, until all is."""
    if work.is_kept(request) or request.words != state.current().prefix(step + 1).words:
        st.rerun()
    found = work.so_far(request, slot, BudgetResult)
    if found is not None:
        body(found.front, request.words, step, exactness, whole=False)


def body(front: BudgetFront, words: str, step: int, exactness: Exactness, whole: bool = True) -> None:
    """The slider, the figures of the point that it leads to, the chart and the table."""
    points = as_exact(front.points, exactness)
    if points[-1].peak >= front.now.peak:
        lowest = front.points[-1]
        more = (
            f" With answers that may be *{MEANINGS[lowest.exactness]}*, the peak goes from {show.size(front.now.peak)} down to "
            f"{show.size(lowest.peak)} (counted): choose that above."
            if lowest.peak < front.now.peak
            else ""
        )
        nothing = f"Nothing was found that lowers this graph's peak with answers that are {MEANINGS[exactness]}."
        st.info((nothing if whole else "No point yet that keeps to what is chosen above.") + more + _why(front))
        return
    left, right = st.columns([1, 1.1], gap="medium")
    with left:
        point = slider(points, words)
        figures(front.now, point)
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button(
                "Take these steps", key="budget take", type="primary", icon=":material/add:", disabled=not point.words, on_click=take,
                args=(point.words, step), help="Adds them behind the step that is shown; every step is verified.",
            )  # fmt: skip
            verdict(point)
        st.caption(("Steps: " + ", ".join(f"`{one}`" for one in said(point))) if point.words else "The graph as it is.")
        lowest = front.points[-1]
        less_exact = f" (counted; answers: {MEANINGS[lowest.exactness]})" if lowest not in points else " (counted)"
        st.caption(f"The smallest peak found {'' if whole else 'so far '}is {show.size(lowest.peak)}{less_exact}." + _why(front))
    right.plotly_chart(picture(front, points, point), key="budget picture", config={"displaylogo": False})
    with st.expander(f"All {show.plural(len(front.points), 'point')} as a table", icon=":material/table:"):
        table(front)


def slider(points: Sequence[BudgetPoint], words: str) -> BudgetPoint:
    """Memory at most so much: the cheapest point that keeps to it. What the reader chose stays, or the next lower one that there is now."""
    peaks = [point.peak for point in reversed(points)]
    texts = {peak: show.size(peak) for peak in peaks}
    wanted = st.session_state.get(CHOSEN, peaks[-1])
    untouched = wanted == st.session_state.get("budget offered") or st.session_state.get("budget of") != words
    if CHOSEN not in st.session_state or untouched:
        wanted = peaks[len(peaks) // 2]
        st.session_state.update({"budget offered": wanted, "budget of": words})
    st.session_state[CHOSEN] = max((peak for peak in peaks if peak <= wanted), default=peaks[0])
    most = st.select_slider("Memory at most (counted peak)", peaks, key=CHOSEN, format_func=lambda peak: texts[peak])
    return next(point for point in points if point.peak <= most)


def verdict(point: BudgetPoint) -> None:
    """Proven, or verified later, and why."""
    if point.verdict.kind != "not run":
        show.verdict(point.verdict)
    else:
        st.badge(LATER, icon=":material/schedule:", color="gray", help=show.sentence(point.verdict.reason))


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
    st.caption(f"Answers: {MEANINGS[point.exactness]}.")


def picture(front: BudgetFront, points: Sequence[BudgetPoint], chosen: BudgetPoint) -> go.Figure:
    """Peak against predicted time. The line joins the points to choose from: for a budget between two of them it is the lower one. Others stand beside it."""
    scale, unit = charts.scale_of(front.now.peak)
    others = [point for point in front.points if point not in points]
    verified, later = (
        [point for point in points if (point.verdict.kind == "not run") is wanted and point is not front.now] for wanted in (False, True)
    )
    figure = go.Figure()
    for name, shown, mode, symbol, size, tone in (
        ("", points, "lines", "circle", 0, charts.LAST),
        ("other points", others, "markers", "diamond-open", 8, charts.QUIET),
        (LATER, later, "markers", "circle-open", 10, charts.LAST),
        ("verified", verified, "markers", "circle", 10, charts.BETTER),
        ("as it is", [front.now], "markers", "x", 10, charts.FIRST),
        ("", [chosen], "markers", "circle-open", 20, charts.WORSE),
    ):
        figure.add_scatter(
            x=[point.peak / scale for point in shown], y=[_more(front.now, point) for point in shown], mode=mode, line_shape="hv", name=name,
            marker={"size": size, "symbol": symbol, "color": tone, "line": {"width": 2 if symbol.endswith("open") else 0, "color": tone}},
            line={"color": tone, "width": 1.5}, text=["<br>".join(said(point)) or "as it is" for point in shown],
            customdata=[f"{show.size(point.peak)} counted, {show.milliseconds(1e3 * point.seconds)} predicted" for point in shown],
            hovertemplate="%{text}<br>%{customdata}<extra></extra>", showlegend=bool(name and shown),
        )  # fmt: skip
    charts.finish(figure, 400, "Peak against time")
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
            "verified": [LATER if point.verdict.kind == "not run" else show.verdict_text(point.verdict) for point in points],
            "steps": [", ".join(said(point)) or "as it is" for point in points],
        }
    )
    right = st.column_config.TextColumn(alignment="right")
    st.dataframe(frame, hide_index=True, key="budget table", column_config=dict.fromkeys(list(frame)[:4], right))


def said(point: BudgetPoint) -> list[str]:
    """The steps for a reader."""
    return [step_title(one) for one in point.words]


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
