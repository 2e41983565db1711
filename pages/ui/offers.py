"""What could be done next: the catalogue, by kind, with what has work on this graph first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import streamlit as st

from jobs.experiment import Experiment
from jobs.record import CatalogueResult
from optimizers.record import Offer, OptimizationRecord
from pages.ui import pipeline, settings, show

KINDS = {
    "cleanup": "Tidying up",
    "algebra": "Algebra",
    "fusion": "Fusion",
    "search": "Search",
    "memory": "Memory",
}
FILTER, SOUGHT, FOUND = "offers filter", "offers sought", "offers sought and found"
ADDED, DOUBLE_CLICK_S = "step added last", 0.6
MANY = 8  # from as many offers on, the kinds are folded


def panel(catalogue: CatalogueResult, experiment: Experiment, offers: Sequence[Offer]) -> None:
    """What has something to do on the graph as it stands, and what has not."""
    st.subheader("Add a step" if not experiment.pipeline else "Add another step", anchor=False)
    by_name = {offer.optimization: offer for offer in offers}
    text = ""
    if len(catalogue.optimizations) > MANY:
        if FOUND in st.session_state and f"{FILTER}{st.session_state.get(SOUGHT, '')}" not in st.session_state:  # he was away
            st.session_state.pop(SOUGHT, None)
        sought = st.session_state.get(SOUGHT, "")
        typed = st.text_input(
            "Filter", sought, key=f"{FILTER}{sought}", on_change=_sought, icon=":material/search:", label_visibility="collapsed",
            placeholder=f"Find among {len(catalogue.optimizations)}: name, kind, summary",
        )  # fmt: skip
        text = typed or ""
    records = matching(catalogue.optimizations, text)
    able = [record for record in records if by_name.get(record.name) and by_name[record.name].sites]
    by_hand = [
        record
        for record in records
        if record not in able and any(one.kind == "nodes" for one in record.parameters) and experiment.mode in record.applies_to
    ]
    asked = [record for record in records if record not in by_hand and record.name not in by_name and experiment.mode in record.applies_to]
    idle = [record for record in records if record not in (*able, *by_hand, *asked)]
    if text and not records:
        st.caption(f"No optimization has all of these words: {show.plain(text)}")
    elif not able and not by_hand and not asked and text:
        st.caption("None of these finds anything to do on this graph.")
    elif not able and not text:
        st.caption("No optimization finds anything left to do on this graph. Another model or mode may give them work.")
    _by_kind(able, by_name, folded=len(able) > MANY and not text)
    for record in by_hand:
        with st.container(border=True):
            _by_hand_card(record)
    if asked:
        with _fold(f"**Looked for when you ask** :gray[{len(asked)}]", f"offers asked {bool(text)}", bool(text)) as drawn:
            for record in asked if drawn else ():
                _asked_card(record)
    if idle:
        st.caption("Nothing to do here, and why:")
        for kind, some in by_kind(idle).items():
            unfolded = bool(text) and not able
            with _fold(f"{KINDS.get(kind, kind)} :gray[{len(some)}]", f"idle {kind} {unfolded}", unfolded) as drawn:
                for record in some if drawn else ():
                    _idle_card(record, by_name.get(record.name), experiment.mode)


def seek(name: str) -> None:
    """The panel opens with one optimization found, whenever that may be, for the graph may take a while. A field of its own has the name as its
    default: a value that is set while pages come and go may not reach the browser."""
    st.session_state[SOUGHT] = name
    st.session_state.pop(FOUND, None)


def _sought() -> None:
    """The reader seeks by himself from here on."""
    st.session_state[FOUND] = True


def matching(records: Sequence[OptimizationRecord], text: str) -> list[OptimizationRecord]:
    """Those in whose name, kind or summary every word occurs."""
    words = text.lower().split()
    said = {record.name: f"{record.name} {record.kind} {KINDS.get(record.kind, '')} {record.summary}".lower() for record in records}
    return [record for record in records if all(word in said[record.name] for word in words)]


def by_kind(records: Sequence[OptimizationRecord]) -> dict[str, list[OptimizationRecord]]:
    """Kind -> its optimizations, in the order of the catalogue's folders."""
    found: dict[str, list[OptimizationRecord]] = {kind: [] for kind in KINDS}
    for record in records:
        found.setdefault(record.kind, []).append(record)
    return {kind: some for kind, some in found.items() if some}


def _by_kind(able: Sequence[OptimizationRecord], by_name: Mapping[str, Offer], folded: bool) -> None:
    for kind, some in by_kind(able).items():
        places = sum(len(by_name[record.name].sites) for record in some)
        title = f"**{KINDS.get(kind, kind)}** :gray[{len(some)} · {show.plural(places, 'place')}]"
        with _fold(title, f"offers {kind} {folded}", not folded) as drawn:
            for record in some if drawn else ():
                with st.container(gap="xsmall"):
                    _offer_card(record, by_name[record.name])


@contextmanager
def _fold(title: str, key: str, expanded: bool) -> Iterator[bool]:
    """An expander whose content is made when it is opened: dozens of cards with their settings and lessons take most of the page's time."""
    fold = st.expander(title, expanded=expanded, key=key, on_change="rerun")
    with fold:
        yield bool(fold.open)


def _offer_card(record: OptimizationRecord, offer: Offer) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{record.name}**")
        st.badge(show.plural(len(offer.sites), "place"), color="blue")
    st.caption(show.sentence(record.summary))
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.button("Add", key=f"add {record.name}", type="primary", on_click=_add, args=(record,))
        where = {"on_click": take_places, "args": (record.name,), "help": "Where? Marks the places in the graph"}
        st.button("", key=f"where {record.name}", icon=":material/pin_drop:", type="tertiary", **where)
        with st.popover("", icon=":material/tune:", help="Settings", type="tertiary"):
            settings.fields(record, offer.sites, f"set {record.name}")
        lesson(record)
        if offer.misses:
            help = f"Why not elsewhere? {show.plural(len(offer.misses), 'near-miss')}"
            key = f"misses {record.name}"
            why = st.popover("", icon=":material/block:", help=help, type="tertiary", key=key, on_change="rerun")
            if why.open:
                with why:
                    show.reasons(offer.misses)


def _by_hand_card(record: OptimizationRecord) -> None:
    """An optimization that acts on nodes of the reader's choice."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{record.name}**")
        st.badge("you choose", color="violet")
    st.caption(f"{show.sentence(record.summary)} Choose them in the picture: Ctrl+click, or the button in a node's details.")
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        with st.popover("", icon=":material/tune:", help="Type the names instead", type="tertiary"):
            settings.fields(record, (), f"set {record.name}")
            st.button("Add", key=f"add {record.name}", type="primary", on_click=_add, args=(record,))
        lesson(record)


def _asked_card(record: OptimizationRecord) -> None:
    """An optimization that searches or plans for a while: whether it finds something is known when it is a step."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{record.name}**")
    st.caption(f"{show.sentence(record.summary)} It takes some seconds.")
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall"):
        st.button("Add", key=f"add {record.name}", type="primary", on_click=_add, args=(record,))
        with st.popover("", icon=":material/tune:", help="Settings", type="tertiary"):
            settings.fields(record, (), f"set {record.name}")
        lesson(record)


def _idle_card(record: OptimizationRecord, offer: Offer | None, mode: str) -> None:
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown(f"**{record.name}**")
        lesson(record)
        if record.parameters and mode in record.applies_to:
            with st.popover("", icon=":material/tune:", help="Other settings may find something", type="tertiary"):
                settings.fields(record, (), f"set {record.name}")
                st.button("Add", key=f"add {record.name}", type="primary", on_click=_add, args=(record,))
    if mode not in record.applies_to:
        st.caption(f"Applies to {' and '.join(record.applies_to)} only; the mode is {mode}.")
    else:
        st.caption(show.sentence(record.summary))
    if offer and offer.misses:
        show.reasons(offer.misses)


def lesson(record: OptimizationRecord) -> None:
    help, key = "What it does and why: the lesson", f"lesson {record.name}"
    text = st.popover("", icon=":material/school:", help=help, type="tertiary", key=key, on_change="rerun")
    if not text.open:
        return
    with text:
        st.markdown(record.lesson)
        claim = record.claim
        st.caption(
            f"Claim, per place: launches {claim.launches}, operations {claim.flops}, bytes moved {claim.bytes_moved}, "
            f"peak memory {claim.peak_bytes}. Exactness: {record.exactness}."
        )


def _add(record: OptimizationRecord) -> None:
    """Adds the step; the second click of a double click is no wish for the same step again."""
    step, now = settings.filled(record, f"set {record.name}"), time.monotonic()
    last, then = st.session_state.get(ADDED, (None, -DOUBLE_CLICK_S))
    st.session_state[ADDED] = (step.words, now)
    if last != step.words or now - then >= DOUBLE_CLICK_S:
        pipeline.append(step)


def take_places(name: str) -> None:
    st.session_state["places"] = name
