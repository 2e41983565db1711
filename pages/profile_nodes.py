"""Profile

Where the time and the memory of a run go, node by node, measured on this machine. Click a node, a row or a point: the graph and every chart
go to the same node. What was recorded on other machines can be looked at too: profiles of nodes, traces and memory snapshots.
"""

from collections.abc import Callable, Sequence

import streamlit as st

from graphs.record import GraphSnapshot
from jobs.experiment import Experiment, parse
from jobs.record import Optimize, OptimizeResult, Profile, ProfileResult
from jobs.recorded import Recording
from pages.ui import (
    choose,
    profile_charts,
    profile_groups,
    profile_memory,
    profile_predicted,
    profile_recording,
    profile_table,
    profile_time,
    profile_whole,
    recorded,
    show,
    state,
    this_machine,
    work,
)
from pages.ui.graph_view import graph_view, wish
from pages.ui.profile_side import MARKED, NO_LOGO, NODE, TURN, Side, go_to, go_to_all, side_of, take_point
from profiler.memory_snapshot import write_snapshot
from profiler.memory_track import events
from profiler.node_record import NodeProfile
from profiler.timeline import columns

SLOT, PANE, SECTION = "profile", "profiled graph", "profile section"
COMPARISON = "Before and after"
FILE, GRAPH = "A trace or snapshot", "This model"
HEIGHT = 500  # so that what is told below it stands on the same screen


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        request = Profile(experiment.words)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            what = look_at()
            known = recorded.choose(lambda one: bool(one.profiles)) if what == GRAPH else None
        if what == FILE:
            recording()
            return
        if known is not None:
            elsewhere(known, experiment)
            return
        ask(experiment, request)
        work.left_behind(request, SLOT)
        found = work.answer(Optimize(experiment.words), "optimize", OptimizeResult)
        show.nothing_to_run(found.report, "profiled")
        if not work.is_begun(request, SLOT):
            st.info("Not profiled yet. Press **Profile** above; it takes some seconds.", icon=":material/monitoring:")
            return
        measured = work.answer(request, SLOT, ProfileResult)
        theirs = work.graphs_of(SLOT, found)
        if theirs is None:
            st.info("Its graph is not there any more. Press **Profile** to measure once more.", icon=":material/monitoring:")
            return
        page(theirs.graphs, measured.profiles, work.words_of(SLOT), experiment.words)


@st.fragment
def recording() -> None:
    with show.problems():
        profile_recording.panel()


def look_at() -> str:
    """The model, or a file."""
    return st.segmented_control("Look at", [GRAPH, FILE], key="profile what", default=GRAPH, required=True, width="content")


def ask(experiment: Experiment, request: Profile) -> None:
    """The button that measures."""
    again = work.is_kept(request)
    label = "Profile again" if again else "Profile"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            label, type="primary", icon=":material/monitoring:", on_click=work.ask, args=(request, SLOT, again),
            disabled=not work.can_run(experiment.words),
        )  # fmt: skip
        st.caption(
            "Runs the captured graph"
            + (", and in turns with it the graph after the pipeline," if experiment.pipeline else "")
            + " for some seconds."
        )


def elsewhere(known: Recording, experiment: Experiment) -> None:
    """What was profiled on another machine, with the graphs that were captured there."""
    recorded.origin(known)
    entry = known.profile(experiment.words)
    if entry is None:
        st.markdown("Of this experiment no node was profiled there. Of these they were:")
    else:
        found = entry.opened()
        page(found.graphs, found.profiles, experiment.words, experiment.words, known)
        st.subheader("All profiles of this recording", anchor=False)
    recorded.profiles(known)


@st.fragment
def page(
    graphs: Sequence[GraphSnapshot], profiles: Sequence[NodeProfile], words: str, address: str, recorded_on: Recording | None = None
) -> None:
    """The head, one section, and beside it the graph.

    Args:
        words: the experiment that was profiled; not that of the address, where the last good result stands in.
        address: the experiment in the address when this was drawn.
    """
    if address != state.current().words:
        st.rerun()
    head = st.container()
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        section = st.segmented_control(
            "Section", list(SECTIONS), key=SECTION, default="Nodes", required=True, label_visibility="collapsed", width="content"
        )
        side = chosen_side(graphs, profiles, words, recorded_on, compares=section == COMPARISON)
    with head:
        profile_whole.tiles(side.profile, "recorded" if recorded_on else "measured")
    left, right = st.columns([1.25, 1], gap="small")
    with left:
        SECTIONS[section or "Nodes"](side)
    with right:
        picture(side)
        profile_table.details(side)
    profile_whole.footnote(side.profile)


def chosen_side(
    graphs: Sequence[GraphSnapshot], profiles: Sequence[NodeProfile], words: str, recorded_on: Recording | None, compares: bool = False
) -> Side:
    """The graph after the pipeline, or the captured one if the reader wants that and looks at one graph only."""
    experiment = parse(words)
    first = side_of(graphs[0], profiles[0], experiment.prefix(0).words, None, recorded_on)
    if len(profiles) < 2:
        return first
    titles = {0: "as captured", 1: f"after {show.plural(len(experiment.pipeline), 'step')}"}
    which = st.segmented_control(
        "Graph",
        [0, 1],
        key="profile graph",
        default=1,
        required=True,
        label_visibility="collapsed",
        width="content",
        format_func=lambda number: titles[number],
        disabled=compares,
        help="This section shows both." if compares else None,
    )
    return first if which == 0 and not compares else side_of(graphs[-1], profiles[-1], words, first, recorded_on)


def picture(side: Side) -> None:
    """The graph in colours of time; it goes where the reader goes."""
    measured_ms = {timing.name: timing.ms for timing in side.profile.nodes}
    seen = graph_view([side.graph], PANE, measured_ms=measured_ms, height=HEIGHT, look={"colour": "time"}, on_select=take_node)
    wish(PANE, seen["digest"], st.session_state.get(TURN, 0), side.chosen, chosen=st.session_state.get(MARKED, ()))


def take_node() -> None:
    """The reader clicked a node in the graph. What the page itself made the graph select moves nothing."""
    clicked = st.session_state[PANE].get("selected")
    if clicked and clicked["name"] != st.session_state.get(NODE):
        st.session_state.update({NODE: clicked["name"], MARKED: ()})


# ---------------------------------------------------------------- sections


def roofline(side: Side) -> None:
    known = side.recorded.ceilings if side.recorded else this_machine.kept(side.profile.device.kind)
    rates = (known.sheet.flops["float32"], known.sheet.bandwidth) if known else (None, None)
    figure = profile_charts.roofline(side.rows, side.chosen, *rates)
    st.plotly_chart(
        figure, key="profile roofline", on_select=lambda: take_point("profile roofline"), selection_mode="points", config=NO_LOGO
    )
    without = sum(1 for row in side.rows if not row.cost.flops)
    st.caption(
        "A larger point takes more of the run. Counted: all operations, a multiply-add is two; each operand crosses memory once, so what caches serve can lie above the ceiling. "
        f"{show.plural(without, 'node')} that only move or show data have no place here; the table has their bytes per second. "
        + ceiling_words(side.recorded, known is not None)
    )
    if not known and not side.recorded:
        st.page_link("pages/predict.py", label="Measure this machine's ceilings", icon=":material/speed:")


def ceiling_words(recorded_on: Recording | None, known: bool) -> str:
    """Where the line above the points comes from, or why there is none."""
    if recorded_on:
        missing = f"No ceiling is drawn: what {show.plain(recorded_on.title)} reaches was not recorded."
        return "The ceiling was measured there, in float32." if known else missing
    return "The ceiling was measured here, in float32." if known else "Once this machine's ceilings are measured they are drawn here."


def predicted(side: Side) -> None:
    if side.recorded is None:
        profile_predicted.panel(side)
    elif side.recorded.ceilings:
        profile_predicted.of_recording(side, side.recorded.ceilings)
    else:
        st.info(
            f"This profile is of {show.plain(side.recorded.title)}, which did not record what that device reaches. "
            "The page Predict says what the graph would take on every device of its table.",
            icon=":material/history:",
        )
        st.page_link("pages/predict.py", label="Go to Predict", icon=":material/speed:")


def timeline(side: Side) -> None:
    profile_time.panel(side.profile.timeline, "profile timeline", side.chosen, go_to, side.profile.label)
    st.caption(
        f"One run under torch.profiler, which takes {show.milliseconds(side.profile.profiled_ms)} for it (a run without: {show.milliseconds(side.profile.whole_ms)}); "
        "what the profiler adds to every operator is in these slices, and not in the tiles above."
    )
    profile_time.table(side.profile.timeline, "profile timeline", go_to_all)


def memory(side: Side) -> None:
    profile_memory.panel(side.profile.memory, "profile memory", go_to)
    st.download_button(
        "Memory snapshot", lambda: snapshot_of(side.profile), "memory.pickle", "application/octet-stream", icon=":material/download:", on_click="ignore",
        help="In the form of torch.cuda.memory._dump_snapshot: pytorch.org/memory_viz opens it.",
    )  # fmt: skip
    st.page_link("pages/memory.py", label="What the memory is for, and how to need less", icon=":material/memory:")


def snapshot_of(profile: NodeProfile) -> bytes:
    """The memory of the run as a snapshot; an event happens when its node begins in the recorded run."""
    found = columns(profile.timeline)
    begins = dict[str, int]()
    for node, start in zip(found.node.tolist(), found.start.tolist(), strict=True):
        if node >= 0:
            begins.setdefault(profile.timeline.nodes[node], start // 1000)
    names = [timing.name for timing in profile.nodes]
    return write_snapshot(profile.memory, [begins.get(names[at], 0) for at in events(profile.memory).at.tolist()], profile.device.torch)


SECTIONS: dict[str, Callable[[Side], None]] = {
    "Nodes": profile_table.panel,
    "Groups": profile_groups.panel,
    "Roofline": roofline,
    "Predicted": predicted,
    "Timeline": timeline,
    "Memory": memory,
    "Kernels": profile_table.kernels,
    COMPARISON: profile_groups.change,
}


main()
