"""Optimize

Improve the graph one step at a time. Each step says where it applies and where not, is checked against the unoptimized program, and
shows what it changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from graphs.record import GraphSnapshot
from jobs.experiment import Experiment
from jobs.record import CatalogueResult, Optimize, OptimizeResult
from optimizers.record import MatchRecord, OptimizationRecord, StepRecord
from pages.ui import (
    choose,
    chosen,
    kernels,
    nodes,
    offers,
    pairs,
    pipeline,
    present,
    present_pipeline,
    save,
    search,
    settings,
    show,
    state,
    work,
)
from pages.ui.graph_view import graph_view, wish
from pages.ui.pipeline import chosen_step, go_to
from pages.ui.titles import numbered, step_title

PANE = "pipeline graph"
HEIGHT = 660
SHOWN_NAMES = 6
STEPS_FAULT = ("RequestError", "RewriteError")  # kinds of problems that a step has, not the model


def main() -> None:
    show.opening(__doc__, bare=present.is_on())
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        if present.is_on():
            present_pipeline.stage(optimized(experiment), state.title(experiment.prefix(0)))
            return
        choose.experiment(catalogue, experiment)
        with st.sidebar:
            present.start_button()
        left, right = st.columns([1.1, 2.9], gap="medium")
        with left:
            cards = st.container()
            offered = st.container()
        with right:
            try:
                found = optimized(experiment)
            finally:  # a step that failed can be changed or removed
                with cards:
                    steps(catalogue, experiment)
        with right:
            show.nothing_to_count(found.report)
            if not found.report.runs:
                show.standing(found.report)
        if found.report.runs:
            with offered:
                offers.panel(catalogue, experiment, found.offers)
        with right:
            picture(catalogue, found, experiment.words)


def optimized(experiment: Experiment) -> OptimizeResult:
    """The pipeline's result, the last good one, or where a step failed and nothing was there before: the graph as captured, in which
    the reader finds what the step can act on."""
    request = Optimize(experiment.words, st.session_state.get("run proven of") == experiment.words)
    try:
        return work.answer(request, "optimize", OptimizeResult)
    except show.NothingYet:
        if not experiment.pipeline or not work.failed_with(request, STEPS_FAULT):
            raise
    captured = Optimize(experiment.prefix(0).words)
    found = work.answer(captured, "optimize captured", OptimizeResult)
    work.stand_in(captured, "optimize")
    st.caption("Below: the graph as captured. Change the step, or remove it.")
    return found


# ---------------------------------------------------------------- the pipeline


def steps(catalogue: CatalogueResult, experiment: Experiment) -> None:
    """The pipeline, a card for each step."""
    found = work.last_good("optimize", OptimizeResult)
    done = found.steps if found else ()
    known = {record.name: record for record in catalogue.optimizations}
    st.subheader("Pipeline", anchor=False)
    st.session_state["step on card"] = chosen_step(len(done) if found else len(experiment.pipeline))
    if not experiment.pipeline:
        add = " Add one from the list below." if found and found.report.runs else ""
        st.caption(f"No step yet: this is the graph as captured.{add}")
    for index, step in enumerate(experiment.pipeline):
        same = index < len(done) and done[index].words == step.words
        with st.container(border=True):
            step_card(experiment, index, known[step.name], done[: index + 1] if same else ())


def step_card(experiment: Experiment, index: int, known: OptimizationRecord, done: Sequence[StepRecord]) -> None:
    """One step; `done` are the records up to its own, where there are any."""
    record = done[-1] if done else None
    step = experiment.pipeline[index]
    st.markdown(
        f"**{index + 1}. {show.plain(step.name)}**" + ("  :gray[:small[shown]]" if index == st.session_state["step on card"] else "")
    )
    for key, value in step.settings:
        st.caption(f"{key}: {meant(known, key, value)}")
    if record:
        with st.container(horizontal=True, vertical_alignment="center"):
            show.verdict(record.verdict, [one.verdict for one in done[:-1]])
            st.caption(f"{show.plural(len(record.matches), 'place')} rewritten")
        st.caption(show.savings(record))
    last = len(experiment.pipeline) - 1
    with st.container(horizontal=True, gap="medium"):
        for key, icon, what, disabled, act, given in (
            ("show", "visibility", "Show this step before and after", record is None, pipeline.take_step, (index,)),
            ("up", "arrow_upward", "Move up", index == 0, pipeline.move, (index, index - 1)),
            ("down", "arrow_downward", "Move down", index == last, pipeline.move, (index, index + 1)),
            ("remove", "delete", "Remove this step", False, pipeline.remove, (index,)),
        ):
            st.button(
                "", key=f"{key} {index}", icon=f":material/{icon}:", help=what, disabled=disabled, on_click=act, args=given, type="tertiary"
            )
        with st.popover("", icon=":material/tune:", help="Change its settings", type="tertiary"):
            settings.of_step(known, index, step, record.sites if record else ())


def meant(known: OptimizationRecord, key: str, value: str) -> str:
    """A setting's value, and what it stands for where a number tells nothing."""
    parameter = next((one for one in known.parameters if one.name == key and one.choices), None)
    return f"`{settings.named(parameter, int(value))}`" if parameter else named(value)


def named(value: str) -> str:
    """A setting's value; a long list of nodes is cut."""
    parts = value.split(".")
    return f"`{'.'.join(parts[:SHOWN_NAMES])}`" + (f" and {len(parts) - SHOWN_NAMES} more" if len(parts) > SHOWN_NAMES else "")


# ---------------------------------------------------------------- the picture


def picture(catalogue: CatalogueResult, found: OptimizeResult, words: str) -> None:
    """The pipeline's graphs, one step before and after; on request, the places of an offer."""
    places = next((offer for offer in found.offers if offer.optimization == st.session_state.get("places")), None)
    if places and places.sites:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.subheader(f"Where {places.optimization} applies", anchor=False)
            st.button("Back to the pipeline", on_click=lambda: st.session_state.pop("places", None), icon=":material/arrow_back:")
        one_graph(found.graphs[-1], places.sites)
    else:
        step_view(catalogue, found, words)


@st.fragment
def one_graph(graph: GraphSnapshot, places: Sequence[str]) -> None:
    clicked = graph_view([graph], "places graph", places=places, height=HEIGHT)["selected"]
    show.legend()
    if clicked:
        with st.container(border=True):
            nodes.details(graph, clicked["name"], "places", lambda name: None)


@st.fragment
def step_view(catalogue: CatalogueResult, found: OptimizeResult, words: str) -> None:
    """The step that is shown: its verdict, the graph before and after with what changed marked, the numbers and the near-misses."""
    index = chosen_step(len(found.steps))
    if index != st.session_state.get("step on card", index) or words != state.current().words:
        st.rerun()  # the pipeline was changed from in here, or the list of steps outside this fragment says which one is shown
    step = found.steps[index] if index >= 0 else None
    known = {record.name: record for record in catalogue.optimizations}
    heading(step, index, found.graphs[max(index, 0)], found.steps[: max(index, 0)])
    above = st.container()
    seen = drawn(found, index)
    show.legend(marks=step is not None)
    with above:
        chosen.bar(found.graphs[-1], known, state.current().mode == "training")
    explained = index if step and pairs.explains(known.get(step.optimization)) else -1
    places = details_of(found, clicked, index) if (clicked := seen.get("selected")) else None
    if step is None:
        show.totals_table([("captured", found.graphs[0].totals)])
        return
    show.totals_table([("before", step.before), ("after", step.after)])
    ends = search.panel(index, step.search) if step.search else None
    matches(step)
    why = st.container()
    if step.misses and explained < 0:
        st.markdown(f"**Why not here?** {show.plural(len(step.misses), 'near-miss')}. Choose a row to see the node.")
        show.misses(step.misses, f"step misses {index}", go_to)
    with st.expander("Save this session", icon=":material/download:"):
        save.buttons(found.graphs, found.steps, state.current().words)
        written = st.container()
    if len(found.steps) > 1:
        st.subheader("The whole pipeline", anchor=False)
        show.totals_table(
            [
                ("captured", found.graphs[0].totals),
                *zip(numbered(one.words for one in found.steps), (one.after for one in found.steps), strict=True),
            ]
        )
    with written:
        save.programs(state.current().words, index, len(found.steps))
    prefix = state.current().prefix(index + 1).words
    if places and places.code:  # what the worker is asked for comes last: while it is at it, the rest is there
        with places.code, show.patient():
            kernels.panel(prefix, places.name, catalogue.device.kind.upper())
    if ends and step.search:
        with ends, show.patient():
            search.ends(index, step.search, found.graphs)
    if explained >= 0:
        with why, show.patient():
            pairs.panel(prefix, explained, go_to)
        if places:
            with places.why:
                pairs.of_node(prefix, explained, places.body, places.name)


def drawn(found: OptimizeResult, index: int) -> Mapping[str, Any]:
    """The graphs of all steps, this one's before and after on screen; gives what the reader did in them."""
    seen = graph_view(
        found.graphs,
        PANE,
        steps=["captured", *(step_title(one.words) for one in found.steps)],
        diffs=[one.diff for one in found.steps],
        height=HEIGHT,
        look={**state.look(), "step": index + 1},
        on_walk=lambda: pipeline.take_walk(PANE),
        on_pick=take_pick,
    )
    focus = st.session_state.get("focus", "")
    wish(PANE, seen["digest"], st.session_state.get("turn", 0), focus, index + 1, chosen=chosen.names())
    state.keep_look(seen.get("look") or "")
    return seen


def heading(step: StepRecord | None, index: int, before: GraphSnapshot, earlier: Sequence[StepRecord]) -> None:
    """Which step it is, what it changed, and what the proof says."""
    if step is None:
        st.subheader("The graph as captured", anchor=False)
        return
    st.subheader(f"Step {index + 1}: {step.optimization}", anchor=False)
    with st.container(horizontal=True, vertical_alignment="center"):
        show.verdict(step.verdict, [one.verdict for one in earlier])
        show.diff(step.diff)
        if step.verdict.how == "proven" and step.matches:
            run_too()
    show.verdict_line(step.verdict)
    for sentence in step.claim_broken:
        st.warning(f"Against its claim: {show.sentence(sentence)}", icon=":material/warning:")
    if not step.matches:
        because = f" {show.plain(step.misses[0].reason)}" if len(step.misses) == 1 else ""
        if not step.misses and any(kernels.is_kernel(node) for node in before.nodes):
            because = " An earlier step put operators into kernels, where this one does not look: move it up, before that step."
        st.info(f"The step found no place to rewrite: before and after are the same graph.{because}", icon=":material/info:")


def run_too() -> None:
    """Asks for proven steps to be run as well, for this pipeline and from now on."""
    words = state.current().words
    meaning = "Runs the graphs before and after on the same random inputs, with real weights, and compares every output."

    def take_wish() -> None:  # as a callback: a run that is cut off must not lose the press
        st.session_state["run proven of"] = words
        st.session_state["run proven now"] = True

    asked = st.session_state.get("run proven of") == words
    st.button(
        "Run it too", key="run proven", icon=":material/play_arrow:", type="tertiary", help=meaning, disabled=asked, on_click=take_wish
    )
    if st.session_state.pop("run proven now", False):
        st.rerun()  # the whole page asks for the result


def matches(step: StepRecord) -> None:
    """Every place that was rewritten, with what the optimization found there; choosing one leads to it."""
    if not step.matches:
        return
    key = f"matches {step.words}"

    def take_row() -> None:
        rows = st.session_state[key]["selection"]["rows"]
        if rows and rows[0] < len(step.matches):
            go_to(step.matches[rows[0]].anchor)

    with st.expander(f"What it found: {show.plural(len(step.matches), 'place')}", icon=":material/checklist:"):
        st.dataframe(
            [match_row(match) for match in step.matches],
            key=key,
            hide_index=True,
            height=min(300, 37 + 35 * len(step.matches)),
            selection_mode="single-row",
            on_select=take_row,
        )


def match_row(match: MatchRecord) -> dict[str, str]:
    more = f" and {len(match.nodes) - SHOWN_NAMES} more" if len(match.nodes) > SHOWN_NAMES else ""
    return {"place": match.anchor, "what it found": match.note, "nodes": ", ".join(match.nodes[:SHOWN_NAMES]) + more}


class Places(NamedTuple):
    """Where in a node's details is put what the worker has to be asked for: a kernel's code, and why it ends where it does."""

    name: str
    code: DeltaGenerator | None
    why: DeltaGenerator
    body: tuple[str, ...]


def details_of(found: OptimizeResult, clicked: Mapping[str, Any], index: int) -> Places | None:
    """The chosen node before and after the step, where it is there."""
    before, after = found.graphs[max(index, 0)], found.graphs[index + 1]
    name = clicked["name"]
    sides = [(title, graph) for title, graph in (("before", before), ("after", after)) if name in graph.by_name()]
    if index < 0:
        sides = [("captured", after)]
    if not sides:
        return None
    if kernels.is_kernel(after.by_name().get(name)):
        return details_of_kernel(before, after, name)
    columns = st.columns(len(sides), gap="small", border=True)
    for column, (title, graph) in zip(columns, sides, strict=True):
        with column:
            if len(sides) > 1 or index >= 0:
                st.caption(title.capitalize())
            nodes.details(graph, name, title, go_to)
            if graph.by_name()[name].op == "call_function":
                chosen.button(name, f"{title} {name}")
            if title == "after" and name not in before.by_name():
                nodes.replaced(before, after, name)
    return Places(name, None, columns[-1].container(), (name,)) if sides[-1][1].by_name()[name].op == "call_function" else None


def details_of_kernel(before: GraphSnapshot, after: GraphSnapshot, name: str) -> Places:
    """Its code, and below it the node as any other, what it replaced, and why it ends where it does."""
    code = st.container(border=True)
    with st.container(border=True):
        left, right = st.columns([1, 1.5], gap="medium")
    with left:
        nodes.details(after, name, "after", go_to)
        chosen.button(name, f"after {name}")
    with right:
        body = () if name in before.by_name() else tuple(one.name for one in nodes.body_of(before, after, name))
        if body:
            nodes.replaced(before, after, name)
        return Places(name, code, st.container(), body or (name,))


def take_pick() -> None:
    """The reader took a node among the chosen ones, inside the picture."""
    picked = st.session_state[PANE].get("picked")
    if picked:
        chosen.toggle(picked["name"])


main()
