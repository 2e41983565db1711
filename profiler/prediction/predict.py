"""Graph × device × efficiency -> predicted time and memory, node by node. Records in, records out; without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from graphs.memory import resident_bytes
from graphs.record import GraphSnapshot, NodeRecord
from profiler.prediction.time import kernel_seconds, rate_of, roofline_seconds, whole_seconds
from profiler.prediction.work import work_of
from profiler.prediction_record import LAUNCH, NOTHING, EfficiencyModel, NodePrediction, Prediction, Sheet

CONTEXT_BYTES = 512 << 20  # what a CUDA context and its libraries take of the device's memory before any tensor
NEAR_FULL = 0.9


def predict(graph: GraphSnapshot, device: Sheet, model: EfficiencyModel) -> Prediction:
    """What the graph would take on the device.

    Raises:
        RequestError: the sheet has no rate for a dtype of the graph.
    """
    operators = [node for node in graph.nodes if node.op == "call_function" and node.times]
    nodes = [found for node in operators if (found := predict_node(node, device, model)) is not None]
    work_s = sum(node.seconds for node in nodes)
    calls = sum(node.times for node in operators)
    seconds, host_s = whole_seconds(work_s, calls, model), calls * model.call_s
    resident, peak = resident_bytes(graph), graph.totals.peak_bytes
    once, again = _utilisations(operators, device, seconds)
    return Prediction(
        device=device.name,
        model=model.name,
        nodes=tuple(nodes),
        seconds=seconds,
        host_s=host_s,
        roofline_s=sum(node.roofline_s for node in nodes),
        peak_bytes=peak,
        resident_bytes=resident,
        fits=_needed(device, resident + peak) <= device.memory_bytes,
        bound=_bound(nodes, host_s, work_s),
        mfu=once,
        hfu=again,
        unknown=graph.totals.unknown,
        notes=_notes(graph, device, model, resident + peak),
    )


def can_run(graph: GraphSnapshot, device: Sheet) -> bool:
    """Has the sheet a rate for every dtype of the graph?"""
    dtypes = {work.dtype for node in graph.nodes if (work := work_of(node)) is not None and "float" in work.dtype}
    return dtypes <= device.flops.keys()


def predict_node(node: NodeRecord, device: Sheet, model: EfficiencyModel) -> NodePrediction | None:
    """Predicted time of one node in one run of the graph, or None where it launches nothing or its cost is unknown."""
    work = work_of(node)
    if work is None or not node.cost.known:
        return None
    seconds, bound = kernel_seconds(work, device, model)
    return NodePrediction(node.name, work.kind, bound, node.times * seconds, node.times * roofline_seconds(work, device))


def utilisation(flops: float, seconds: float, peak_flops: float) -> float:
    """Share of a peak rate: operations / (seconds × operations per second)."""
    return flops / (seconds * peak_flops)


def _utilisations(operators: Sequence[NodeRecord], device: Sheet, seconds: float) -> tuple[float | None, float | None]:
    """Model and hardware FLOPs utilisation; the peak is that of the dtype in which most matmul operations are done."""
    by_dtype: Counter[str] = Counter()
    for node in operators:
        by_dtype[node.dtype if "float" in node.dtype else "float32"] += node.total.matmul_flops
    everything = by_dtype.total()
    if not everything or not seconds:
        return None, None
    again = sum(node.total.matmul_flops for node in operators if node.phase == "recompute")
    peak = rate_of(device, by_dtype.most_common(1)[0][0])
    return utilisation(everything - again, seconds, peak), utilisation(everything, seconds, peak)


def _bound(nodes: Sequence[NodePrediction], host_s: float, work_s: float) -> str:
    if not nodes:
        return NOTHING
    if host_s > work_s:
        return LAUNCH
    seconds: Counter[str] = Counter()
    for node in nodes:
        seconds[node.bound] += node.seconds  # type: ignore[assignment]  # counters of floats add up as well
    return seconds.most_common(1)[0][0]


def _needed(device: Sheet, tensors: int) -> int:
    return tensors + (0 if device.kind == "cpu" else CONTEXT_BYTES)


def _notes(graph: GraphSnapshot, device: Sheet, model: EfficiencyModel, tensors: int) -> tuple[str, ...]:
    notes = []
    if graph.totals.unknown:
        notes.append(f"{graph.totals.unknown} operators have no counted cost and are left out.")
    if NEAR_FULL * device.memory_bytes < _needed(device, tensors) <= device.memory_bytes:
        notes.append("Memory is nearly full: an allocator that must search for room costs time that is not predicted.")
    if device.kind != "cpu" and device.architecture not in model.architecture:
        notes.append(f"No device of the generation {device.architecture} was measured for this model.")
    return tuple(notes)
