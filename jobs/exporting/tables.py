"""Nodes and steps of a session, and submissions of a task, as CSV, for spreadsheets and data frames. Without torch."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from graphs.record import GraphSnapshot, NodeRecord, Totals
from jobs.assignment_record import Goal, Submission
from jobs.grading import best_of_each
from optimizers.record import StepRecord

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how spreadsheets know a formula
COUNTED = {
    "nodes": "nodes (counted)",
    "launches": "launches (counted)",
    "flops": "operations (counted, FLOP)",
    "bytes_moved": "bytes moved (counted, bytes)",
    "peak_bytes": "peak memory (counted, bytes)",
}
NODE_HEAD = (
    "graph", "name", "op", "target", "phase", "module", "source", "dtype", "shape", "bytes", "role", "inputs",
    "runs", "operations (counted, FLOP)", "bytes moved (counted, bytes)", "launches (counted)",
)  # fmt: skip


def nodes_csv(graphs: Sequence[GraphSnapshot], names: Sequence[str]) -> str:
    """A line for each node of each graph. What nobody could price is left empty, not 0."""
    rows = [_node(name, node) for name, graph in zip(names, graphs, strict=True) for node in graph.nodes]
    return _csv([NODE_HEAD, *rows])


def _node(graph: str, node: NodeRecord) -> tuple[object, ...]:
    line = f"{node.source.file}:{node.source.line}" if node.source else ""
    shape = "" if node.shape is None else "x".join(map(str, node.shape))
    cost = (node.total.flops, node.total.bytes_moved, node.total.launches) if node.cost.known else ("", "", "")
    texts = (graph, node.name, node.op, node.target, node.phase, node.module, line, node.dtype, shape)
    return (*texts, node.bytes, node.role, " ".join(node.inputs), node.times, *cost)


def steps_csv(first: Totals, steps: Sequence[StepRecord]) -> str:
    """The captured graph, then a line for each step: places, verdict, and what is counted after it."""
    head = ("step", "places", "near-misses", "verdict", "how", "worst tensor", "error", "reason", *COUNTED.values())
    rows: list[Sequence[object]] = [("captured", "", "", "", "", "", "", "", *_counted(first))]
    for step in steps:
        verdict, worst = step.verdict, step.verdict.worst
        error = (worst.tensor, worst.error) if worst else ("", "")
        found = (step.words, len(step.matches), len(step.misses), verdict.kind, verdict.how, *error, verdict.reason)
        rows.append((*found, *_counted(step.after)))
    return _csv([head, *rows])


def submissions_csv(goal: Goal, submissions: Sequence[Submission]) -> str:
    """A line for each submission of a task, the earliest first; which one is its name's best is said."""
    head = (
        "name", "when (UTC)", "meets the goal", "best of the name", "verdict", "peak memory (counted, bytes)", "launches (counted)",
        "bytes moved (counted, bytes)", "operations (counted, FLOP)", "extra operations (counted, share)", "steps", "reasons", "experiment",
    )  # fmt: skip
    best = {one.number for one in best_of_each(goal, submissions)}
    rows: list[Sequence[object]] = []
    for one in submissions:
        grade, figures = one.grade, one.grade.figures
        when = datetime.fromtimestamp(one.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
        counted = (
            figures.peak_bytes,
            figures.launches,
            figures.bytes_moved,
            figures.flops,
            round(figures.extra_operations, 6),
            figures.steps,
        )
        is_best, meets = ("yes" if said else "no" for said in (one.number in best, grade.meets))
        rows.append((one.name, when, meets, is_best, grade.verdict, *counted, " ".join(grade.reasons), one.words))
    return _csv([head, *rows])


def _counted(totals: Totals) -> tuple[int, ...]:
    return tuple(getattr(totals, name) for name in COUNTED)


def _csv(rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[_cell(value) for value in row] for row in rows])
    return text.getvalue()


def _cell(value: object) -> object:
    """Text that no spreadsheet takes for a formula: names are somebody's."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
