"""Runs a job for a page: progress and a cancel button while it runs, a problem box when it fails, and the last good result meanwhile.

The session remembers job ids only; results stay with the client.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

import jobs.client
from graphs.errors import FxscopeError
from jobs.experiment import parse
from jobs.record import Catalogue, CatalogueResult, JobState, Optimize, OptimizeResult, Progress, Request, request_hash
from pages.ui import show
from pages.ui.state import title

BUSY = ("queued", "running")
CLOCK_S = 5.0  # longer work shows for how long it has run
PATIENCE_S = 0.6  # shorter work shows no progress bar
QUIET_PATIENCE_S = 4.0  # what shows nothing while it waits, on a busy machine

R = TypeVar("R")


def reader() -> str:
    """Who reads: this browser tab."""
    context = get_script_run_ctx()
    return context.session_id if context else ""


def catalogue() -> CatalogueResult:
    """What there is: models, optimizations, the device."""
    return answer(Catalogue(), "catalogue", CatalogueResult)


def answer(request: Request, slot: str, kind: type[R]) -> R:
    """The job's result, or the last good one of this slot while there is none. Ends the page's part if there is neither.

    Args:
        slot: names the place on the page whose last result may stand in.
        kind: the type that the request's result has.
    """
    job_id = request_hash(request)
    state = _started(request, job_id, slot)
    if state.status == "done":
        try:
            result = jobs.client.default_client().result(job_id)
            stand_in(request, slot)
            return cast(R, result)
        except FxscopeError as error:
            state = JobState("failed", problem=show.as_problem(error))
    if state.status in BUSY:
        _watch(job_id, slot)
    else:
        _failed(state, request, slot)
    return _last_good(slot, kind)


def so_far(request: Request, slot: str, kind: type[R]) -> R | None:
    """What the worker has found up to now of a result that grows, under a progress bar; None before there is anything. For fragments that run
    again and again until the result is kept."""
    job_id = request_hash(request)
    state = _started(request, job_id, slot)
    if state.status in BUSY:
        _bar(state, job_id, slot)
        found = state.progress.so_far if state.progress else None
        return found if isinstance(found, kind) else None
    _failed(state, request, slot)
    return None


def quietly(request: Request, kind: type[R]) -> R | None:
    """The result of quick work; None while there is none, whatever the reason: somebody else on the page tells that."""
    client = jobs.client.default_client()
    try:
        job_id = client.submit(request, reader=reader())
        give_up = time.monotonic() + QUIET_PATIENCE_S
        while client.state(job_id, reader()).status in BUSY and time.monotonic() < give_up:
            time.sleep(0.02)
        return cast(R, client.result(job_id)) if client.state(job_id, reader()).status == "done" else None
    except FxscopeError:
        return None


def was_answered(request: Request) -> bool:
    """Did the worker come to an end with it, by a result or an error of the reader's?"""
    state = jobs.client.default_client().state(request_hash(request), reader())
    told = state.problem is not None and state.problem.kind in ("SourceError", "RequestError", "CaptureError")
    return state.status == "done" or (state.status == "failed" and told)


def failed_with(request: Request, kinds: Sequence[str]) -> bool:
    """Did the worker come to an end with a problem of one of these kinds?"""
    state = jobs.client.default_client().state(request_hash(request), reader())
    return state.status == "failed" and state.problem is not None and state.problem.kind in kinds


def is_kept(request: Request) -> bool:
    """Is the result there already?"""
    return jobs.client.default_client().state(request_hash(request), reader()).status == "done"


def kept(request: Request, kind: type[R]) -> R | None:
    """The result where it is there already; nothing is begun."""
    return quietly(request, kind) if is_kept(request) else None


def can_run(words: str) -> bool:
    """Has this experiment a graph that runs, as far as is known?"""
    found = kept(Optimize(words), OptimizeResult)
    return found is None or found.report.runs


def words_of(slot: str) -> str:
    """The experiment of what `answer` gave last for a slot: not the one that was asked for, where the last good result stands in."""
    return str(st.session_state.get(f"good words {slot}", ""))


def graphs_of(slot: str, found: OptimizeResult) -> OptimizeResult | None:
    """The graphs of what `answer` gave last for a slot: those that were found for the slot `optimize`, or where the last good result stands in its own;
    None where these are not kept any more."""
    words = words_of(slot)
    return found if words == words_of("optimize") else kept(Optimize(words), OptimizeResult)


def is_asked(request: Request, slot: str) -> bool:
    """Did the reader ask for this very thing in this session?"""
    return st.session_state.get(f"asked {slot}") == request_hash(request)


def is_begun(request: Request, slot: str) -> bool:
    """Was this very thing asked for in this session, or is it known or under way, since the reader has reloaded the page or another reader asked?"""
    return is_asked(request, slot) or jobs.client.default_client().state(request_hash(request), reader()).status in (*BUSY, "done")


def ask(request: Request, slot: str, fresh: bool = False) -> None:
    """Asks for work that is not begun without being asked; for callbacks."""
    _forget(slot)
    st.session_state[f"asked {slot}"] = request_hash(request)
    st.session_state.setdefault(f"begun {slot}", {})[request_hash(request)] = getattr(request, "words", "")
    try:
        jobs.client.default_client().submit(request, fresh=fresh, reader=reader())
    except FxscopeError as error:
        st.session_state[f"refused {slot}"] = show.as_problem(error)


def left_behind(request: Request, slot: str) -> None:
    """Names what this reader asked for at a slot, of another experiment, and is still under way; each can be cancelled."""
    own, client = request_hash(request), jobs.client.default_client()
    begun: dict[str, str] = st.session_state.get(f"begun {slot}", {})
    busy = {job_id: words for job_id, words in begun.items() if job_id != own and client.state(job_id, reader()).status in BUSY}
    if busy:
        _watch_left(busy)


@st.fragment(run_every=1.0)
def _watch_left(busy: Mapping[str, str]) -> None:
    client = jobs.client.default_client()
    if any(client.state(job_id, reader()).status not in BUSY for job_id in busy):
        st.rerun()
    for job_id, words in busy.items():
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f":material/hourglass_top: Still under way: `{title(parse(words)).replace('`', '_')}`")
            st.button("Cancel", key=f"cancel left {job_id}", on_click=client.cancel, args=(job_id, reader()), icon=":material/close:")


def _started(request: Request, job_id: str, slot: str) -> JobState:
    """Where the job stands, begun if need be. A job that failed under the reader's eyes is not begun again unasked."""
    client = jobs.client.default_client()
    if is_asked(request, slot) and (refused := st.session_state.get(f"refused {slot}")):
        return JobState("failed", problem=refused)
    state = client.state(job_id, reader())
    if state.status == "done" or (state.status not in BUSY and is_asked(request, slot)):
        return state
    try:
        st.session_state[f"asked {slot}"] = client.submit(request, reader=reader())
    except FxscopeError as error:
        return JobState("failed", problem=show.as_problem(error))
    give_up = time.monotonic() + PATIENCE_S
    while (state := client.state(job_id, reader())).status in BUSY and time.monotonic() < give_up:
        time.sleep(0.03)
    return state


@st.fragment(run_every=0.4)
def _watch(job_id: str, slot: str) -> None:
    client = jobs.client.default_client()
    state = client.state(job_id, reader())
    if state.status not in BUSY:
        st.rerun()
    _bar(state, job_id, slot)


def _bar(state: JobState, job_id: str, slot: str) -> None:
    progress = state.progress or Progress("waiting", 0.0)
    cancel = jobs.client.default_client().cancel
    with st.container(horizontal=True, vertical_alignment="center"):
        st.progress(min(1.0, max(0.0, progress.share)), text=_doing(progress, state))
        st.button("Cancel", key=f"cancel {slot}", on_click=cancel, args=(job_id, reader()), icon=":material/close:")


def _doing(progress: Progress, state: JobState) -> str:
    """`Capturing the graph … 12 s of at most 300 s`: what stands still for long still ends."""
    text = show.plain(f"{progress.text[:1].upper()}{progress.text[1:]} …")
    if state.seconds < CLOCK_S:
        return text
    bound = f" of at most {state.limit_s:g} s" if state.seconds < state.limit_s else ""  # a cluster begins to count where the job is done
    return f"{text} {state.seconds:.0f} s{bound}"


def _failed(state: JobState, request: Request, slot: str) -> None:
    if state.problem:
        show.problem(state.problem, cancelled=state.status == "cancelled")
        st.button("Try again", key=f"again {slot}", on_click=ask, args=(request, slot), icon=":material/refresh:")


def last_good(slot: str, kind: type[R]) -> R | None:
    """The last result of a slot in this session; None where there is none, or none any more."""
    good = st.session_state.get(f"good {slot}")
    if not good:
        return None
    try:
        return cast(R, jobs.client.default_client().result(good))
    except FxscopeError:  # forgotten since: nothing to fall back on
        return None


def stand_in(request: Request, slot: str) -> None:
    """What is known counts as a slot's last good result from now on."""
    st.session_state[f"good {slot}"] = request_hash(request)
    st.session_state[f"good words {slot}"] = getattr(request, "words", "")


def _last_good(slot: str, kind: type[R]) -> R:
    result = last_good(slot, kind)
    if result is None:
        raise show.NothingYet
    words = st.session_state.get(f"good words {slot}")
    of = f", of `{title(parse(words)).replace('`', '_')}`" if words else ""
    st.caption(f"Below: the last result that worked{of}.")
    return result


def _forget(slot: str) -> None:
    st.session_state.pop(f"asked {slot}", None)
    st.session_state.pop(f"refused {slot}", None)
