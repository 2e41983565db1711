"""Tasks in this browser: which one it has open, whose teacher it is, and how a task is told."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

import jobs.client
from graphs.errors import FxscopeError
from jobs.assignment_record import Goal, Rank, Task
from jobs.assignments import Assignments, no_task
from jobs.classroom import TOKEN, as_code
from optimizers.amounts import in_words
from optimizers.record import Exactness
from pages.ui import class_seat, show, state

KEYS, HERE = "task keys", "task here"
PROBLEM = "class problem"  # told at the top of the page Class
KEY_COOKIE = "fxscope-task-"

RANKS: Mapping[Rank, str] = {
    "operations": "fewest extra operations",
    "peak": "least peak memory",
    "launches": "fewest launches",
    "bytes": "fewest bytes moved",
    "steps": "fewest steps",
}
WEAKEST: Mapping[Exactness, str] = {
    "bitwise": "same bits",
    "rounding": "same up to rounding, or same bits",
    "approximate": "approximate or better: verified, and not refuted",
}


def assignments() -> Assignments:
    return jobs.client.default_client().assignments


# ---------------------------------------------------------------- who this browser is


def take_address() -> None:
    """Remembers the task that the address names, and takes its key out of it: addresses are seen on projectors."""
    code = as_code(st.query_params.get(state.TASK, ""))
    if not code:
        return
    st.session_state[HERE] = code
    given = st.query_params.get(class_seat.KEY, "")
    if class_seat.KEY in st.query_params:
        del st.query_params[class_seat.KEY]
    elif key(code):
        return
    found = given or st.context.cookies.get(f"{KEY_COOKIE}{code}", "")
    if TOKEN.fullmatch(found) and assignments().steers(code, found):
        own(code, found)
    elif given:
        st.session_state[PROBLEM] = "This link does not open the task for its teacher: its key is not whole. Below is what students see."


def asked() -> Task | None:
    """The task that the address names; None where it names none.

    Raises:
        RequestError: there is no such task.
    """
    typed = st.query_params.get(state.TASK, "")
    if not typed:
        return None
    found = assignments().task(as_code(typed))
    if found is None:
        st.session_state.pop(HERE, None)
        st.button("To the class page", icon=":material/arrow_back:", on_click=leave)
        raise no_task(as_code(typed))
    return found


def key(code: str) -> str:
    """The teacher's key of a task; empty for everybody else."""
    return st.session_state.get(KEYS, {}).get(code, "")


def own(code: str, given_key: str) -> None:
    """This session may see and change the task."""
    st.session_state[KEYS] = {**st.session_state.get(KEYS, {}), code: given_key}


def mine() -> list[Task]:
    """The tasks whose teacher this session is."""
    return [task for code in st.session_state.get(KEYS, {}) if (task := assignments().task(code))]


def leave() -> None:
    """Away from the task; for callbacks."""
    st.session_state.pop(HERE, None)
    st.query_params.pop(state.TASK, None)


def remember(code: str) -> None:
    """Tells the browser what it has to bring when the page is loaded again."""
    if key(code):
        class_seat.cookie(f"{KEY_COOKIE}{code}", key(code))
    class_seat.cookie(class_seat.SEAT_COOKIE, class_seat.seat())


def way_back(is_there: bool) -> None:
    """In the sidebar of every other page, for who came from a task."""
    code = st.session_state.get(HERE)
    if not code or is_there:
        return
    with st.sidebar:
        st.page_link("pages/classroom.py", label=f"To the task {code}", icon=":material/assignment:", query_params={state.TASK: code})


def say(error: FxscopeError) -> None:
    """An error of a callback, told at the top of the page."""
    st.session_state[PROBLEM] = f"{show.sentence(error.what)} {show.sentence(error.help)}"


# ---------------------------------------------------------------- in words


def limits(goal: Goal) -> dict[str, str]:
    """Each limit in words, by its field in Totals."""
    found = {"peak_bytes": goal.peak_bytes, "bytes_moved": goal.bytes_moved}
    written = {field: f"at most {in_words(limit)}" for field, limit in found.items() if limit}
    return written | ({"launches": f"at most {goal.launches:,}"} if goal.launches else {})


def goal(task: Task) -> str:
    """The goal, the rank and what is allowed: Markdown."""
    titles = {figure.field: figure.title.lower() for figure in show.FIGURES}
    parts = [f"{titles[field]} {limit}" for field, limit in limits(task.goal).items()]
    parts.append(f"every step {WEAKEST[task.goal.verdict]}")
    allowed = ", ".join(f"`{name}`" for name in task.allowed) or "all optimizations"
    return f"**Goal:** {'; '.join(parts)}.  \n**First** is who reaches it with the {RANKS[task.goal.rank]}.  \n**Allowed:** {allowed}."


def when(at: float) -> str:
    """A date and time where this browser is."""
    try:
        zone = ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        zone = UTC
    return datetime.fromtimestamp(at, zone).strftime("%Y-%m-%d %H:%M")


def link(page: str, words: str) -> str:
    """An address of this app, whole where the browser has said where it is."""
    whole = class_seat.address(page, {})
    return f"{whole or page}?{words}"
