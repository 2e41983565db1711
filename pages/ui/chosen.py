"""Nodes that the reader chose, one after another, to do something with all of them."""

from __future__ import annotations

from collections.abc import Collection

import streamlit as st

from graphs.record import GraphSnapshot
from pages.ui import pipeline, show

KEY = "chosen nodes"
ENOUGH = 2


def names() -> list[str]:
    return st.session_state.setdefault(KEY, [])


def toggle(name: str) -> None:
    """Takes a node among the chosen ones, or out of them. For callbacks."""
    st.session_state[KEY] = [one for one in names() if one != name] if name in names() else [*names(), name]


def clear() -> None:
    st.session_state[KEY] = []


def button(name: str, key: str) -> None:
    """Beside a node's details: takes it or lets it go, for those who have no Ctrl key at hand."""
    taken = name in names()
    text, icon = ("Take out of the chosen nodes", "remove") if taken else ("Add to the chosen nodes", "add")
    st.button(text, key=f"choose {key}", icon=f":material/{icon}:", on_click=toggle, args=(name,))


def bar(last: GraphSnapshot, known: Collection[str], trains: bool) -> None:
    """The chosen nodes, each with a way out, and what can be done with them.

    Args:
        last: the graph at the end of the pipeline, where a new step acts.
        known: names of the optimizations that there are.
        trains: does the graph have a backward, for which something could be recomputed?
    """
    if not names():
        return
    gone = [name for name in names() if name not in last.by_name()]
    with st.container(border=True, gap="xsmall"):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            st.markdown(f"**{show.plural(len(names()), 'chosen node')}**")
            for name in names():
                st.button(
                    f"`{name}`",
                    key=f"unchoose {name}",
                    icon=":material/close:",
                    type="tertiary",
                    on_click=toggle,
                    args=(name,),
                    help="Take out",
                )
            st.button(
                "Fuse these nodes", key="fuse chosen", type="primary", icon=":material/join_inner:", on_click=pipeline.act_on,
                args=(pipeline.FUSE_NODES, tuple(names())), disabled=pipeline.FUSE_NODES not in known or len(names()) < ENOUGH or bool(gone),
                help="Adds a step that makes one kernel of them; its launches are counted from the code, and its answers verified.",
            )  # fmt: skip
            if trains:
                st.button(
                    "Recompute them", key="recompute chosen", icon=":material/replay:", on_click=pipeline.act_on,
                    args=(pipeline.RECOMPUTE_NODES, tuple(names())), disabled=pipeline.RECOMPUTE_NODES not in known or bool(gone),
                    help="Adds a step that forgets them after the forward pass and computes them again for backward; its peak is counted, and its answers verified.",
                )  # fmt: skip
            st.button("Clear", key="clear chosen", on_click=clear)
        if gone:
            listed = ", ".join(f"`{name}`" for name in gone)
            st.caption(f"Not in the graph at the end of the pipeline, where the step would act: {listed}.")
        elif len(names()) < ENOUGH:
            st.caption("To fuse, one more at least: Ctrl+click a node in the picture, or select it and press c.")
