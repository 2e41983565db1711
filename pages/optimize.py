"""Optimize

Improve the graph one step at a time. Each step says where it applies and where not, is checked against the unoptimized program, and
shows what it changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from graphs.record import GraphSnapshot
from jobs.experiment import Experiment, StepWords
from jobs.record import CatalogueResult, Optimize, OptimizeResult
from optimizers.record import Offer, OptimizationRecord, StepRecord
from pages.ui import choose, kernels, nodes, save, show, state, work
from pages.ui.graph_view import graph_view, wish

PANE = "pipeline graph"
HEIGHT = 660


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        left, right = st.columns([1.1, 2.9], gap="medium")
        with left:
            pipeline = st.container()
            offered = st.container()
        with right:
            found = work.answer(Optimize(experiment.words), "optimize", OptimizeResult)
        with pipeline:
            steps(experiment, found)
        with offered:
            offers(catalogue, experiment, found)
        with right:
            picture(found)


# ---------------------------------------------------------------- the pipeline


def steps(experiment: Experiment, found: OptimizeResult) -> None:
    """The pipeline, a card for each step."""
    st.subheader("Pipeline", anchor=False)
    st.session_state["step on card"] = chosen_step(len(experiment.pipeline))
    if not experiment.pipeline:
        st.caption("No step yet: this is the graph as captured. Add one from the list below.")
    for index, step in enumerate(experiment.pipeline):
        known = index < len(found.steps) and found.steps[index].optimization == step.name
        with st.container(border=True):
            step_card(experiment, index, step, found.steps[index] if known else None)


def step_card(experiment: Experiment, index: int, step: StepWords, record: StepRecord | None) -> None:
    chosen = index == st.session_state["step on card"]
    st.markdown(f"**{index + 1}. {step.words}**" + ("  :gray[:small[shown]]" if chosen else ""))
    if record:
        with st.container(horizontal=True, vertical_alignment="center"):
            show.verdict(record.verdict)
            st.caption(f"{show.plural(len(record.matches), 'place')} rewritten")
        st.caption(show.savings(record))
    last = len(experiment.pipeline) - 1
    with st.container(horizontal=True, gap="small"):
        for key, icon, what, disabled, act, given in (
            ("show", "visibility", "Show this step before and after", record is None, take_step, (index,)),
            ("up", "arrow_upward", "Move up", index == 0, move, (index, index - 1)),
            ("down", "arrow_downward", "Move down", index == last, move, (index, index + 1)),
            ("remove", "delete", "Remove this step", False, remove, (index,)),
        ):
            st.button("", key=f"{key} {index}", icon=f":material/{icon}:", help=what, disabled=disabled, on_click=act, args=given)


def move(index: int, to: int) -> None:
    order = list(state.current().pipeline)
    order[index], order[to] = order[to], order[index]
    state.change(pipeline=tuple(order))
    take_step(to)


def remove(index: int) -> None:
    order = list(state.current().pipeline)
    del order[index]
    state.change(pipeline=tuple(order))
    st.session_state.pop("step", None)


def take_step(index: int) -> None:
    st.session_state["step"] = index
    st.session_state.pop("places", None)
    go_to("")


def chosen_step(count: int) -> int:
    """The step whose before and after is shown: the one chosen, else the last; −1 is the graph as captured."""
    index = st.session_state.get("step", (state.look().get("step") or count) - 1)
    return index if -1 <= index < count else count - 1


# ---------------------------------------------------------------- what could be done


def offers(catalogue: CatalogueResult, experiment: Experiment, found: OptimizeResult) -> None:
    """What has something to do on the graph as it stands, and what has not."""
    st.subheader("Add a step" if not experiment.pipeline else "Add another step", anchor=False)
    by_name = {offer.optimization: offer for offer in found.offers}
    able = [record for record in catalogue.optimizations if by_name.get(record.name) and by_name[record.name].sites]
    idle = [record for record in catalogue.optimizations if record not in able]
    if not able:
        st.caption("No optimization finds anything left to do on this graph. Below is why; another model or mode may give them work.")
    for record in able:
        with st.container(border=True):
            offer_card(record, by_name[record.name])
    if idle:
        with st.expander(f"Nothing to do here: {len(idle)}"):
            for record in idle:
                idle_card(record, by_name.get(record.name), experiment.mode)


def offer_card(record: OptimizationRecord, offer: Offer) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{record.name}**")
        st.badge(show.plural(len(offer.sites), "place"), color="blue")
    st.caption(show.sentence(record.summary))
    with st.container(horizontal=True, gap="xsmall"):
        st.button("Add", key=f"add {record.name}", type="primary", on_click=add, args=(record,))
        where = {"on_click": take_places, "args": (record.name,), "help": "Where? Marks the places in the graph"}
        st.button("", key=f"where {record.name}", icon=":material/pin_drop:", **where)
        with st.popover("", icon=":material/tune:", help="Settings"):
            settings(record, offer)
        lesson(record)
    if offer.misses:
        with st.expander(f"Why not here? {show.plural(len(offer.misses), 'near-miss')}"):
            show.misses(offer.misses, f"misses {record.name}")


def idle_card(record: OptimizationRecord, offer: Offer | None, mode: str) -> None:
    st.markdown(f"**{record.name}**")
    if mode not in record.applies_to:
        st.caption(f"Applies to {' and '.join(record.applies_to)} only; the mode is {mode}.")
    else:
        st.caption(show.sentence(record.summary))
    if offer and offer.misses:
        show.misses(offer.misses, f"misses {record.name}")
    lesson(record)


def lesson(record: OptimizationRecord) -> None:
    with st.popover("", icon=":material/school:", help="What it does and why: the lesson"):
        st.markdown(record.lesson)
        claim = record.claim
        st.caption(
            f"Claim, per place: launches {claim.launches}, operations {claim.flops}, bytes moved {claim.bytes_moved}, "
            f"peak memory {claim.peak_bytes}. Exactness: {record.exactness}."
        )


def settings(record: OptimizationRecord, offer: Offer) -> None:
    """The step's parameters, and whether it acts on one place only."""
    for parameter in record.parameters:
        st.number_input(
            parameter.name,
            parameter.minimum,
            parameter.maximum,
            parameter.default,
            help=parameter.meaning,
            key=f"set {record.name} {parameter.name}",
        )
    st.selectbox(
        "Places", ["", *offer.sites], format_func=lambda site: site or f"all {len(offer.sites)}", key=f"set {record.name} only",
        help="Rewrite one place only, to see what it does there.",
    )  # fmt: skip


def add(record: OptimizationRecord) -> None:
    step = StepWords(record.name)
    for parameter in record.parameters:
        value = st.session_state.get(f"set {record.name} {parameter.name}", parameter.default)
        step = step.with_setting(parameter.name, "" if value == parameter.default else str(value))
    step = step.with_setting("only", st.session_state.get(f"set {record.name} only") or "")
    pipeline = (*state.current().pipeline, step)
    state.change(pipeline=pipeline)
    take_step(len(pipeline) - 1)


def take_places(name: str) -> None:
    st.session_state["places"] = name


# ---------------------------------------------------------------- the picture


def picture(found: OptimizeResult) -> None:
    """The pipeline's graphs, one step before and after; on request, the places of an offer."""
    places = next((offer for offer in found.offers if offer.optimization == st.session_state.get("places")), None)
    if places and places.sites:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader(f"Where {places.optimization} applies", anchor=False)
            st.button("Back to the pipeline", on_click=lambda: st.session_state.pop("places", None), icon=":material/arrow_back:")
        one_graph(found.graphs[-1], places.sites)
    else:
        step_view(found)


@st.fragment
def one_graph(graph: GraphSnapshot, places: Sequence[str]) -> None:
    chosen = graph_view([graph], "places graph", places=places, height=HEIGHT)["selected"]
    show.legend()
    if chosen:
        with st.container(border=True):
            nodes.details(graph, chosen["name"], "places", lambda name: None)


@st.fragment
def step_view(found: OptimizeResult) -> None:
    """The step that is shown: its verdict, the graph before and after with what changed marked, the numbers and the near-misses."""
    steps = found.steps
    index = chosen_step(len(steps))
    if index != st.session_state.get("step on card", index):
        st.rerun()  # the list of steps outside this fragment says which one is shown
    step = steps[index] if index >= 0 else None
    heading(step, index)
    seen = graph_view(
        found.graphs,
        PANE,
        steps=["captured", *(one.words for one in steps)],
        diffs=[one.diff for one in steps],
        height=HEIGHT,
        look={**state.look(), "step": index + 1},
        on_step=take_walk,
    )
    wish(PANE, seen["digest"], st.session_state.get("turn", 0), st.session_state.get("focus", ""), index + 1)
    state.keep_look(seen.get("look") or "")
    show.legend(marks=step is not None)
    code: DeltaGenerator | None = None
    if chosen := seen.get("selected"):
        code = details_of(found, chosen, index)
    if step is None:
        show.totals_table([("captured", found.graphs[0].totals)])
        return
    show.totals_table([("before", step.before), ("after", step.after)])
    if step.misses:
        st.markdown(f"**Why not here?** {show.plural(len(step.misses), 'near-miss')}. Choose a row to see the node.")
        show.misses(step.misses, f"step misses {index}", go_to)
    with st.expander("Save this session", icon=":material/download:"):
        save.buttons(found.graphs, steps, state.current().words)
    if len(steps) > 1:
        st.subheader("The whole pipeline", anchor=False)
        show.totals_table([("captured", found.graphs[0].totals), *((one.words, one.after) for one in steps)])


def heading(step: StepRecord | None, index: int) -> None:
    """Which step it is, what it changed, and what the proof says."""
    if step is None:
        st.subheader("The graph as captured", anchor=False)
        return
    st.subheader(f"Step {index + 1}: {step.optimization}", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        show.verdict(step.verdict)
        show.diff(step.diff)
    show.verdict_line(step.verdict)
    for sentence in step.claim_broken:
        st.warning(f"Against its claim: {show.sentence(sentence)}", icon=":material/warning:")
    if not step.matches:
        st.info("The step found no place to rewrite: before and after are the same graph.", icon=":material/info:")


def details_of(found: OptimizeResult, chosen: Mapping[str, Any], index: int) -> None:
    """The chosen node before and after the step, where it is there."""
    before, after = found.graphs[max(index, 0)], found.graphs[index + 1]
    name = chosen["name"]
    sides = [(title, graph) for title, graph in (("before", before), ("after", after)) if name in graph.by_name()]
    if index < 0:
        sides = [("captured", after)]
    for column, (title, graph) in zip(st.columns(max(1, len(sides)), gap="small", border=True), sides, strict=False):
        with column:
            if len(sides) > 1 or index >= 0:
                st.caption(title.capitalize())
            nodes.details(graph, name, title, go_to)
            if title == "after" and name not in before.by_name():
                nodes.replaced(before, after, name)


def take_walk() -> None:
    """The reader walked to another step inside the picture."""
    st.session_state["step"] = int(st.session_state[PANE].get("step") or 0) - 1


def go_to(name: str) -> None:
    st.session_state["focus"] = name
    st.session_state["turn"] = st.session_state.get("turn", 0) + 1


main()
