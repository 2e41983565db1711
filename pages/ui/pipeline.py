"""What a reader does to the pipeline. For callbacks: each writes the address, and the rerun that follows shows it, every step verified."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from jobs.experiment import StepWords, parse_pipeline
from pages.ui import state

FUSE_NODES, RECOMPUTE_NODES = "fuse-nodes", "recompute-nodes"


def append(step: StepWords) -> None:
    pipeline = (*state.current().pipeline, step)
    state.change(pipeline=pipeline)
    take_step(len(pipeline) - 1)


def replace(index: int, step: StepWords) -> None:
    order = list(state.current().pipeline)
    order[index] = step
    state.change(pipeline=tuple(order))
    take_step(index)


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
    go_to("")


def take_step(index: int) -> None:
    st.session_state["step"] = index
    st.session_state.pop("places", None)
    go_to("")


def walk(by: int, count: int) -> None:
    """So many steps on, from the one that is chosen now."""
    take_step(min(count - 1, max(-1, chosen_step(count) + by)))


def take_walk(pane: str) -> None:
    """The reader walked to another step inside the picture. One who walked before the picture heard that it was sent elsewhere means it no more."""
    walk = st.session_state[pane].get("walk")
    if walk and walk["turn"] >= st.session_state.get("turn", 0):
        st.session_state["step"] = int(walk["step"]) - 1


def chosen_step(count: int) -> int:
    """The step whose before and after is shown: the one chosen, else the last; −1 is the graph as captured."""
    index = st.session_state.get("step", (state.look().get("step") or count) - 1)
    return index if -1 <= index < count else count - 1


def go_to(name: str) -> None:
    """The picture goes to a node."""
    st.session_state["focus"] = name
    st.session_state["turn"] = st.session_state.get("turn", 0) + 1


def act_on(optimization: str, nodes: Sequence[str]) -> None:
    """A new last step that acts on these nodes."""
    append(StepWords(optimization, (("nodes", ".".join(nodes)),)))
    st.session_state["chosen nodes"] = []


def keep_apart(index: int, producer: str, consumer: str) -> None:
    """Forbids a pair to the step of that number."""
    step = state.current().pipeline[index]
    pairs = [*filter(None, step.setting("apart").split("-")), f"{producer}.{consumer}"]
    replace(index, step.with_setting("apart", "-".join(dict.fromkeys(pairs))))


def let_together(index: int, producer: str, consumer: str) -> None:
    """Takes a forbidden pair back."""
    step = state.current().pipeline[index]
    kept = [pair for pair in step.setting("apart").split("-") if sorted(pair.split(".")) != sorted((producer, consumer))]
    replace(index, step.with_setting("apart", "-".join(kept)))


def take_apart(index: int, words: Sequence[str]) -> None:
    """Puts several steps in the place of one."""
    steps = state.current().pipeline
    parts = parse_pipeline(",".join(words))
    state.change(pipeline=(*steps[:index], *parts, *steps[index + 1 :]))
    take_step(index)
