"""Compare

Two graphs side by side, whatever they come from: another mode, another size, another model, a graph saved before. Keep one, choose the
other on the left.
"""

import streamlit as st

from graphs.align import aligned
from graphs.diff import diff
from graphs.errors import RequestError
from graphs.record import GraphSnapshot
from jobs.experiment import Experiment, parse
from jobs.record import CatalogueResult, Explore, ExploreResult
from pages.ui import choose, nodes, show, state, work
from pages.ui.graph_view import graph_view

PANE = "compared graphs"


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        kept = kept_one(catalogue)
        keeping(experiment, kept)
        if kept is None:
            raise show.NothingYet
        first = work.answer(Explore(kept.words), "compare first", ExploreResult)
        second = work.answer(Explore(experiment.prefix(0).words), "compare second", ExploreResult)
        both(first.graph, second.graph, kept, experiment.prefix(0))


def kept_one(catalogue: CatalogueResult) -> Experiment | None:
    """What is kept; None where nothing is, or where the address names what is not there, which is said."""
    try:
        return state.kept(catalogue)
    except RequestError as error:
        show.problem(show.as_problem(error), title=show.WRONG_ADDRESS)
        return None


def keeping(shown: Experiment, kept: Experiment | None) -> None:
    """Which graph is kept, and the buttons that keep another."""
    here = shown.prefix(0)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Keep this one" if kept is None else "Keep the other instead", icon=":material/push_pin:", on_click=state.keep, args=(here.words,),
            type="primary" if kept is None else "secondary", disabled=kept == here,
        )  # fmt: skip
        if kept is not None:
            st.button("Change sides", icon=":material/swap_horiz:", on_click=change_sides, args=(kept.words,), disabled=kept == here)
            st.button("Keep none", icon=":material/close:", on_click=state.keep, args=("",))
    if kept is None:
        st.info(f"Nothing is kept yet. This would be: `{_code(here)}`. Keep it, then choose what to compare it with on the left.")
    elif kept == here:
        st.info("Both are the same. Choose another model, mode or option on the left.")


def change_sides(kept: str) -> None:
    now = state.current()
    other = parse(kept)
    state.keep(now.prefix(0).words)
    state.change(model=other.model, mode=other.mode, options=other.options, device=other.device, pipeline=())


@st.fragment
def both(first: GraphSnapshot, second: GraphSnapshot, kept: Experiment, chosen: Experiment) -> None:
    """The picture of both, their totals, and the chosen node in each."""
    renamed = aligned(first, second)
    found = diff(first, renamed)
    show.diff(found)
    left, right = st.columns(2)
    left.caption(f"Kept: `{_code(kept)}`")
    right.caption(f"Chosen: `{_code(chosen)}`")
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


def _code(experiment: Experiment) -> str:
    """Words between backticks; a file's name may hold some."""
    return state.title(experiment).replace("`", "'")


main()
