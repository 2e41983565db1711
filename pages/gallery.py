"""Gallery

Experiments worth opening: each is live, with its graph, its verified steps, and what they changed. Bars show the graph from its inputs (left) to its
results; blue is forward, orange backward, green what steps have made.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl

import streamlit as st

import jobs.client
from graphs.errors import FxscopeError
from jobs.experiment import parse
from jobs.record import Explore, ExploreResult, Optimize, OptimizeResult, request_hash
from lessons.gallery import ENTRIES, Entry, of_lesson
from lessons.reading import lessons
from optimizers.record import StepRecord
from pages.ui import show, thumbnail, work

ACROSS = 3
PAGES = {"start": "pages/explore.py", "optimize": "pages/optimize.py", "memory": "pages/memory.py"}
CLAIMS = (("launches", "launches"), ("bytes_moved", "bytes moved"), ("peak_bytes", "peak memory"))
NEAR = 0.01  # changes smaller than this share are not worth a word


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        shelf("Models and what can be done with them", ENTRIES)
        shelf("From the lessons", [found for lesson in lessons() if (found := of_lesson(lesson))])


@st.fragment(run_every=2.0)
def waiting(entries: Sequence[Entry]) -> None:
    """Asks for the next picture that is missing, one at a time; the page is drawn again when it is there."""
    client = jobs.client.default_client()
    for entry in entries:
        request = asked_of(entry)
        status = client.state(request_hash(request), work.reader()).status
        if status in work.BUSY:
            return
        if status == "done" or is_asked(request):
            st.rerun()
        st.session_state[_slot(request)] = True
        try:
            client.submit(request, reader=work.reader())
        except FxscopeError:  # its card says so when the page is drawn again
            continue
        return


def _slot(request: Explore | Optimize) -> str:
    return f"picture {request_hash(request)}"


def is_asked(request: Explore | Optimize) -> bool:
    """Was its picture asked for in this tab?"""
    return bool(st.session_state.get(_slot(request)))


def came_to_nothing(request: Explore | Optimize) -> bool:
    """Was its picture asked for in this tab, and is neither there nor on its way?"""
    status = jobs.client.default_client().state(request_hash(request), work.reader()).status
    return is_asked(request) and status != "done" and status not in work.BUSY


def asked_of(entry: Entry) -> Explore | Optimize:
    """What its card needs: without steps the graph alone, for looking for places of all optimizations takes long on large models."""
    experiment = parse(entry.words)
    return Optimize(experiment.words) if experiment.pipeline else Explore(experiment.words)


def shelf(title: str, entries: Sequence[Entry]) -> None:
    """Cards in rows."""
    st.subheader(title, anchor=False)
    missing = [entry for entry in entries if not work.is_kept(asked_of(entry))]
    hopeless = [entry for entry in missing if came_to_nothing(asked_of(entry))]
    for first in range(0, len(entries), ACROSS):
        for column, entry in zip(st.columns(ACROSS), entries[first : first + ACROSS], strict=False):
            with column.container(border=True, height="stretch"):
                card(entry, entry in missing, entry in hopeless)
    if expected := [entry for entry in missing if entry not in hopeless]:
        waiting(expected)


def card(entry: Entry, missing: bool, hopeless: bool) -> None:
    picture, changes = ("", "") if missing else known(asked_of(entry))
    if picture:
        st.image(picture, width="stretch")
    elif hopeless:
        st.caption(
            ":material/image_not_supported: No picture: the experiment did not run. Open it to see why, or reload the page to try again."
        )
    else:
        st.caption(":material/hourglass_empty: The picture is being drawn.")
    st.markdown(f"**{entry.title}**")
    st.caption(entry.summary)
    if changes:
        st.caption(changes)
    with st.container(horizontal=True):
        if entry.lesson:
            asked = {"lesson": entry.lesson, "screen": str(entry.screen + 1)}
            st.page_link("pages/learn.py", label="Open the lesson", icon=":material/school:", query_params=asked)
        else:
            st.page_link(PAGES[entry.shown], label="Open", icon=":material/open_in_new:", query_params=dict(parse_qsl(entry.words)))


def known(request: Explore | Optimize) -> tuple[str, str]:
    """The picture of an experiment whose result is kept, and what its steps changed; empty where it was forgotten in this moment."""
    try:
        return drawn(request_hash(request))
    except FxscopeError:
        return "", ""


@st.cache_data(max_entries=100, show_spinner=False)
def drawn(job_id: str) -> tuple[str, str]:
    found = jobs.client.default_client().result(job_id)
    if isinstance(found, ExploreResult):
        return thumbnail.svg(found.graph, ()), ""
    assert isinstance(found, OptimizeResult)
    captured = found.graphs[0].by_name()
    new = {node.name for node in found.graphs[-1].nodes if node.name not in captured}
    return thumbnail.svg(found.graphs[-1], new), told(found.steps)


def told(steps: Sequence[StepRecord]) -> str:
    """What the steps changed, counted, and how they were verified."""
    before, after = steps[0].before, steps[-1].after
    changes = [
        f"{word} {show.change(getattr(before, field), getattr(after, field))}"
        for field, word in CLAIMS
        if abs(getattr(after, field) - getattr(before, field)) > NEAR * getattr(before, field)
    ]
    weakest = max((step.verdict.kind for step in steps), key=list(show.VERDICTS).index)
    return f"Counted: {', '.join(changes) or 'no change'}. Verified: {show.VERDICTS[weakest].text}."


main()
