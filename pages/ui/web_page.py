"""The whole session as one web page, for the menu Save and for the command line."""

from __future__ import annotations

from collections.abc import Sequence

from graphs.record import GraphSnapshot
from optimizers.record import StepRecord
from pages.ui import show
from pages.ui.graph_view import payload_of
from pages.ui.graph_view.page import Told, page


def session_page(graphs: Sequence[GraphSnapshot], steps: Sequence[StepRecord], words: str) -> str:
    """Picture, steps and numbers in one file that opens without network.

    Args:
        words: the experiment, with the name of the reader's file in the place of its hash.
    """
    names = ["captured", *(step.words for step in steps)]
    title = words.partition("&")[0].removeprefix("model=")
    payload = payload_of(graphs, names, [step.diff for step in steps])
    return page(payload, f"fxscope: {title}", words, _table(graphs, names, steps), [_told(step) for step in steps])


def _table(graphs: Sequence[GraphSnapshot], names: Sequence[str], steps: Sequence[StepRecord]) -> list[list[str]]:
    head = ["graph", "verdict", *(f"{figure.title.lower()}, counted" for figure in show.FIGURES)]
    verdicts = ["", *(show.verdict_text(step.verdict) for step in steps)]
    rows = [
        [name, verdict, *(show.number(getattr(graph.totals, figure.field), figure.unit) for figure in show.FIGURES)]
        for name, verdict, graph in zip(names, verdicts, graphs, strict=True)
    ]
    return [head, *rows]


def _told(step: StepRecord) -> Told:
    """What a reader of the saved page is told of a step."""
    lines = [f"{show.verdict_text(step.verdict)}: {step.verdict.reason}", *(f"against its claim: {broken}" for broken in step.claim_broken)]
    changes = {"removed": step.diff.removed, "added": step.diff.added, "changed": step.diff.changed, "moved": step.diff.moved}
    lists = {f"places: {len(step.matches)}": [" — ".join(filter(None, (one.anchor, one.note))) for one in step.matches]}
    lists |= {f"near-misses: {len(step.misses)}": [f"{one.node}: {one.reason}" for one in step.misses]}
    lists |= {f"nodes {word}: {len(found)}": list(found) for word, found in changes.items()}
    return Told(step.words, lines, {name: rows for name, rows in lists.items() if rows})
