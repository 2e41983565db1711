"""The graph component: Python's face of static/graph_view.js.

What travels to the browser is the least that the picture needs: per node a name, what to write on it, where it belongs and what it reads.
Selection comes back as a node's name; it is never echoed in the data, so a click does not move the graph again.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
from streamlit.components import v2

from graphs.record import GraphSnapshot
from pages.ui.graph_view.drawing import MARKS, drawing

HERE = Path(__file__).parent
STATIC = HERE.parents[2] / "static"
LOADER = """
export default function (component) {
  const place = new URL("app/static/graph_view.js?v=VERSION", document.baseURI);
  import(place).then((module) => module.ENTRY(component));
}
"""

__all__ = ["MARKS", "focus_node", "graph_view"]


def graph_view(
    graph: GraphSnapshot,
    pane: str,
    marks: Mapping[str, str] | None = None,
    height: int = 600,
    on_select: Callable[[], None] = lambda: None,
) -> str:
    """Draws a graph and returns the name of the node that was clicked last in this pane, or nothing.

    Args:
        pane: tells several graphs on one page apart.
        marks: node -> added, removed or changed.
        on_select: called before the rerun that follows a click; the name is in `st.session_state[pane]["selected"]`.
    """
    data: dict[str, Any] = {"pane": pane, "height": height, **drawing(graph, marks or {})}
    data["digest"] = hashlib.sha1(msgspec.json.encode(data)).hexdigest()
    shown = _component("graph-view", "show")(key=pane, data=data, height=height, default={"selected": ""}, on_selected_change=on_select)
    return shown.get("selected") or ""


def focus_node(pane: str, name: str, turn: int) -> None:
    """Brings a node to the middle of a pane and selects it there. Each new wish has a new `turn`."""
    _component("graph-focus", "focus")(key=f"{pane}-focus", data={"pane": pane, "name": name, "turn": turn}, height=1)


@functools.cache
def _component(name: str, entry: str) -> Callable[..., Any]:
    html = '<div class="graph-view"></div>' if entry == "show" else "<span></span>"
    css = (HERE / "graph_view.css").read_text() if entry == "show" else ""
    return v2.component(name, html=html, css=css, js=LOADER.replace("VERSION", _version()).replace("ENTRY", entry))


def _version() -> str:
    """Changes whenever a module of the picture does, so that browsers do not keep an old one."""
    return hashlib.sha1(b"".join(path.read_bytes() for path in sorted(STATIC.glob("*.js")))).hexdigest()[:12]
