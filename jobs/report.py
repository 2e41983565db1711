"""What a run of a pipeline says on the command line: a table to read and a report to process. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from graphs.record import Seam, SeamReport, Totals
from jobs.experiment import Experiment
from jobs.record import OptimizeResult
from optimizers.record import StepRecord
from profiler.record import Measurement, Timing

HOLDS, REFUTED = 0, 1
COLUMNS = ("matches", "misses", "verdict", "nodes", "launches", "operations", "bytes moved", "peak memory")
KIB = 1024


def exit_code(steps: Sequence[StepRecord]) -> int:
    """0 when every step keeps the answers as far as was judged, 1 when one is refuted."""
    return REFUTED if any(step.verdict.kind == "refuted" for step in steps) else HOLDS


def report(
    experiment: Experiment, result: OptimizeResult, measurement: Measurement | None, breaks: SeamReport | None = None
) -> dict[str, Any]:
    """The report as plain values, ready for JSON."""
    captured = result.report
    found: dict[str, Any] = {
        "experiment": experiment.words,
        "hash": experiment.hash,
        "capture": {
            "method": captured.method,
            "nodes": captured.nodes,
            "parameters": captured.parameters,
            "seconds": captured.seconds,
        },
        "steps": [_step(step) for step in result.steps],
    }
    if measurement:
        device = measurement.device
        found["measured"] = {
            "device": f"{device.kind}: {device.name}",
            "before": _timing(measurement.timings[0]),
            "after": _timing(measurement.timings[-1]),
            "ratio": measurement.ratios[-1],
            "interval": list(measurement.ratio_intervals[-1]),
            "verdict": measurement.verdict,
            "conditions": msgspec.to_builtins(measurement.conditions),
        }
    if breaks:
        graphs = zip(breaks.operators, breaks.runs, strict=True)
        found["breaks"] = {
            "graphs": [{"operators": operators, "runs": runs} for operators, runs in graphs],
            "guards": breaks.guards,
            "seams": [_seam(seam) for seam in breaks.seams],
            "notes": list(breaks.notes),
        }
    return found


def _seam(seam: Seam) -> dict[str, Any]:
    return {
        "line": _line(seam),
        "code": seam.source.text if seam.source else "",
        "reason": seam.reason,
        "way_out": seam.way_out,
        "torch_says": seam.torch_says,
        "called_from": [f"{one.file}:{one.line}" for one in seam.callers],
        "whole_function": seam.whole,
        "node": seam.node,
    }


def _line(seam: Seam) -> str:
    return f"{seam.source.file}:{seam.source.line}" if seam.source else ""


def breaks_text(breaks: SeamReport) -> list[str]:
    """Where torch.compile would cut the model: a line for each seam, and below it the way out."""
    if breaks.whole:
        return [f"torch.compile: one graph takes the whole model ({breaks.operators[0]:,} operators)"]
    graphs, seams = len(breaks.operators), len(breaks.seams)
    head = f"torch.compile: {graphs:,} graph{'' if graphs == 1 else 's'}, {seams:,} seam{'' if seams == 1 else 's'}"
    rows = [("seam", "line", "then", "why")]
    for at, seam in enumerate(breaks.seams, 1):
        reason = f"{seam.reason}; from there all of `{seam.function}` runs as plain Python" if seam.whole else seam.reason
        rows += [(str(at), _line(seam), seam.node, reason)]
        rows += [("", "", "", seam.way_out)] if seam.way_out else []
    return [head, *(table(rows) if breaks.seams else []), *breaks.notes]


def _step(step: StepRecord) -> dict[str, Any]:
    worst = step.verdict.worst
    return {
        "optimization": step.optimization,
        "parameters": step.parameters,
        "matches": len(step.matches),
        "misses": [{"node": miss.node, "reason": miss.reason} for miss in step.misses],
        "verdict": step.verdict.kind,
        "how": step.verdict.how,
        "worst": {"tensor": worst.tensor, "error": worst.error} if worst else None,
        "before": _totals(step.before),
        "after": _totals(step.after),
    }


def _totals(totals: Totals) -> dict[str, int]:
    names = ("nodes", "launches", "flops", "bytes_moved", "peak_bytes")
    return {name: getattr(totals, name) for name in names}


def _timing(timing: Timing) -> dict[str, Any]:
    return {
        "median_ms": timing.median_ms,
        "interval_ms": list(timing.interval_ms),
        "peak_bytes": timing.peak_bytes,
        "runs": timing.runs,
    }


def text(experiment: Experiment, result: OptimizeResult, measurement: Measurement | None) -> str:
    """The same for the eye: one line per step, every number with its unit and where it comes from."""
    captured = result.report
    lines = [
        experiment.words,
        f"captured by {captured.method}: {captured.nodes:,} nodes, {captured.parameters:,} parameters, {captured.seconds:.1f} s",
        "",
        *table([("counted", *COLUMNS), *_rows(result)]),
    ]
    unknown = max(graph.totals.unknown for graph in result.graphs)
    if unknown:
        lines.append(
            f"{unknown:,} node{'' if unknown == 1 else 's'} without a rule for cost: operations and bytes are at least what is counted"
        )
    lines += [f"{step.words}: {_reason(result.steps, at)}" for at, step in enumerate(result.steps) if _needs_reason(step)]
    lines += [f"{step.words} broke its claim: {broken}" for step in result.steps for broken in step.claim_broken]
    return "\n".join(lines + (_measured(measurement) if measurement else []))


def _reason(steps: Sequence[StepRecord], at: int) -> str:
    """Of a refuted step behind another such one nothing is known."""
    verdict = steps[at].verdict
    first = next((one.words for one in steps[:at] if one.verdict.kind == "refuted"), "")
    return f"the answers were changed before, by {first}" if first and verdict.kind == "refuted" else verdict.reason


def _needs_reason(step: StepRecord) -> bool:
    return step.verdict.kind in ("refuted", "not run")


def _verdict(step: StepRecord) -> str:
    return f"{step.verdict.kind}, proven" if step.verdict.how == "proven" else step.verdict.kind


def _rows(result: OptimizeResult) -> list[tuple[str, ...]]:
    start = result.graphs[0].totals
    rows = [("captured", "", "", "", *(_amounts(start)))]
    for step in result.steps:
        before, after = _amounts(step.before), _amounts(step.after)
        changes = (new if old == new else f"{old} → {new}" for old, new in zip(before, after, strict=True))
        rows.append((step.words, str(len(step.matches)), str(len(step.misses)), _verdict(step), *changes))
    return rows


def _amounts(totals: Totals) -> tuple[str, ...]:
    return (
        f"{totals.nodes:,}",
        f"{totals.launches:,}",
        amount(totals.flops, "FLOP"),
        size(totals.bytes_moved),
        size(totals.peak_bytes),
    )


def _measured(measurement: Measurement) -> list[str]:
    device = measurement.device
    lines = ["", f"measured on {device.kind}: {device.name}, torch {device.torch}; runs in turns; 95 % intervals"]
    rows = [("measured", "median", "interval", "peak memory", "runs", "time ÷ first", "verdict")]
    columns = (measurement.labels, measurement.timings, measurement.ratios, measurement.ratio_intervals, measurement.verdicts)
    for at, (label, timing, ratio, (low, high), verdict) in enumerate(zip(*columns, strict=True)):
        interval = f"{timing.interval_ms[0]:.3f} to {timing.interval_ms[1]:.3f} ms"
        against = f"{ratio:.3f} [{low:.3f}, {high:.3f}]" if at else "1"
        peak = "not measured" if timing.peak_bytes is None else size(timing.peak_bytes)
        rows.append((label, f"{timing.median_ms:.3f} ms", interval, peak, str(timing.runs), against, verdict if at else ""))
    least = measurement.detectable[-1]
    seen = "" if least is None else f" (a difference of {least:.1%} would have been seen)"
    failed = [f"{one.label}: not measured: {one.what}" for one in measurement.failures]
    return [*lines, *table(rows), f"verdict: {measurement.verdict}{seen}", *failed, *measurement.conditions.notes]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns aligned on the left."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def size(count: int) -> str:
    """Bytes in binary units: 1 KiB is 1,024 bytes."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < KIB:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= KIB
    return f"{amount:,.2f} GiB"


def amount(count: float, unit: str = "") -> str:
    """`12,345` below a million, `1.23 M` above, in decimal units; with a unit the prefix goes to it: `1.23 GFLOP`."""
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(count) >= limit:
            return f"{count / limit:,.2f} {prefix}{unit}"
    return f"{count:,.0f} {unit}".rstrip()
