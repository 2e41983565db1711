"""A task as a student sees it: what is asked for, where to begin, how to submit, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl

import streamlit as st

from graphs.errors import FxscopeError
from jobs.assignment_record import Submission, Task
from jobs.assignments import NAME_CHARS, as_name
from jobs.experiment import Experiment, parse
from jobs.grading import best_of_each, grade
from jobs.record import CatalogueResult, Optimize, OptimizeResult, request_hash
from pages.ui import class_seat, class_tasks, show, state, work

PENDING, NAME, LINK = "task pending", "task name", "task link"
SHOWN = 10  # of one's own submissions


def page(task: Task) -> None:
    """All of it, the way to submit beside what is asked for."""
    st.subheader(show.plain(task.title), anchor=False)
    left, right = st.columns([1.3, 1], gap="large")
    with left:
        _asked_for(task)
    with right:
        if task.closed:
            st.info("This task is closed: nothing can be submitted any more.", icon=":material/lock:")
        else:
            _form(task)
            _settle(task)
    _own(task)
    if task.leaderboard:
        _leaderboard(task)


# ---------------------------------------------------------------- what is asked for


def _asked_for(task: Task) -> None:
    if task.text:
        st.text(task.text)
    with st.container(border=True):
        st.markdown(class_tasks.goal(task))
    words = dict(parse_qsl(task.start, keep_blank_values=True))
    st.page_link("pages/optimize.py", label="Open the start", icon=":material/play_arrow:", query_params=words)
    st.caption("Add steps there. The sidebar brings you back here to submit what you have on screen.")
    with show.patient():
        totals = work.answer(Optimize(task.start), f"task start {task.start}", OptimizeResult).graphs[0].totals
        limits = class_tasks.limits(task.goal)
        rows = [
            {
                "Figure": figure.title,
                "Start (counted)": show.number(getattr(totals, figure.field), figure.unit),
                "Goal": limits.get(figure.field, ""),
            }
            for figure in show.FIGURES[:4]
        ]
        st.dataframe(rows, hide_index=True, width="stretch")


# ---------------------------------------------------------------- submitting


def _form(task: Task) -> None:
    experiment = state.on_screen()
    with st.form("task submit form"):
        st.markdown("**Submit**")
        st.text_input("Your name", value=st.session_state.get(f"kept {NAME}", ""), key=NAME, max_chars=NAME_CHARS)
        st.text_input("The address of your Optimize page", key=LINK, placeholder="https://…/optimize?model=…&pipeline=…")
        with st.container(horizontal=True):
            st.form_submit_button("Submit the link", on_click=_take, args=(task, None), type="primary")
            if experiment:
                st.form_submit_button("Submit what I have on screen", on_click=_take, args=(task, experiment.words))
        if experiment:
            st.caption(f"On screen: {show.plain(state.title(experiment))}")
    st.caption("Your teacher sees the name and the link. The server computes everything itself; stay here until it has.")


def _take(task: Task, words: str | None) -> None:
    """What was typed, to be computed and graded by the run that follows."""
    try:
        name = as_name(str(st.session_state.get(NAME, "")))
        st.session_state[f"kept {NAME}"] = name
        experiment = state.from_link(str(st.session_state.get(LINK, ""))) if words is None else parse(words)
        st.session_state[PENDING] = [task.code, name, experiment.words]
    except FxscopeError as error:
        class_tasks.say(error)


def _drop() -> None:
    st.session_state.pop(PENDING, None)


def _settle(task: Task) -> None:
    """Computes, grades and keeps what was submitted."""
    code, name, words = st.session_state.get(PENDING) or ("", "", "")
    if code != task.code:
        return
    experiment = parse(words)
    try:
        catalogue = work.catalogue()
        state.check(experiment, catalogue)
    except FxscopeError as error:
        show.problem(show.as_problem(error), title="This cannot be submitted")
        _drop()
        return
    request = Optimize(words)
    with show.patient():
        found = work.answer(request, f"task {request_hash(request)}", OptimizeResult)
        graded = grade(task, experiment, found, _defaults(experiment, catalogue))
        _drop()
        try:
            class_tasks.assignments().submit(task.code, name, class_seat.seat(), words, graded)
        except FxscopeError as error:
            show.problem(show.as_problem(error), title="This was not submitted")
            return
        if graded.meets:
            st.success("Submitted: it reaches the goal.", icon=":material/check_circle:")
        else:
            st.warning("Submitted: it does not reach the goal yet. Below is why.", icon=":material/flag:")
    if PENDING in st.session_state:
        st.button("Do not submit it", key="task drop", on_click=_drop, type="tertiary")


def _defaults(experiment: Experiment, catalogue: CatalogueResult) -> dict[str, str]:
    """What the model's options are where nothing is said; a reader's file says that itself."""
    of_model = () if experiment.model.startswith("source/") else state.model_record(experiment.model, catalogue).options
    return {option.name: option.default for option in (*of_model, *catalogue.capture_options)}


# ---------------------------------------------------------------- what came of it


def _own(task: Task) -> None:
    mine = class_tasks.assignments().own(task.code, class_seat.seat())
    if not mine:
        return
    st.subheader("What you submitted", anchor=False)
    for one in mine[:SHOWN]:
        with st.container(border=True):
            _card(one)
    if len(mine) > SHOWN:
        st.caption(f"and {len(mine) - SHOWN} earlier ones.")


def _card(one: Submission) -> None:
    figures, verdict = one.grade.figures, show.VERDICTS[one.grade.verdict]
    with st.container(horizontal=True, vertical_alignment="center"):
        if one.grade.meets:
            st.badge("reaches the goal", icon=":material/check_circle:", color="green")
        else:
            st.badge("not yet", icon=":material/flag:", color="orange")
        st.badge(verdict.text, icon=verdict.icon, color=verdict.color)  # pyright: ignore[reportArgumentType]
        st.caption(f"{class_tasks.when(one.at)}, as {show.plain(one.name)}")
        words = dict(parse_qsl(one.words, keep_blank_values=True))
        st.page_link("pages/optimize.py", label="Open it", icon=":material/open_in_new:", query_params=words)
    st.caption(
        f"Counted: peak memory {show.size(figures.peak_bytes)} · launches {figures.launches:,} · bytes moved {show.size(figures.bytes_moved)} · "
        f"operations {show.change(figures.captured_flops, figures.flops)} · {show.plural(figures.steps, 'step')}"
    )
    for reason in one.grade.reasons:
        st.markdown(f"- {show.plain(reason)}")


def _leaderboard(task: Task) -> None:
    st.subheader("Leaderboard", anchor=False)
    best = best_of_each(task.goal, class_tasks.assignments().shown(task.code))
    there = [one for one in best if one.grade.meets]
    if there:
        st.dataframe(_places(task, there), hide_index=True, width="stretch")
    waiting = len(best) - len(there)
    if waiting or not there:
        names = show.plural(waiting, "name") if waiting else "Nobody"
        st.caption(f"{names} {'have' if waiting > 1 else 'has'} {'not reached the goal yet' if waiting else 'submitted yet'}.")


def _places(task: Task, there: Sequence[Submission]) -> list[dict[str, object]]:
    """A line for each name; equal figures share a place."""
    figures = [one.grade.figures.ranked_by(task.goal.rank) for one in there]
    return [
        {"Place": figures.index(figure) + 1, "Name": one.name, **counted(one), "When": class_tasks.when(one.at)}
        for one, figure in zip(there, figures, strict=True)
    ]


def counted(one: Submission) -> dict[str, str | int]:
    """The figures of a submission for a table."""
    figures = one.grade.figures
    return {
        "Extra operations (counted)": show.change(figures.captured_flops, figures.flops),
        "Peak memory (counted)": show.size(figures.peak_bytes),
        "Launches (counted)": figures.launches,
        "Bytes moved (counted)": show.size(figures.bytes_moved),
        "Steps": figures.steps,
    }
