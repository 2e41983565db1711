"""Explore

The dataflow graph of a model as PyTorch runs it: every operator, where in the model it comes from, and what it costs.
Choose a model on the left, or bring a file of your own.
"""

from collections import Counter

import streamlit as st

from graphs.record import CaptureReport, GraphSnapshot
from jobs.record import Explore, ExploreResult
from pages.ui import charts, choose, nodes, own_file, save, seams, show, state, work
from pages.ui.graph_view import graph_view, wish

PANE = "explore graph"


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        brought = st.container()
        try:
            found = work.answer(Explore(experiment.prefix(0).words), "explore", ExploreResult)
        finally:  # the form is there for what could not be captured, too
            with brought:
                own_file.panel(experiment)
        show.standing(found.report)
        show.tiles(found.graph.totals, has_operators=found.report.rung < show.MODULE_TREE)
        graph_and_table(found.graph, found.report)


@st.fragment
def graph_and_table(graph: GraphSnapshot, report: CaptureReport) -> None:
    """The graph, the chosen node, and the table: a click in one shows in the others, without a rerun of the page."""
    picture, side = st.columns([2.7, 1])
    with picture:
        seen = graph_view([graph], PANE, height=620, look=state.look(), on_select=take_click)
        focus, query = st.session_state.get("focus", ""), st.session_state.get("query", "")
        wish(PANE, seen["digest"], st.session_state.get("turn", 0), focus, find=query)
        state.keep_look(seen.get("look") or "")
        show.legend()
    with side, st.container(height=620, border=True):
        nodes.details(graph, st.session_state.get("node", ""), "explore", take_choice)
    titles = ["Nodes", "Source lines", "Memory over time", "Graph breaks", "How it was captured", "Save"]
    table, lines, memory, breaks, capture, files = st.tabs(titles)
    with table:
        nodes.table(graph, "explore table", take_choice)
    with lines:
        nodes.lines(graph, "explore lines", take_line)
    with memory:
        if graph.totals.nodes == len(graph.nodes):
            st.plotly_chart(charts.memory(graph), key="memory", config={"displaylogo": False})
        st.caption("Counted from the lifetimes of tensors, in the order of execution; parameters, buffers and inputs are not included.")
    with capture:
        captured(report, graph)
    with files:
        save.buttons([graph], [], state.current().words)
    with breaks:  # last, since it ends the run while its work is on the way
        seams.tab(state.current().prefix(0).words, take_choice, take_query)


def captured(report: CaptureReport, graph: GraphSnapshot) -> None:
    """How the model became a graph, and what in it has no counted cost."""
    st.markdown(
        f"Captured by **{report.method}** in {report.seconds:.1f} s: {report.nodes:,} nodes, {report.parameters:,} parameters. {report.meaning}"
    )
    st.markdown(
        f"Counted: {report.with_source:.1%} of the operators know their line in the model's code, {report.with_module:.1%} their module, backward included."
    )
    for note in report.notes:
        st.caption(show.sentence(note))
    unpriced = Counter(node.target for node in graph.nodes if not node.cost.known)
    if unpriced:
        listed = ", ".join(f"`{target}` {count:,} ×" for target, count in unpriced.most_common())
        st.markdown(f"Operators without a rule for their cost, counted as unknown and not as free: {listed}.")
    if report.refused:
        st.markdown("Better ways that did not work, and why:")
        for reason in report.refused:
            st.markdown(f"- {show.sentence(reason)}")


def take_click() -> None:
    chosen = st.session_state[PANE].get("selected")
    st.session_state["node"] = chosen["name"] if chosen else ""


def take_choice(name: str) -> None:
    """A node chosen outside the graph: the graph goes there."""
    st.session_state["node"] = st.session_state["focus"] = name
    st.session_state["query"] = ""
    st.session_state["turn"] = st.session_state.get("turn", 0) + 1


def take_line(place: str) -> None:
    """A line of code: the graph lights what it became."""
    take_query(f"source:{place}")


def take_query(query: str) -> None:
    """What the graph is to find and light."""
    st.session_state["query"] = query
    st.session_state["turn"] = st.session_state.get("turn", 0) + 1


main()
