"""The graph component: Python's face of static/graph/component.js.

Three mounts make a picture. The graph travels alone, compressed, once: its message stays the same however often the page reruns, so that
Streamlit sends a reference. The view names the graph by its digest. A wish (show this node) has a mount of its own.
What a reader does comes back as state — the selected node, the walk to a step, the look — and is never echoed in the data, so a click moves nothing.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from streamlit.components import v2

from graphs.record import Diff, GraphSnapshot
from pages.ui.graph_view.drawing import picture

HERE = Path(__file__).parent
STATIC = HERE.parents[2] / "static" / "graph"
LOADER = """
export default function (component) {
  const place = new URL("app/static/graph/MODULE.js?v=VERSION", document.baseURI);
  import(place).then((module) => module.ENTRY(component));
}
"""
KEPT_PICTURES = 24

_pictures: OrderedDict[str, tuple[str, bytes]] = OrderedDict()


def graph_view(
    graphs: Sequence[GraphSnapshot],
    pane: str,
    steps: Sequence[str] = ("captured",),
    diffs: Sequence[Diff] = (),
    places: Sequence[str] = (),
    measured_ms: Mapping[str, float] | None = None,
    predicted_ms: Mapping[str, float] | None = None,
    height: int | str = 600,
    look: Mapping[str, Any] | None = None,
    titles: tuple[str, str] = ("Before", "After"),
    on_select: Callable[[], None] = lambda: None,
    on_walk: Callable[[], None] = lambda: None,
    on_pick: Callable[[], None] = lambda: None,
) -> Mapping[str, Any]:
    """Draws a graph, or the graphs of a pipeline with a step's before and after side by side.

    Returns what the reader did: `selected` ({name, side, step} or None), `look` (JSON for a link); and the picture's `digest`.

    Args:
        pane: tells several pictures on one page apart.
        places: nodes of the last graph to mark.
        height: pixels, or a length of CSS such as `calc(100vh - 10rem)`.
        measured_ms, predicted_ms: time of each node of the last graph, to colour by.
        look: where a link wants the picture to begin: step, open groups, camera, colour, selected node.
        titles: what the two sides are called.
        on_select, on_walk, on_pick: called before the rerun that follows a click, a walk to another step (`walk`: {step, turn}, the turn of the
            last wish that the picture knew of), or a node that is to be chosen beside others (`picked`: {name, count}); the state is in
            `st.session_state[pane]`.
    """
    digest, content = _picture(graphs, tuple(steps), diffs, tuple(places), measured_ms or {}, predicted_ms or {})
    data = {"pane": pane, "height": height, "digest": digest, "look": dict(look or {}), "titles": list(titles)}
    default = {"selected": None, "walk": None, "look": "", "picked": None}
    changes = {"on_picked_change": on_pick, "on_selected_change": on_select, "on_walk_change": on_walk, "on_look_change": lambda: None}
    taken = height if isinstance(height, int) else "content"
    state = _component("graph-view", "show")(key=pane, data=data, height=taken, default=default, **changes)
    _component("graph-data", "keep")(key=f"{pane}-unseen-data", data=content, height=1)
    current = digest in (state.get("look") or "")  # a look at an earlier picture says nothing about this one
    return {"selected": state.get("selected"), "look": state["look"] if current else "", "digest": digest}


def wish(pane: str, digest: str, turn: int, name: str = "", step: int | None = None, find: str = "", chosen: Sequence[str] = ()) -> None:
    """Asks the picture of that digest to go to a step, and to bring a node to the middle and select it, or to find what a query
    describes. Each new wish has a new `turn`. Nodes of the names in `chosen` are marked at any time."""
    data = {"pane": pane, "of": digest, "turn": turn, "name": name, "step": step, "find": find, "chosen": list(chosen)}
    _component("graph-wish", "wish")(key=f"{pane}-unseen-wish", data=data, height=1)


def _picture(
    graphs: Sequence[GraphSnapshot],
    steps: tuple[str, ...],
    diffs: Sequence[Diff],
    places: tuple[str, ...],
    measured_ms: Mapping[str, float],
    predicted_ms: Mapping[str, float],
) -> tuple[str, bytes]:
    """The digest and the compressed payload; computed once while the same records are shown."""
    key = repr(
        (
            [id(graph) for graph in graphs],
            [graph.totals for graph in graphs],
            steps,
            places,
            sum(measured_ms.values()),
            sum(predicted_ms.values()),
        )
    )
    if key not in _pictures:
        payload = payload_of(graphs, steps, diffs, places, measured_ms, predicted_ms)
        _pictures[key] = (payload["digest"], gzip.compress(msgspec.json.encode(payload), 6, mtime=0))
    _pictures.move_to_end(key)
    while len(_pictures) > KEPT_PICTURES:
        _pictures.popitem(last=False)
    return _pictures[key]


def payload_of(
    graphs: Sequence[GraphSnapshot],
    steps: Sequence[str] = ("captured",),
    diffs: Sequence[Diff] = (),
    places: Sequence[str] = (),
    measured_ms: Mapping[str, float] | None = None,
    predicted_ms: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """What the browser gets, with its digest."""
    payload = picture(graphs, steps, diffs, places, measured_ms, predicted_ms)
    return {**payload, "digest": hashlib.sha256(msgspec.json.encode(payload)).hexdigest()[:20]}


def kernel_view(data: Mapping[str, Any], pane: str, height: int) -> None:
    """Draws a kernel: the graph that it replaced beside its code; see `kernel` in static/graph/kernel.js."""
    _component("kernel-view", "kernel")(key=pane, data=data, height=height)


@functools.cache
def _component(name: str, entry: str) -> Callable[..., Any]:
    drawn = {"show": ("graph-view", ["graph_view.css"]), "kernel": ("kernel-view", ["graph_view.css", "kernel_view.css"])}
    kind, sheets = drawn.get(entry, ("", []))
    html = f'<div class="{kind}"></div>' if kind else "<span></span>"
    css = "\n".join((HERE / sheet).read_text() for sheet in sheets)
    module = "kernel" if entry == "kernel" else "component"
    return v2.component(
        name, html=html, css=css, js=LOADER.replace("MODULE", module).replace("VERSION", _version()).replace("ENTRY", entry)
    )


def _version() -> str:
    """Changes whenever a module of the picture does, so that browsers do not keep an old one."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(STATIC.glob("*.js")))).hexdigest()[:12]
