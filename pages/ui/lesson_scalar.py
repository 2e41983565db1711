"""A formula in a lesson: its graph with values, tangents and adjoints, and the backward graph as it grows round by round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd
import streamlit as st

from lessons.formula import Worked
from lessons.scalar import Gradient, Graph
from pages.ui import lesson_place, show, state
from pages.ui.lesson_place import Place

TOLD_LATER = "The numbers appear once you have predicted."


class Tones(NamedTuple):
    """Colours of a drawing: text, and line and fill of the formula, its gradient, and the gradient of that."""

    text: str
    groups: tuple[tuple[str, str], ...]
    now: str


LIGHT = Tones("#1f2933", (("#3b6ea5", "#e8f0f8"), ("#b3372f", "#fbeae8"), ("#7b4fa3", "#f2eaf8")), "#ffd54a")
DARK = Tones("#f0f2f5", (("#7fb0e6", "#1d2f42"), ("#ef8a80", "#43211f"), ("#c39be6", "#33233f")), "#8a6d00")


def choose_formula(place: Place, own: str) -> None:
    """The formula that the screen speaks of; the reader may type another."""
    st.text_input(
        "Formula and point", state.widget("lesson formula", place.formula or own), key="lesson formula", on_change=_take_formula, args=(own,),
        help="Type any other: + - * / **, numbers, names, and ln, exp, sin, cos, tanh, sqrt; then `at` and a number for each name. Empty: the lesson's own.",
    )  # fmt: skip


def _take_formula(own: str) -> None:
    typed = st.session_state["lesson formula"]
    lesson_place.take_formula("" if typed.strip() == own else typed)


def picture(kind: str, worked: Worked, key: str, told: bool) -> None:
    """What a screen draws of its formula; numbers only once the answer was told, for they would tell it."""
    if not told:
        st.graphviz_chart(dot(worked.graph, range(len(worked.graph.nodes)), {}, tones()), width="content")
        st.caption(TOLD_LATER)
    elif kind == "reverse":
        _reverse(worked, key)
    elif kind == "again":
        _again(worked)
    else:
        _forward(worked, key, with_tangents=kind == "forward")


def tones() -> Tones:
    """Of the reader's theme."""
    return DARK if st.context.theme.type == "dark" else LIGHT


# ---------------------------------------------------------------- forward


def _forward(worked: Worked, key: str, with_tangents: bool) -> None:
    seed = worked.first
    if with_tangents:
        seed = st.segmented_control("Derivative with respect to", list(worked.point), default=seed, required=True, key=f"{key} seed")
    found = worked.tangents(str(seed))
    lines = {at: [short(value)] for at, value in enumerate(worked.values)}
    if with_tangents:
        for at, tangent in enumerate(found):
            lines[at].append(f"tangent {short(tangent)}")
    st.graphviz_chart(dot(worked.graph, range(len(worked.graph.nodes)), lines, tones()), width="content")
    rows = [
        {"node": node.name, "is": worked.graph.formula(at), "value": short(worked.values[at])} for at, node in enumerate(worked.graph.nodes)
    ]
    if with_tangents:
        rows = [row | {f"tangent for {seed}": short(tangent)} for row, tangent in zip(rows, found, strict=True)]
    _table(rows)


# ---------------------------------------------------------------- reverse, round by round


def _reverse(worked: Worked, key: str) -> None:
    rounds = worked.reverse.rounds
    name, done = _name(worked, key), _done(worked, key)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "One round back", icon=":material/undo:", disabled=done == 0, on_click=_to_round, args=(name, done - 1), key=f"{key} back"
        )
        st.button(
            "Next round", icon=":material/play_arrow:", type="primary", disabled=done == len(rounds), on_click=_to_round, args=(name, done + 1),
            key=f"{key} next", shortcut="Alt+N",
        )  # fmt: skip
        st.button(
            "All rounds",
            icon=":material/fast_forward:",
            disabled=done == len(rounds),
            on_click=_to_round,
            args=(name, len(rounds)),
            key=f"{key} all",
        )
        st.caption(f"{done} of {show.plural(len(rounds), 'round')}")
    st.markdown(round_in_words(worked, done))
    shown = range(rounds[done - 1].size if done else worked.reverse.start + 1)
    now = rounds[done - 1].node if done else None
    st.graphviz_chart(dot(worked.reverse.graph, shown, adjoint_lines(worked, done), tones(), now), width="content")


def collected(worked: Worked, key: str) -> None:
    """Which parts of its adjoint each node has collected after the rounds that were pressed."""
    st.caption("`node_to_grad`: the parts that each node has collected so far")
    widths = {name: st.column_config.TextColumn(width=width) for name, width in (("node", 50), ("parts", 280), ("adjoint", 70))}
    st.dataframe(pd.DataFrame(collected_rows(worked, _done(worked, key))), hide_index=True, row_height=27, column_config=widths)


def _name(worked: Worked, key: str) -> str:
    """Where the session keeps how many rounds of a formula were pressed."""
    return f"{key} round {worked.words}"


def _done(worked: Worked, key: str) -> int:
    return min(st.session_state.get(_name(worked, key), 0), len(worked.reverse.rounds))


def _to_round(name: str, done: int) -> None:
    st.session_state[name] = done


def adjoint_lines(worked: Worked, done: int) -> dict[int, list[str]]:
    """Under each node: its value, and of a node whose round has passed its adjoint."""
    values, reverse = worked.grown_values, worked.reverse
    lines = {at: [short(value)] for at, value in enumerate(values)}
    for one in reverse.rounds[:done]:
        lines[one.node].append(f"adjoint {short(values[one.adjoint])}")
    return lines


def collected_rows(worked: Worked, done: int) -> list[dict[str, str]]:
    """One row for each node of the formula, from the output backwards: its parts so far, and their sum once it was made."""
    reverse, values = worked.reverse, worked.grown_values
    last = len(worked.graph.nodes)
    so_far = reverse.rounds[done - 1].node_to_grad if done else {worked.graph.output: (reverse.start,)}
    summed = {one.node: one.adjoint for one in reverse.rounds[:done]}
    return [
        {
            "node": worked.graph.nodes[at].name,
            "parts": ", ".join(f"{reverse.graph.nodes[one].name} = {short(values[one])}" for one in so_far.get(at, ())) or "none",
            "adjoint": short(values[summed[at]]) if at in summed else "",
        }
        for at in reversed(range(last))
    ]


def round_in_words(worked: Worked, done: int) -> str:
    """What the last round did, in a sentence or two."""
    graph, values = worked.reverse.graph, worked.grown_values
    output = graph.nodes[worked.graph.output].name
    if not done:
        return f"Before the loop: the output's adjoint is the derivative of `{output}` with respect to itself, **1**. Press *Next round*."
    one = worked.reverse.rounds[done - 1]
    name = graph.nodes[one.node].name
    parts = " + ".join(short(values[part]) for part in one.collected)
    said = f"Round {done}: node `{name}`. "
    said += f"Its {len(one.collected)} parts are summed: {parts} = **{short(values[one.adjoint])}**. " if len(one.collected) > 1 else ""
    said += "" if len(one.collected) > 1 else f"One part, so its adjoint is **{short(values[one.adjoint])}**. "
    sent = [f"`{graph.nodes[part].name} = {graph.formula(part)}` = {short(values[part])}" for _, part in one.sent]
    return said + (f"It leaves {' and '.join(sent)}." if sent else f"`{name}` is a variable: this is the derivative.")


# ---------------------------------------------------------------- twice


def _again(worked: Worked) -> None:
    again = worked.again
    lines = {at: [short(value)] for at, value in enumerate(worked.again_values)}
    st.graphviz_chart(dot(again.graph, useful(again), lines, tones()), width="content")
    colours = "Blue: the formula. Red: its gradient. Violet: the gradient of the derivative for"
    st.caption(f"{colours} `{worked.first}`. What no derivative needs is left out.")
    _table([{"derivative for": f"{worked.first}, then {name}", "is": short(worked.second(name))} for name in worked.point])


def useful(found: Gradient) -> list[int]:
    """Nodes that the formula, or one of its second derivatives, needs."""
    waiting = [*(found.adjoints[at] for at in found.graph.variables), found.graph.output]
    kept = {at for at, node in enumerate(found.graph.nodes) if node.grown == 0}
    while waiting:
        at = waiting.pop()
        if at not in kept:
            kept.add(at)
            waiting += found.graph.nodes[at].inputs
    return sorted(kept)


# ---------------------------------------------------------------- drawing


def dot(graph: Graph, shown: Sequence[int], lines: Mapping[int, Sequence[str]], colours: Tones, now: int | None = None) -> str:
    """The graph for Graphviz: one box for each node, with further lines below its formula; `now` is filled.

    Names and formulas come from the parser, so none can end a label.
    """
    drawn = set(shown)
    parts = [
        "digraph {", 'bgcolor="transparent"; rankdir=TB; nodesep=0.25; ranksep=0.3;',
        f'node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=12, height=0.3, margin="0.1,0.04", fontcolor="{colours.text}"];',
        "edge [arrowsize=0.6];",
    ]  # fmt: skip
    for at in shown:
        node = graph.nodes[at]
        line, fill = colours.groups[min(node.grown, 2)]
        text = node.name if node.op == "variable" and node.name == graph.formula(at) else f"{node.name} = {graph.formula(at)}"
        label = "\\n".join([text, *lines.get(at, ())])
        shape = ", penwidth=2.5" if at == graph.output else ""
        parts.append(f'n{at} [label="{label}", color="{line}", fillcolor="{colours.now if at == now else fill}"{shape}];')
        parts += [f'n{one} -> n{at} [color="{line}"{_faint(graph, one, at)}];' for one in node.inputs if one in drawn]
    return "\n".join([*parts, "}"])


def _faint(graph: Graph, source: int, target: int) -> str:
    """A value of the formula that the gradient reads is dashed, and does not pull nodes about."""
    return ", style=dashed, constraint=false" if graph.nodes[source].grown < graph.nodes[target].grown else ""


def short(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    st.dataframe(pd.DataFrame(list(rows)), hide_index=True, width="stretch")
