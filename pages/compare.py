"""Compare

Two graphs side by side, whatever they come from: another mode, another size, another model, other steps, a graph saved before. Keep one,
choose the other on the left.
"""

import streamlit as st

from graphs.align import aligned
from graphs.diff import diff
from graphs.errors import RequestError
from graphs.record import GraphSnapshot
from jobs.experiment import Experiment, parse
from jobs.record import CatalogueResult, Explore, ExploreResult, Optimize, OptimizeResult
from pages.ui import choose, nodes, show, state, work
from pages.ui.graph_view import graph_view

PANE = "compared graphs"
STEPS = "compare with steps"
CAPTURED, AFTER = "as captured", "after its steps"


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        kept = kept_one(catalogue)
        shown = with_or_without_steps(experiment)
        keeping(shown, kept)
        if kept is None:
            raise show.NothingYet
        both(graph_of(kept, "compare first"), graph_of(shown, "compare second"), kept, shown)


def with_or_without_steps(experiment: Experiment) -> Experiment:
    """What of the experiment is compared: the graph after its steps, or the one that was captured."""
    if not experiment.pipeline:
        return experiment
    wanted = st.segmented_control("The chosen graph", [CAPTURED, AFTER], default=AFTER, key=STEPS, required=True)
    return experiment if wanted == AFTER else experiment.prefix(0)


def graph_of(experiment: Experiment, slot: str) -> GraphSnapshot:
    """The captured graph, or the one after the last step."""
    if experiment.pipeline:
        return work.answer(Optimize(experiment.words), slot, OptimizeResult).graphs[-1]
    return work.answer(Explore(experiment.words), slot, ExploreResult).graph


def kept_one(catalogue: CatalogueResult) -> Experiment | None:
    """What is kept; None where nothing is, or where the address names what is not there, which is said."""
    try:
        return state.kept(catalogue)
    except RequestError as error:
        show.problem(show.as_problem(error), title=show.WRONG_ADDRESS)
        return None


def keeping(shown: Experiment, kept: Experiment | None) -> None:
    """Which graph is kept, and the buttons that keep another."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Keep this one" if kept is None else "Keep the other instead", icon=":material/push_pin:", on_click=state.keep, args=(shown.words,),
            type="primary" if kept is None else "secondary", disabled=kept == shown,
        )  # fmt: skip
        if kept is not None:
            st.button(
                "Change sides", icon=":material/swap_horiz:", on_click=change_sides, args=(kept.words, shown.words), disabled=kept == shown
            )
            st.button("Keep none", icon=":material/close:", on_click=state.keep, args=("",))
    if kept is None:
        st.info(f"Nothing is kept yet. This would be: `{_code(shown)}`. Keep it, then choose what to compare it with on the left.")
    elif kept == shown:
        st.info("Both are the same. Choose another model, mode or option on the left.")


def change_sides(kept: str, shown: str) -> None:
    other = parse(kept)
    state.keep(shown)
    st.session_state.pop(STEPS, None)
    state.change(model=other.model, mode=other.mode, options=other.options, device=other.device, pipeline=other.pipeline)


@st.fragment
def both(first: GraphSnapshot, second: GraphSnapshot, kept: Experiment, chosen: Experiment) -> None:
    """The picture of both, their totals, and the chosen node in each."""
    renamed = aligned(first, second)
    found = diff(first, renamed)
    show.diff(found)
    if kept != chosen and not (found.removed or found.added or found.changed or found.moved):
        st.info("The two graphs are equal, node by node.")
    left, right = st.columns(2)
    alike = state.title(kept) == state.title(chosen)
    left.caption(f"Kept: `{_code(kept)}`{_which(kept, alike)}")
    right.caption(f"Chosen: `{_code(chosen)}`{_which(chosen, alike)}")
    seen = graph_view([first, renamed], PANE, steps=["kept", "chosen"], diffs=[found], titles=("Kept", "Chosen"), height=620)
    show.legend(marks=True, sides=("the kept graph", "the chosen one"))
    picked = seen.get("selected")
    if picked:
        sides = [(title, graph) for title, graph in (("kept", first), ("chosen", renamed)) if picked["name"] in graph.by_name()]
        for column, (title, graph) in zip(st.columns(max(1, len(sides)), border=True), sides, strict=True):
            with column:
                st.caption(title.capitalize())
                nodes.details(graph, picked["name"], f"compare {title}", lambda name: None)
    show.totals_table([("kept", first.totals), ("chosen", second.totals)])
    st.caption("Nodes are counterparts when phase, module and operator agree, in the order of both graphs.")


def _which(experiment: Experiment, alike: bool) -> str:
    """Two versions of one file have one name: the first digits of what is in it tell them apart."""
    return f" (text {experiment.model.removeprefix('source/')[:6]})" if alike and experiment.model.startswith("source/") else ""


def _code(experiment: Experiment) -> str:
    """Words between backticks; a file's name may hold some."""
    return state.title(experiment).replace("`", "'")


main()
