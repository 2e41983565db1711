"""Memory

What the graph's memory is for, from when to when, and which lines of code own the peak. Drag the cursor: the graph goes to the node that
runs then, and marks what is held. Sizes are counted from shapes and lifetimes; nothing runs.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import streamlit as st

from graphs.memory import SAVED, Holding
from graphs.record import GraphSnapshot
from jobs.experiment import parse
from jobs.record import Optimize, OptimizeResult
from pages.ui import (
    choose,
    memory_allocator,
    memory_arena,
    memory_budget,
    memory_change,
    memory_owners,
    memory_saved,
    show,
    state,
    titles,
    work,
)
from pages.ui.graph_view import graph_view, wish
from pages.ui.memory_sides import Side, Sizes, is_resident, side_of
from pages.ui.pipeline import chosen_step
from pages.ui.timeline import TONES, move_cursor, payload_of, timeline

PANE, CURSOR = "memory graph", "memory timeline"
SHOWN = 28  # lifetimes that get a bar
HEIGHT = 690
MARKED = 300  # nodes that the graph marks at once
AT, NODE, SECTION = "memory at", "memory node", "memory section"


class Views(NamedTuple):
    """What a section is given: the graph as captured and after the chosen step, and the words that lead to the latter."""

    captured: Side
    shown: Side
    step: int
    words: str


Section = Callable[[Views], None]


def main() -> None:
    show.opening(__doc__)
    with show.problems():
        catalogue = work.catalogue()
        experiment = state.experiment(catalogue)
        choose.experiment(catalogue, experiment)
        found = work.answer(Optimize(experiment.words), "optimize", OptimizeResult)
        show.nothing_to_count(found.report)
        page(found, work.words_of("optimize"), experiment.words)


@st.fragment
def page(found: OptimizeResult, words: str, address: str) -> None:
    """The choice of a graph and of sizes, the curves beside the graph, and one section below. `words` are of what was found: not those of the address,
    where the last good result stands in."""
    if address != state.current().words:
        st.rerun()
    step, sizes = controls(found)
    graph = found.graphs[step + 1]
    if graph.totals.nodes != len(graph.nodes):
        st.info("This graph is so large that it is shown collapsed, and the lifetimes of its tensors are not kept. Take fewer layers.")
        return
    views = Views(side_of(found.graphs[0], sizes), side_of(graph, sizes), step, parse(words).prefix(step + 1).words)
    tiles(views.shown)
    if not views.shown.memory.holdings:
        st.info("This graph allocates nothing: all that it gives out was there before.")
        return
    begin_at_the_peak(f"{views.words} {sizes}", views.shown)
    left, right = st.columns([1.15, 1], gap="small")
    with left:
        legend(views.shown)
        curves(views.shown)
    with right:
        picture(views.shown)
    memory_saved.panel(views.shown, st.session_state[NODE], go_to)
    sections(views)


# ---------------------------------------------------------------- what is shown


def controls(found: OptimizeResult) -> tuple[int, Sizes]:
    """Which graph, and whose sizes; −1 is the graph as captured."""
    names = ["as captured", *(f"after {title}" for title in titles.numbered(step.words for step in found.steps))]
    st.session_state["memory step"] = chosen_step(len(found.steps))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        st.selectbox(
            "Graph", range(-1, len(found.steps)), key="memory step", format_func=lambda step: names[step + 1], on_change=take_step, width=420,
            help="The graph as captured, or after a step of the pipeline. Steps are added on the page Optimize.",
        )  # fmt: skip
        cuda = st.segmented_control(
            "Sizes", ["exact bytes", "CUDA caching allocator"], key="memory sizes", default="exact bytes", required=True,
            help="PyTorch's allocator on CUDA gives whole blocks of 512 bytes, sometimes more than was asked; what it would do is predicted by its rules.",
        )  # fmt: skip
        resident = st.toggle(
            "with parameters and inputs", key="memory resident",
            help="Parameters, buffers, inputs and the optimizer's state are there before the graph runs; the peak on other pages leaves them out.",
        )  # fmt: skip
    return chosen_step(len(found.steps)), Sizes(cuda == "CUDA caching allocator", resident)


def take_step() -> None:
    st.session_state["step"] = st.session_state["memory step"]


def tiles(side: Side) -> None:
    """The peak and what it is made of."""
    memory, at = side.memory, side.memory.peak_position
    saved = sum(one.bytes for one in memory.alive(at) if one.role == SAVED)
    share = f" ({saved / memory.peak:.0%})" if memory.peak and saved else ""
    run = side.run
    rows = [
        (f"Peak memory · {side.word}", show.size(memory.peak), f"Held while `{side.graph.nodes[at].name}` runs, node {at + 1:,}."),
        (f"Saved at peak · {side.word}", show.size(saved) + share, "The part of the peak that the forward pass made and backward still reads."),
        ("Resident · counted", show.size(side.before), "Parameters, buffers, inputs and the optimizer's state, there before the graph runs."),
        ("Allocated · predicted", show.size(run.allocated_peak), "By CUDA's caching allocator: most bytes in blocks that are in use."),
        ("Reserved · predicted", show.size(run.reserved_peak), "By CUDA's caching allocator: most bytes in segments that it holds."),
    ]  # fmt: skip
    for column, (title, value, meaning) in zip(st.columns(len(rows)), rows, strict=True):
        column.metric(title, value, border=True, help=meaning)


def legend(side: Side) -> None:
    """The roles that occur, with what each holds at the peak."""
    held: dict[str, int] = {}
    for one in side.memory.alive(side.memory.peak_position):
        held[one.role] = held.get(one.role, 0) + one.bytes
    roles = [role for role in TONES if any(one.role == role for one in side.memory.holdings)]
    swatch = "display:inline-block;width:11px;height:11px;border-radius:3px;vertical-align:-1px;margin-right:4px;background:"
    entries = [
        f'<span style="white-space:nowrap"><i style="{swatch}{TONES[role]}"></i>{role} {show.size(held.get(role, 0))}</span>'
        for role in roles
    ]
    st.html(
        f'<div style="font-size:12.5px;display:flex;flex-wrap:wrap;gap:2px 14px;min-height:3.2em">{"".join(entries)}'
        f'<span style="opacity:.65">at the peak, {side.word}</span></div>'
    )


def curves(side: Side) -> None:
    """Memory over time, and below it the lifetimes of the largest tensors, under one cursor."""
    payload = payload_of(side.graph.nodes, side.memory, SHOWN, side.word)
    timeline(payload, CURSOR, HEIGHT - 52, on_move=lambda: take_move(side.graph))
    chosen = side.holding(st.session_state[NODE])
    move_cursor(CURSOR, payload["digest"], st.session_state.get("memory cursor turn", 0), st.session_state[AT], chosen)
    drawn, all_ = len(payload["drawn"]), len(side.graph.nodes)
    thinned = f" Of {all_:,} positions {drawn:,} are drawn: of every stretch the one that holds most." if drawn < all_ else ""
    st.caption(
        f"Bars: the {min(SHOWN, len(side.memory.holdings))} largest of {show.plural(len(side.memory.holdings), 'tensor')}, from the node that makes it "
        f"to its last reader; pale ones are not held at the cursor. Drag, or use the arrow keys; **p** goes to the peak.{thinned}"
    )


def picture(side: Side) -> None:
    """The graph; it marks what is held at the cursor."""
    held = side.memory.alive(st.session_state[AT])
    names = [one.name for one in held if not is_resident(one)][:MARKED]
    seen = graph_view([side.graph], PANE, height=HEIGHT, on_select=lambda: take_node(side.graph))
    wish(PANE, seen["digest"], st.session_state.get("memory graph turn", 0), st.session_state.get("memory focus", ""), chosen=names)
    at = side.graph.nodes[st.session_state[AT]].name
    more = f" (the {MARKED} largest are marked)" if len(held) > MARKED else ""
    st.caption(
        f"At the cursor `{at}` runs, and :violet[**marked nodes**] hold {show.size(sum(one.bytes for one in held))} ({side.word}) in "
        f"{show.plural(len(held), 'tensor')}{more}. Click a node: the cursor goes to it."
    )


# ---------------------------------------------------------------- the cursor


def begin_at_the_peak(key: str, side: Side) -> None:
    """Another graph, or other sizes: the cursor begins at the peak."""
    if st.session_state.get("memory of") != key:
        st.session_state["memory of"] = key
        st.session_state.update({AT: side.memory.peak_position, NODE: first_choice(side).name, "memory focus": ""})


def first_choice(side: Side) -> Holding:
    """What is explained before the reader chooses: the largest tensor that is saved for backward, at the peak if there is one."""
    at_peak = side.memory.alive(side.memory.peak_position)
    everything = sorted(side.memory.holdings, key=lambda one: -one.bytes)
    return next((one for one in (*at_peak, *everything) if one.role == SAVED), at_peak[0])


def take_move(graph: GraphSnapshot) -> None:
    """The reader moved the cursor, or clicked a bar: the graph goes to the node that runs then, or to the bar's."""
    moved = st.session_state[CURSOR].get("moved")
    if not moved or not 0 <= moved["at"] < len(graph.nodes):
        return
    st.session_state[AT] = moved["at"]
    go_to(moved["name"] or graph.nodes[moved["at"]].name)


def take_node(graph: GraphSnapshot) -> None:
    """The reader clicked a node in the graph: the cursor goes there. What the page itself made the graph select moves nothing."""
    clicked: Mapping[str, str] | None = st.session_state[PANE].get("selected")
    if not clicked or clicked["name"] == st.session_state.get("memory focus"):
        return
    at = next((at for at, node in enumerate(graph.nodes) if node.name == clicked["name"]), None)
    if at is not None:
        st.session_state.update({AT: at, NODE: clicked["name"], "memory focus": ""})
        st.session_state["memory cursor turn"] = st.session_state.get("memory cursor turn", 0) + 1


def go_to(name: str) -> None:
    """The graph goes to a node, and its tensor's bar is marked; the cursor stays."""
    st.session_state.update({NODE: name, "memory focus": name})
    st.session_state["memory graph turn"] = st.session_state.get("memory graph turn", 0) + 1


# ---------------------------------------------------------------- below


SECTIONS: dict[str, Section] = {
    "Budget": lambda views: memory_budget.panel(views.words, views.step),
    "Who owns the peak": lambda views: memory_owners.panel(views.shown, go_to),
    "Held at the cursor": lambda views: memory_owners.at_cursor(views.shown, st.session_state[AT], go_to),
    "Before and after": lambda views: memory_change.panel(views.captured, views.shown, views.step),
    "CUDA's allocator": lambda views: memory_allocator.panel(views.shown),
    "Arena": lambda views: memory_arena.panel(views.shown, views.words),
}


def sections(views: Views) -> None:
    """One section at a time, since some take a while."""
    chosen = st.segmented_control("Look at", list(SECTIONS), key=SECTION, default="Who owns the peak", required=True)
    SECTIONS[chosen or "Who owns the peak"](views)


main()
