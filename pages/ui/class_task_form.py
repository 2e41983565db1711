"""The doors to tasks: open one by its code, or make one from the experiment that is open."""

from __future__ import annotations

from typing import cast

import streamlit as st

from graphs.errors import FxscopeError, RequestError
from graphs.record import Totals
from jobs.assignment_record import Goal, Rank, Task
from jobs.assignments import TEXT_CHARS, TITLE_CHARS, no_task
from jobs.classroom import CODE_LENGTH, as_code
from jobs.record import Optimize, OptimizeResult
from optimizers.amounts import EXAMPLES, bytes_of, is_amount
from optimizers.record import Exactness
from pages.ui import class_tasks, show, state, work

FIELD, MAKING = "task form ", "task making"


def doors() -> None:
    """Open a task, or make one."""
    st.subheader("Tasks", anchor=False)
    left, right = st.columns(2, gap="large")
    with left, st.container(border=True):
        with st.form("task open form", border=False):
            st.text_input(
                "Code of a task", key="task typed", max_chars=20, placeholder=f"{CODE_LENGTH} letters", help="It stands in the task's link."
            )
            st.form_submit_button("Open the task", on_click=_open)
        st.caption("No account: you type a name, and your browser remembers what it submitted until it is closed.")
    with right, st.container(border=True):
        st.markdown(
            "**Make a task** from the model that you have open: your students begin with its graph, and submit what they made of it. "
            "You get a link for them, and a secret one for the results."
        )
        st.button("Make a task", key="task make", icon=":material/assignment_add:", on_click=_begin)
        for task in class_tasks.mine():
            words = {state.TASK: task.code}
            st.page_link("pages/classroom.py", label=show.plain(task.title), icon=":material/assignment:", query_params=words)


def _open() -> None:
    typed = str(st.session_state.get("task typed", ""))
    try:
        if class_tasks.assignments().task(as_code(typed)) is None:
            raise no_task(as_code(typed))
        st.query_params[state.TASK] = as_code(typed)
    except FxscopeError as error:
        class_tasks.say(error)


def making() -> bool:
    """Does this reader make a task now?"""
    return bool(st.session_state.get(MAKING))


def _begin() -> None:
    st.session_state[MAKING] = True


# ---------------------------------------------------------------- the form


def form() -> None:
    """Title, text, limits, what is allowed; the start is the open experiment without its steps."""
    experiment = state.on_screen()
    with st.container(border=True):
        st.subheader("A new task", anchor=False)
        if experiment is None:
            st.info("Open the model on Optimize first, with the settings that students are to begin with.", icon=":material/info:")
            st.page_link("pages/optimize.py", label="To Optimize", icon=":material/auto_fix_high:")
            return
        catalogue = work.catalogue()
        found = work.answer(Optimize(experiment.words), f"task start {experiment.hash}", OptimizeResult)  # no other model's figures
        st.markdown("The start is what you have open, without its steps. What your own pipeline reaches helps to set a goal.")
        _can_be_won(found)
        st.code(state.title(experiment.prefix(0)), language=None, wrap_lines=True)
        rows = [("start", found.graphs[0].totals), *([("your pipeline", found.graphs[-1].totals)] if found.steps else [])]
        show.totals_table(rows)
        with st.form("task form", border=False):
            _fields([record.name for record in catalogue.optimizations])
            start, totals = experiment.prefix(0).words, found.graphs[0].totals
            with st.container(horizontal=True):
                st.form_submit_button("Make the task", type="primary", on_click=_make, args=(start, totals))
                st.form_submit_button("Not now", on_click=_away, type="tertiary")


def _can_be_won(found: OptimizeResult) -> None:
    """Only verified steps reach a goal: says so where this machine verifies none, or nobody tried."""
    unverified = [step for step in found.steps if step.verdict.kind == "not run"]
    if unverified or not found.report.runs:
        why = show.sentence(unverified[0].verdict.reason) if unverified else "Its graph cannot be run."
        st.warning(
            f"**This machine cannot verify steps of this model.** {why} Only verified steps reach a goal, so this task could not be won: "
            "open the model in a smaller size first.",
            icon=":material/warning:",
        )
    elif not found.steps:
        st.caption(
            "Tip: take the steps that you expect on Optimize first. They show that the goal can be reached, and that this machine can verify them."
        )


def _fields(optimizations: list[str]) -> None:
    st.text_input("Title", key=f"{FIELD}title", max_chars=TITLE_CHARS)
    st.text_area("What students have to know (plain text)", key=f"{FIELD}text", max_chars=TEXT_CHARS, height=110)
    left, middle, right = st.columns(3)
    left.text_input(
        "Peak memory at most", key=f"{FIELD}peak", placeholder="no limit", help=f"{EXAMPLES}. Counted, without parameters and inputs."
    )
    middle.text_input("Bytes moved at most", key=f"{FIELD}bytes", placeholder="no limit", help="0.5 is half of the start's. Counted.")
    right.number_input("Launches at most", key=f"{FIELD}launches", min_value=1, value=None, step=1, placeholder="no limit", help="Counted.")
    left, right = st.columns(2)
    exact = list(class_tasks.WEAKEST)
    left.selectbox(
        "Every step has to be", exact, index=exact.index("rounding"), key=f"{FIELD}verdict", format_func=class_tasks.WEAKEST.__getitem__
    )
    right.selectbox("First is who has the", list(class_tasks.RANKS), key=f"{FIELD}rank", format_func=class_tasks.RANKS.__getitem__)
    st.multiselect("Allowed optimizations", optimizations, key=f"{FIELD}allowed", placeholder="all")
    st.checkbox("Students see a leaderboard with the names that reached the goal", key=f"{FIELD}leaderboard")


def _make(start: str, totals: Totals) -> None:
    given = {name: st.session_state.get(f"{FIELD}{name}") for name in ("title", "text", "verdict", "rank", "allowed", "leaderboard")}
    try:
        goal = Goal(
            _amount("peak", totals.peak_bytes),
            int(st.session_state.get(f"{FIELD}launches") or 0),
            _amount("bytes", totals.bytes_moved),
            cast(Exactness, given["verdict"]),
            cast(Rank, given["rank"]),
        )
        allowed = tuple(given["allowed"] or ())
        task = Task("", str(given["title"]), str(given["text"]), start, allowed, goal, leaderboard=bool(given["leaderboard"]))
        made = class_tasks.assignments().make(task)
    except FxscopeError as error:
        class_tasks.say(error)
        return
    _away()
    class_tasks.own(made.code, made.key)
    st.query_params[state.TASK] = made.code


def _amount(name: str, whole: int) -> int:
    """Bytes of a field; 0 where it is empty; a share is of the start's."""
    text = str(st.session_state.get(f"{FIELD}{name}") or "").replace(" ", "")
    if not text:
        return 0
    if not is_amount(text) or not (count := bytes_of(text, whole)):
        what = "peak memory" if name == "peak" else "bytes moved"
        raise RequestError(f"`{text[:40]}` is no limit of {what}", help=f"Write {EXAMPLES.replace('of the peak', 'of the start')}.")
    return count


def _away() -> None:
    st.session_state.pop(MAKING, None)
