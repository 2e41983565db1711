"""Memory over time and lifetimes under one cursor: Python's face of static/memory/timeline.js.

The curves travel once, the cursor in a mount of its own; where the reader drags it comes back as state and is never echoed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from streamlit.components import v2

from graphs.memory import Holding, Memory, by_role, over_time
from graphs.record import NodeRecord
from pages.ui import show

HERE = Path(__file__).parent
MODULE = HERE.parents[2] / "static" / "memory" / "timeline.js"
LOADER = """
export default function (component) {
  const place = new URL("app/static/memory/timeline.js?v=VERSION", document.baseURI);
  import(place).then((module) => module.ENTRY(component));
}
"""
MOST_POINTS = 1500

# Middle tones that hold on a light and on a dark page; what is there before is grey.
TONES = {
    "parameters": "#8b94a3", "buffers and constants": "#a9b0bb", "inputs": "#6d7685", "optimizer state before": "#9b9284",
    "saved for backward": "#cf8430", "gradients of parameters": "#8a5a9e", "new optimizer state": "#4f9aa0", "new parameters": "#7d6ad0",
    "outputs": "#c9574c", "temporary, forward": "#4b82cf", "temporary, backward": "#b993cc", "temporary, update": "#3d9463",
}  # fmt: skip


def timeline(payload: Mapping[str, Any], pane: str, height: int, on_move: Callable[[], None]) -> None:
    """Draws what `payload_of` makes. `on_move` is called when the reader moved the cursor or clicked a bar; what he did is in
    `st.session_state[pane]["moved"]`: {at, name, count, of}, with the name of the bar or none."""
    _component("show")(key=pane, data={**payload, "pane": pane}, height=height, default={"moved": None}, on_moved_change=on_move)


def move_cursor(pane: str, digest: str, turn: int, at: int, bar: Holding | None) -> None:
    """Puts the cursor of the timeline with that digest to a position, once for every new `turn`, and marks the bar of one tensor."""
    data = {"pane": pane, "of": digest, "turn": turn, "at": at, "bar": _bar(bar) if bar else None}
    _component("cursor")(key=f"{pane}-cursor", data=data, height=1)


def payload_of(nodes: Sequence[NodeRecord], memory: Memory, shown: int, word: str = "counted") -> dict[str, Any]:
    """What the browser gets, with its digest.

    Args:
        shown: how many of the largest tensors get a bar; the others are summed.
        word: what the numbers are.
    """
    drawn = drawn_positions(memory.at)
    largest = sorted(memory.holdings, key=lambda one: (one.start - one.end - 1, one.start))
    largest = sorted(largest, key=lambda one: -one.bytes)
    bars, others = sorted(largest[:shown], key=lambda one: (one.start, -one.end, one.name)), largest[shown:]
    peak_name = nodes[memory.peak_position].name if memory.at else ""
    payload = {
        "count": len(nodes),
        "names": [node.name for node in nodes],
        "at": memory.at,
        "drawn": drawn,
        "layers": [{"role": role, "tone": TONES[role], "values": [values[at] for at in drawn]} for role, values in by_role(memory).items()],
        "phases": phases(nodes),
        "peak": memory.peak,
        "peakAt": memory.peak_position,
        "peakLabel": f"peak {show.size(memory.peak)} at {peak_name}",
        "bars": [_bar(one) for one in bars],
        "rest": _rest(others, len(nodes), drawn),
        "word": word,
    }
    return {**payload, "digest": hashlib.sha256(msgspec.json.encode(payload)).hexdigest()[:20]}


def drawn_positions(at: Sequence[int]) -> list[int]:
    """All positions, or of every stretch of a long graph the one that holds most, so that no peak is lost."""
    if len(at) <= MOST_POINTS:
        return list(range(len(at)))
    edges = [len(at) * number // MOST_POINTS for number in range(MOST_POINTS + 1)]
    return [max(range(start, end), key=at.__getitem__) for start, end in zip(edges, edges[1:], strict=False)]


def phases(nodes: Sequence[NodeRecord]) -> list[tuple[int, int, str]]:
    """(first position, last position, phase) of every stretch; inputs stand with what follows."""
    runs = [(at, node.phase) for at, node in enumerate(nodes) if node.op == "call_function"]
    groups = [list(group) for _, group in groupby(runs, key=lambda run: run[1])]
    return [(group[0][0], group[-1][0], group[0][1]) for group in groups]


def _bar(one: Holding) -> dict[str, Any]:
    return {"name": one.name, "start": one.start, "end": one.end, "size": show.size(one.bytes), "role": one.role, "tone": TONES[one.role]}


def _rest(others: Sequence[Holding], count: int, drawn: Sequence[int]) -> dict[str, Any] | None:
    if not others:
        return None
    at = over_time(others, count)
    label = f"the other {len(others):,}, all smaller, summed: {show.size(max(at))} at most"
    return {"values": [at[position] for position in drawn], "label": label}


@functools.cache
def _component(entry: str) -> Callable[..., Any]:
    html = '<div class="timeline"></div>' if entry == "show" else "<span></span>"
    version = hashlib.sha256(MODULE.read_bytes()).hexdigest()[:12]
    js = LOADER.replace("VERSION", version).replace("ENTRY", entry)
    return v2.component(f"timeline-{entry}", html=html, css=(HERE / "timeline.css").read_text() if entry == "show" else "", js=js)
