"""Saves a lesson: two buttons; what is missing of its results is asked for, one after another, and then the file can be taken."""

from __future__ import annotations

import streamlit as st

import jobs.client
from jobs.record import Request, request_hash
from lessons.lesson import Lesson
from pages.ui import lesson_file, show, work
from pages.ui.lesson_file import Kind
from pages.ui.lesson_place import Place

KINDS: dict[Kind, tuple[str, str, str]] = {
    "page": ("Web page", "text/html", "One file with text, numbers, questions and graphs that opens without network."),
    "notebook": ("Notebook", "application/x-ipynb+json", "The text, and programs to run that need torch and nothing else."),
}
CHOSEN = "lesson to save"
IN_VAIN = ("SourceError", "RequestError", "CaptureError", "TooLargeError", "RewriteError")


def buttons(lesson: Lesson, place: Place) -> None:
    """In the sidebar: as what to save it, and how far that is."""
    st.caption("Save this lesson")
    with st.container(horizontal=True, gap="small"):
        for kind, (label, _, meaning) in KINDS.items():
            st.button(
                label,
                key=f"save lesson {kind}",
                icon=":material/save:",
                help=meaning,
                on_click=_choose,
                args=(_words(lesson, place, kind),),
            )
    for kind in KINDS:
        if st.session_state.get(CHOSEN) == _words(lesson, place, kind):
            with show.problems():
                _file(lesson, place, kind)


def _words(lesson: Lesson, place: Place, kind: Kind) -> str:
    """What was chosen, in words: another model, or another lesson, is another file."""
    return "\n".join((kind, lesson.name, place.on, place.formula, place.numbers))


def _choose(words: str) -> None:
    st.session_state[CHOSEN] = words


def _file(lesson: Lesson, place: Place, kind: Kind) -> None:
    """Asks for what is missing, one after another; where nothing is, the file."""
    wanted = lesson_file.wanted(lesson, place, kind)
    missing = [request for request in wanted if not work.is_kept(request) and not _in_vain(request)]
    if missing:
        st.caption(f"{len(wanted) - len(missing)} of {show.plural(len(wanted), 'result')} found so far.")
    for request in missing:
        _wait_for(request)
    failed = sum(map(_in_vain, wanted))
    if failed:
        st.caption(f"{show.plural(failed, 'result')} could not be found; the file says why.")
    client, (_, mime, _) = jobs.client.default_client(), KINDS[kind]
    name = lesson_file.name(lesson, kind)
    st.download_button(
        f"Save {name}", lambda: lesson_file.content(lesson, place, kind, lambda request: client.result(request_hash(request))), name, mime,
        key="save lesson file", icon=":material/download:", type="primary", on_click="ignore",
    )  # fmt: skip


def _wait_for(request: Request) -> None:
    """Ends this part of the page while the worker is at it; then the page runs again."""
    try:
        work.answer(request, _slot(request), object)
    except show.NothingYet:
        if _in_vain(request):  # at once: the file will say why, and the next result is asked for
            st.rerun()
        raise


def _in_vain(request: Request) -> bool:
    """Did the worker come to an end without a result, so that asking again would tell the same?"""
    return work.failed_with(request, IN_VAIN)


def _slot(request: Request) -> str:
    return f"lesson save {request_hash(request)}"
