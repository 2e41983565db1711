"""A task as its teacher sees it: the links, who submitted what and how it did, and what may be changed."""

from __future__ import annotations

import streamlit as st

from graphs.errors import FxscopeError
from jobs.assignment_record import Submission, Task
from jobs.exporting.tables import submissions_csv
from jobs.grading import best_of_each
from pages.ui import class_seat, class_task_student, class_tasks, show, state

POLL_S = 10.0


def page(task: Task) -> None:
    """The results, and beside them what students see."""
    results, seen = st.tabs(["Results", "What students see"])
    with results:
        st.subheader(show.plain(task.title), anchor=False)
        _links(task)
        st.markdown(class_tasks.goal(task))
        _switches(task)
        _table(task)
        _removing(task)
    with seen:
        class_task_student.page(task)


def _links(task: Task) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        st.caption("For your students")
        st.code(class_tasks.link("classroom", f"{state.TASK}={task.code}"), language=None, wrap_lines=True)
    with right:
        st.caption("For you: keep this link")
        with st.popover("Your secret link", icon=":material/key:"):
            st.caption(
                "Whoever has it sees all submissions and may change the task. There is no other way back once the browser is closed."
            )
            secret = f"{state.TASK}={task.code}&{class_seat.KEY}={class_tasks.key(task.code)}"
            st.code(class_tasks.link("classroom", secret), language=None, wrap_lines=True)


def _switches(task: Task) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        for name, what, value in (
            ("leaderboard", "Students see a leaderboard", task.leaderboard),
            ("closed", "Closed: takes no more submissions", task.closed),
        ):
            st.session_state[f"task {name}"] = value  # the store decides, not what another task's page left
            st.toggle(what, key=f"task {name}", on_change=_change, args=(task.code,))


def _change(code: str) -> None:
    try:
        leaderboard, closed = (bool(st.session_state[f"task {name}"]) for name in ("leaderboard", "closed"))
        class_tasks.assignments().change(code, class_tasks.key(code), leaderboard, closed)
    except FxscopeError as error:
        class_tasks.say(error)


@st.fragment(run_every=POLL_S)
def _table(task: Task) -> None:
    """Each name's best, as it comes in; all of it as CSV."""
    with show.problems():
        found = class_tasks.assignments().submissions(task.code, class_tasks.key(task.code))
        best = best_of_each(task.goal, found)
        reached = sum(one.grade.meets for one in best)
        st.markdown(f"**{show.plural(len(best), 'name')}** submitted, **{reached:,}** reached the goal.")
        if not found:
            return
        link = st.column_config.LinkColumn("Experiment", display_text="open")
        st.dataframe(
            [row(one) for one in best],
            hide_index=True,
            width="stretch",
            column_config={"Experiment": link, "Why not": st.column_config.TextColumn(width=240)},
        )
        st.caption(f"Each name's best of {show.plural(len(found), 'submission')}, the first place on top. The CSV has all of them.")
        st.download_button(
            "Results as CSV",
            lambda: submissions_csv(task.goal, found),
            f"fxscope-task-{task.code}.csv",
            "text/csv",
            icon=":material/download:",
            on_click="ignore",
        )


def row(one: Submission) -> dict[str, str | int]:
    """A line of the table."""
    return {
        "Name": one.name,
        "Goal": "✓ reached" if one.grade.meets else "not yet",
        "Experiment": class_tasks.link("optimize", one.words),
        "Why not": " ".join(one.grade.reasons),
        "Verdict": show.VERDICTS[one.grade.verdict].text,
        **class_task_student.counted(one),
        "When": class_tasks.when(one.at),
    }


def _removing(task: Task) -> None:
    """Anybody can type any name, and a task ends some day."""
    names = sorted(
        {one.name for one in best_of_each(task.goal, class_tasks.assignments().submissions(task.code, class_tasks.key(task.code)))}
    )
    with st.container(horizontal=True):
        if names:
            with st.popover("Remove a name", icon=":material/person_remove:", type="tertiary"):
                name = st.selectbox("Name", names, key="task remove name")
                st.button("Remove all its submissions", key="task remove", on_click=_remove, args=(task.code, name))
        with st.popover("Remove the task", icon=":material/delete:", type="tertiary"):
            st.caption("The task and all submissions are gone then. To keep them, close it instead.")
            st.button("Remove it", key="task end", on_click=_end, args=(task.code,))
        st.button("To the class page", key="task leave", icon=":material/arrow_back:", on_click=class_tasks.leave, type="tertiary")


def _remove(code: str, name: str) -> None:
    try:
        class_tasks.assignments().remove_name(code, class_tasks.key(code), name)
    except FxscopeError as error:
        class_tasks.say(error)


def _end(code: str) -> None:
    try:
        class_tasks.assignments().remove(code, class_tasks.key(code))
        class_tasks.leave()
    except FxscopeError as error:
        class_tasks.say(error)
