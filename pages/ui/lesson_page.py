"""A lesson as one HTML file that opens without a server: text and numbers, questions to answer, and the graphs to look around in."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lessons.formula import Worked
from lessons.ledger import What as Amount
from lessons.lesson import Found, Lesson
from lessons.numbers import Numbers
from lessons.tiling import Product
from lessons.told import Told
from pages.ui import lesson_drawing as drawing
from pages.ui import show, thumbnail
from pages.ui.graph_view import page as whole
from pages.ui.graph_view import payload_of
from pages.ui.lesson_markdown import inline, rendered
from pages.ui.titles import numbered, step_title

MOST_OF_ONE, MOST_OF_ALL = 1_500_000, 4_000_000  # letters of graphs' payloads, so that a file stays below 5 MB
TOO_LARGE = "This graph has {:,} nodes, too many to look around in within a file; the app shows them all."
BARS = "Bars show the graph from its inputs (left) to its results: blue is forward, orange backward and update, green what steps have made; strong ones multiply matrices."
LEGEND = "Double click a group to open it; drag moves, the wheel zooms, ? shows the keys. Blue multiplies matrices; a dashed outline is a view, which moves nothing."
CODE_MOST = 400  # lines of generated code
SCRIPT, STYLE = (Path(__file__).parent / name for name in ("lesson_page.js", "lesson_page.css"))

TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="SAFE"><title>TITLE</title>
<style>
LOOK
CSS
STYLE
</style></head><body>
<header><h1>TITLE</h1><p>SUMMARY</p><p class="quiet">Saved from fxscope, on MODEL. Predict before you open an answer.</p>
<nav><ol>CONTENTS</ol></nav><p class="tools-of-page"><button type="button" id="open-all">Open all answers</button> <button type="button" id="print">Print</button></p></header>
<main>SCREENS</main>
<script type="application/json" id="graphs">PAYLOADS</script>
<script type="application/json" id="modules">MODULES</script>
<script type="module">
LOADER
EXPLAIN
SCRIPT
</script></body></html>
"""


class _Graphs:
    """Payloads of the graphs of a file, each once, as long as there is room."""

    def __init__(self) -> None:
        self.payloads: dict[str, Any] = {}
        self.room = MOST_OF_ALL

    def add(self, found: Found, steps: bool) -> str:
        """The digest; empty where the graph is too large for the file."""
        names = ["captured", *(step_title(step.words) for step in found.steps)]
        payload = payload_of(found.graphs, names, [step.diff for step in found.steps]) if steps else payload_of([found.after])
        digest = str(payload["digest"])
        if digest in self.payloads:
            return digest
        length = len(json.dumps(payload, separators=(",", ":")))
        if length > min(MOST_OF_ONE, self.room):
            return ""
        self.room -= length
        self.payloads[digest] = payload
        return digest


def lesson_page(lesson: Lesson, screens: Sequence[Told], on: str) -> str:
    """The whole file.

    Args:
        on: the model that the lesson speaks of, in words; empty for its own.
    """
    graphs = _Graphs()
    bodies = "".join(_screen(number, one, graphs) for number, one in enumerate(screens, 1))
    contents = "".join(f'<li><a href="#screen-{number}">{inline(one.screen.title)}</a></li>' for number, one in enumerate(screens, 1))
    parts = {
        "SAFE": whole.SAFE,
        "TITLE": html.escape(f"{lesson.number}. {lesson.title}"),
        "SUMMARY": inline(lesson.summary),
        "MODEL": f"<code>{html.escape(on)}</code>" if on else "the lesson's own models",
        "CONTENTS": contents,
        "SCREENS": bodies,
        "LOOK": whole.LOOK,
        "CSS": (whole.HERE / "graph_view.css").read_text(),
        "STYLE": STYLE.read_text(),
        "PAYLOADS": whole.embedded(graphs.payloads),
        "MODULES": whole.embedded(whole.modules() if graphs.payloads else {}),
        "LOADER": whole.LOADER,
        "EXPLAIN": whole.EXPLAIN,
        "SCRIPT": SCRIPT.read_text(),
    }
    return whole.filled(TEMPLATE, parts)


def _screen(number: int, one: Told, graphs: _Graphs) -> str:
    why = f'<p class="why">{inline(one.why)}</p>' if one.why else ""
    words = f'<p class="quiet words"><code>{html.escape(_words(one))}</code></p>' if _words(one) else ""
    told = rendered(one.after) + _picture(one, graphs, told=True) + rendered(one.beside)
    pictures = _picture(one, graphs, told=False)
    answer = _question(number, one, told) if one.ask else told
    return f'<section id="screen-{number}"><h2>{number}. {inline(one.screen.title)}</h2>{why}{rendered(one.text)}{words}{pictures}{answer}</section>'


def _words(one: Told) -> str:
    return one.found.words if one.found is not None else ""


def _question(number: int, one: Told, told: str) -> str:
    """The question, a field to predict in, and the answer to unfold."""
    question = one.screen.question
    assert question
    if question.choices:
        fields = "".join(
            f'<label><input type="radio" name="predict-{number}" value="{html.escape(choice)}"> {inline(choice)}</label>'
            for choice in question.choices
        )
    else:
        fields = f'<label>Your prediction, {html.escape(question.unit)} <input type="number" step="any"></label>'
    answer = html.escape(json.dumps(one.answer))
    return (
        f'<div class="question" data-answer="{answer}"><p><b>Predict.</b> {inline(one.ask)}</p><div class="fields">{fields}</div>'
        f'<details class="answer"><summary>Show the answer</summary><p class="figure"><strong>{html.escape(one.shown)}</strong> '
        f'<span class="quiet">{one.origin}</span> <span class="said" role="status"></span></p>{told}</details></div>'
    )


def _picture(one: Told, graphs: _Graphs, told: bool) -> str:
    """What the screen draws before its answer, or with it: the same order as in the app."""
    picture, found = one.screen.picture, one.found
    if isinstance(found, Worked):
        return (
            drawing.formula_table(found, picture) + drawing.formula(found, True)
            if told
            else drawing.formula(found, False)
            if one.ask
            else ""
        )
    if isinstance(found, Numbers):
        if told or picture != "tiles":
            return ""
        return drawing.tiles(Product(found["M"], found["N"], found["K"]), one.screen.code["tile"](found))
    if found is None or picture == "none":
        return ""
    return _telling(one, found) if told else _before(one, found, graphs)


def _before(one: Told, found: Found, graphs: _Graphs) -> str:
    if one.screen.picture == "memory" and one.ask:
        return drawing.memory(found.before)
    if one.screen.picture not in ("graph", "change"):
        return ""
    captured = found.before.by_name()
    new = {node.name for node in found.after.nodes if node.name not in captured}
    still = thumbnail.svg(found.after, new)
    digest = graphs.add(found, one.screen.picture == "change")
    if not digest:
        said = TOO_LARGE.format(len(found.after.nodes))
        return f'<figure class="still">{still}<figcaption>{html.escape(f"{said} {BARS}")}</figcaption></figure>'
    step = len(found.steps) if one.screen.picture == "change" else 0
    return (
        f'<figure class="graph" data-graph="{digest}" data-step="{step}"><div class="still">{still}</div><div class="graph-view" hidden></div>'
        f'<pre class="explained" hidden></pre><figcaption data-live="{LEGEND}">{BARS}</figcaption></figure>'
    )


def _telling(one: Told, found: Found) -> str:
    picture = one.screen.picture
    if picture == "memory":
        return drawing.memory(found.after)
    if picture == "treemap":
        what: Amount = one.screen.code.get("SHOWN", "operations")
        return drawing.amounts(found.before, what)
    if picture == "roofline" and found.ceilings:
        return drawing.roofline(found, found.ceilings)
    if picture == "runs" and found.measurement:
        return drawing.runs(found.measurement)
    if picture == "kernel":
        return _kernels(found)
    if picture in ("graph", "change"):
        titles = zip(numbered(step.words for step in found.steps), found.steps, strict=True)
        return drawing.totals(found.graphs, ["captured", *(f"{title}: {show.verdict_text(step.verdict)}" for title, step in titles)])
    return ""


def _kernels(found: Found) -> str:
    """The first kernel's loops and code, for each device that the screen speaks of."""
    shown: list[str] = []
    for kernel in (records[0] for records in (found.kernels, found.triton) if records):
        made = "generated for it, not run here" if kernel.described else "compiled and run"
        texts: Mapping[str, str] = {
            "Inductor's loops, before they become code": "\n\n".join(filter(None, kernel.loops)),
            f"Code for {kernel.device}, {made}": kernel.source,
        }
        shown += [f"<h3>{html.escape(title)}</h3><pre>{html.escape(_cut(text))}</pre>" for title, text in texts.items() if text]
    return "".join(shown)


def _cut(text: str) -> str:
    lines = text.splitlines()
    left = f"\n… {len(lines) - CODE_MOST:,} more lines" if len(lines) > CODE_MOST else ""
    return "\n".join(lines[:CODE_MOST]) + left
