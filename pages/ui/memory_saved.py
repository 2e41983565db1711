"""One tensor in words: what it is, how long it is held, and why it is saved for backward."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import streamlit as st

from graphs.memory import SAVED, Holding
from graphs.saved import Saved, why_saved
from pages.ui import show
from pages.ui.memory_sides import Side, is_resident
from pages.ui.titles import node_title

SHOWN = 5


def panel(side: Side, name: str, choose: Callable[[str], None]) -> None:
    """The chosen node's storage. Where it is saved for backward: who reads it, until when, and what recomputing it would cost."""
    held = side.holding(name)
    with st.container(border=True, gap="small"):
        if held is None:
            st.markdown(f"**`{name}`** holds no memory of its own that is counted here.")
            _nothing_saved(side)
            return
        st.markdown(what_it_is(side, held, name))
        reason = why_saved(side.graph, side.memory, name)
        if reason is None:
            _nothing_saved(side)
            return
        st.markdown(f"**Why was this saved for backward?** {why(reason)}")
        st.markdown(f"**And if it were not?** {instead(reason)}")
        with st.container(horizontal=True, gap="small", vertical_alignment="center"):
            st.caption("Go to", width="content")
            for one in (reason.name, *reason.readers[:SHOWN]):
                st.button(f"`{one}`", key=f"saved {one}", type="tertiary", on_click=choose, args=(one,))


def what_it_is(side: Side, held: Holding, name: str) -> str:
    shows = f"`{name}` is a view of it. " if name != held.name else ""
    nodes = side.graph.nodes
    if is_resident(held):
        span = "there before the graph runs, and to its end"
    else:
        until = "to the end of the graph" if nodes[held.end].op == "output" else f"until `{nodes[held.end].name}` has run"
        span = f"held {until}, {held.end - held.start + 1:,} of {len(nodes):,} positions"
    at_peak = held.start <= side.memory.peak_position <= held.end
    share = f"; {held.bytes / side.memory.peak:.1%} of the peak" if at_peak and side.memory.peak else "; not there at the peak"
    return (
        f"**`{node_title(side.graph.by_name()[held.name])}`** {show.size(held.bytes)} ({side.word}) · {held.role} · {span}{share}. {shows}"
    )


def why(reason: Saved) -> str:
    """Who reads it, and until when."""
    last = f"After `{reason.until}` it is free." if reason.until != "output" else "It is held to the end."
    return f"{_listed(reason.readers)} {'reads' if len(reason.readers) == 1 else 'read'} it, or a view of it, in backward. {last}"


def instead(reason: Saved) -> str:
    """What it would cost to compute it again."""
    if reason.is_draw:
        return "It is a random draw, or made together with one: it has to be kept, for a second draw would differ."
    parts = [f"{show.number(reason.flops, 'FLOP')} and {show.size(reason.bytes_moved)} moved (counted)"]
    if reason.unknown:
        parts.append(f"{show.plural(reason.unknown, 'node')} of unknown cost")
    text = (
        f"{_listed(reason.again)} would run again before backward, with what else is saved at hand: {', and '.join(parts)}, "
        f"for {show.size(reason.bytes)} that would be free meanwhile."
    )
    if reason.draws:
        text += f" The random draws that it comes from, {_listed(reason.draws)}, would have to be kept: {show.size(reason.drawn_bytes)}."
    return text


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return shown + (f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else "")


def _nothing_saved(side: Side) -> None:
    if not any(one.role == SAVED for one in side.memory.holdings):
        backward = any(node.phase == "backward" for node in side.graph.nodes)
        why = "backward reads nothing but inputs and outputs" if backward else "this graph has no backward pass; choose the mode *training*"
        st.caption(f"Nothing is saved for backward: {why}.")
    else:
        st.caption("It is not saved for backward. Choose a tensor in the colour of *saved for backward* to see why it is kept.")
