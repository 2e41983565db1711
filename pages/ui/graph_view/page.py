"""The whole session as one HTML file: picture, steps and numbers, without network, for a lecture or an archive."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
STATIC = HERE.parents[2] / "static" / "graph"
IMPORT = re.compile(r"import\(`\./([\w.]+)\$\{[^}]*\}`\)")
SAFE = "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src blob: data:; connect-src blob:"

LOOK = """:root { --st-text-color: #1d2430; --st-background-color: #ffffff; --st-primary-color: #2f5fa8; --st-blue-color: #2f5fa8; --st-green-color: #2b7a4b;
  --st-red-color: #b3392f; --st-orange-color: #b06a12; --st-border-color: #d9dde4; --st-font: system-ui, sans-serif; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --st-text-color: #e4e8ee; --st-background-color: #14181f; --st-primary-color: #6f9fe0;
  --st-blue-color: #6f9fe0; --st-green-color: #6abf8b; --st-red-color: #e77a70; --st-orange-color: #dfa154; --st-border-color: #343c48; } }
"""
LOADER = """const read = (id) => JSON.parse(document.getElementById(id).textContent);
globalThis.fxscope = {};
for (const [name, text] of Object.entries(read("modules"))) fxscope[name] = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
"""
EXPLAIN = """/** What the chosen node of a view is, in lines. */
function explained(view, chosen) {
  const { model } = view.session;
  const index = chosen ? model.byName.get(chosen.name).find((one) => model.alive(one, view.session.graphOf(chosen.side))) : undefined;
  const lines = index === undefined ? ["Click a node: it is explained here."] : [
    `${model.name[index]}   ${model.target[index]}`, `${model.dtype[index]} ${model.shape[index]}   ${model.role[index]}   module ${model.module[index] || "the model itself"}`,
    model.source[index], Object.entries(model.values).filter(([, all]) => all[index] !== null).map(([name, all]) => `${name} ${Number(all[index].toPrecision(4)).toLocaleString("en")}`).join("   ")];
  return lines.join("\\n");
}
"""

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="SAFE"><title>TITLE</title>
<style>
LOOK
body { margin: 0; padding: 14px 18px; font: 14px var(--st-font); color: var(--st-text-color); background: var(--st-background-color); }
h1 { font-size: 19px; margin: 0 0 4px; } code { overflow-wrap: anywhere; } table { border-collapse: collapse; margin: 10px 0; }
th, td { border: 1px solid var(--st-border-color); padding: 4px 9px; text-align: left; font-variant-numeric: tabular-nums; }
.graph-view { height: calc(100vh - 190px) !important; min-height: 480px; } section { max-width: 110ch; } h2 { font-size: 16px; margin: 18px 0 4px; } summary { cursor: pointer; } ul { margin: 4px 0 8px; overflow-wrap: anywhere; } #details { margin: 8px 0; min-height: 3em; white-space: pre-wrap; }
CSS
</style></head><body>
<h1>TITLE</h1><code>WORDS</code>
TABLE
<div class="graph-view"></div><div id="details">Click a node: it is explained here.</div>
STEPS
<script type="application/json" id="graph">PAYLOAD</script>
<script type="application/json" id="modules">MODULES</script>
<script type="module">
LOADER
const { View } = await import(fxscope["view.js"]);
const view = (globalThis.view = new View(document.querySelector(".graph-view"), { css: document.querySelector("style").textContent, report: explain }));
await view.load(read("graph"));
function explain(what, chosen) {
  if (what === "selected") document.getElementById("details").textContent = explained(view, chosen);
}
EXPLAIN
</script></body></html>
"""


ELSEWHERE = ("component.js", "layout_worker.js", "kernel.js", "tokens.js")  # modules that an exported picture does without


@dataclass(frozen=True)
class Told:
    """A step in words: its title, sentences, and lists to open, by their heading."""

    title: str
    lines: Sequence[str]
    lists: Mapping[str, Sequence[str]]


def page(payload: Mapping[str, Any], title: str, words: str, table: Sequence[Sequence[str]], steps: Sequence[Told] = ()) -> str:
    """A self-contained page.

    Args:
        payload: of the graph view, with its digest.
        words: the experiment.
        table: rows of text about the steps, the first one the head.
        steps: what to say of each below the picture.
    """
    parts = {
        "SAFE": SAFE,
        "LOOK": LOOK,
        "LOADER": LOADER,
        "EXPLAIN": EXPLAIN,
        "TITLE": html.escape(title),
        "WORDS": html.escape(words),
        "CSS": (HERE / "graph_view.css").read_text(),
        "TABLE": _table(table),
        "STEPS": "".join(map(_step, steps)),
        "PAYLOAD": embedded(payload),
        "MODULES": embedded(modules()),
    }
    return filled(TEMPLATE, parts)


def filled(template: str, parts: Mapping[str, str]) -> str:
    """The template with its words replaced, all at once: what is put in is not looked at again."""
    return re.sub("|".join(parts), lambda found: parts[found[0]], template)


def modules() -> dict[str, str]:
    """Every module of the picture, its imports pointed at the page's own copies."""
    texts = {path.name: path.read_text() for path in sorted(STATIC.glob("*.js")) if path.name not in ELSEWHERE}
    return {name: IMPORT.sub(r'import(globalThis.fxscope["\1"])', text) for name, text in texts.items()}


def embedded(content: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(content, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _step(step: Told) -> str:
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in step.lines)
    lists = "".join(
        f"<details><summary>{html.escape(head)}</summary><ul>{''.join(f'<li>{html.escape(row)}</li>' for row in rows)}</ul></details>"
        for head, rows in step.lists.items()
    )
    return f"<section><h2>{html.escape(step.title)}</h2>{lines}{lists}</section>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = ["<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body]
    return f"<table>{''.join(lines)}</table>"
