"""Time and memory of every node of some graphs, measured, beside the time of whole runs.

Three kinds of runs, all of the code that fx generates. Whole runs without any mark, in turns with runs that read the clock around every operator, of all
graphs together (`node_turns.py`): the nodes' times, the whole's and both graphs' meet the same weather. Runs under torch.profiler say which operators and
kernels belong to which node; on a CPU the profiler would add up to a microsecond and more to each operator, so times come from the clock there, on a GPU
from its kernels. One run on its own writes down memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity

from graphs import collector
from graphs.program import Program
from profiler.allocator import freed_memory_kept
from profiler.devices import detect
from profiler.marks import announced, marked_nodes
from profiler.measure import shared_inputs
from profiler.node_memory import node_memory
from profiler.node_record import NodeProfile, NodeTiming, Piece, Timeline
from profiler.node_samples import packed
from profiler.node_turns import Times, timed_in_turns
from profiler.record import Conditions
from profiler.runs import Run, of_program
from profiler.statistics import median_interval
from profiler.timeline import columns, is_on_device, mapped, pieces
from profiler.trace_file import read_trace

PROFILED_RUNS = {"cpu": 3, "cuda": 6}  # on a GPU they give the nodes' times, on a CPU only names and what belongs together

Tell = Callable[[str, float], None]


def profile_nodes(program: Program, label: str, seed: int = 0, budget_s: float = 5.0, on_progress: Tell | None = None) -> NodeProfile:
    """Measures every node of one graph; see `profile_graphs`."""
    return profile_graphs([program], [label], seed, budget_s, on_progress)[0]


def profile_graphs(
    programs: Sequence[Program], labels: Sequence[str], seed: int = 0, budget_s: float = 5.0, on_progress: Tell | None = None
) -> list[NodeProfile]:
    """Measures every node of some graphs of one model on their device, in turns.

    Args:
        labels: what the reader calls the graphs.
        budget_s: time of each graph for the runs in turns; the fewest that give an interval are made even where that takes longer.
        on_progress: told what is being done and the share done.
    """
    tell = on_progress or (lambda text, share: None)
    tell("making parameters and inputs", 0.0)
    inputs = shared_inputs(programs, seed)
    budget_s *= len(programs)
    with freed_memory_kept(), collector.paused():
        times, conditions = timed_in_turns(programs, inputs, seed, budget_s, lambda share: tell("timing every node", 0.05 + 0.55 * share))
        recorded = _profiled(programs, inputs, seed, lambda share: tell("recording with torch.profiler", 0.6 + 0.25 * share))
    found = []
    for at, (program, label) in enumerate(zip(programs, labels, strict=True)):
        tell(f"watching memory: {label}", 0.85 + 0.15 * at / len(programs))
        found.append(_profile(program, label, inputs[at], seed, times[at], conditions, recorded[at]))
    return found


def _profile(
    program: Program, label: str, inputs: Sequence[Tensor], seed: int, times: Times, conditions: Conditions, recorded: Sequence[Timeline]
) -> NodeProfile:
    memory = node_memory(program, inputs, seed)
    names, last = marked_nodes(program), recorded[-1]
    by_node = _kernel_times(recorded, names) if program.device == "cuda" else times.nodes
    launches = _launches(last) if program.device == "cuda" else None
    nodes = [
        NodeTiming(
            name,
            float(np.median(by_node[:, at])),
            median_interval(by_node[:, at].tolist()),
            launches.get(name, 0) if launches is not None else None,
            memory.allocated[name],
            memory.freed[name],
        )
        for at, name in enumerate(names)
    ]
    ran, events = mapped(last)
    return NodeProfile(
        label=label,
        device=detect(program.device),
        conditions=conditions,
        whole_ms=float(np.median(times.whole)),
        whole_interval_ms=median_interval(times.whole.tolist()),
        marked_ms=float(np.median(times.marked)),
        between_ms=_between(program.device, times, sum(node.ms for node in nodes)),
        profiled_ms=float(np.median([_span_ms(one) for one in recorded])),
        runs=len(times.whole),
        profiled_runs=len(recorded),
        nodes=tuple(nodes),
        pieces=_pieces(recorded),
        events=events,
        mapped=ran,
        timeline=last,
        memory=memory.track,
        peak_bytes=memory.peak_bytes,
        samples=packed(by_node),
        whole_samples=packed(times.whole),
    )


def _between(device: str, times: Times, nodes_ms: float) -> float:
    """Of a run, what is in no node: on a CPU known run by run, on a GPU what the kernels leave of the whole."""
    if device == "cuda":
        return float(np.median(times.whole)) - nodes_ms
    return float(np.median(times.marked - times.nodes.sum(axis=1)))


def _profiled(
    programs: Sequence[Program], inputs: Sequence[Sequence[Tensor]], seed: int, on_share: Callable[[float], None]
) -> list[list[Timeline]]:
    """Runs under torch.profiler in turns, one timeline each; the first of every graph, in which the profiler itself begins, is left out."""
    runs = [of_program(replace(program, gm=announced(program)), values, seed) for program, values in zip(programs, inputs, strict=True)]
    found: list[list[Timeline]] = [[] for _ in runs]
    device = programs[0].device
    for run in runs:
        run()
    for turn in range(1 + PROFILED_RUNS[device]):
        order = range(len(runs)) if turn % 2 else range(len(runs) - 1, -1, -1)
        for at in order:
            found[at].append(_recorded(runs[at], device))
        on_share((turn + 1) / (1 + PROFILED_RUNS[device]))
    return [one[1:] for one in found]


def _recorded(run: Run, device: str) -> Timeline:
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with torch.profiler.profile(activities=activities, acc_events=True) as recording:
        run()
        if device == "cuda":
            torch.cuda.synchronize()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        recording.export_chrome_trace(str(path))
        return read_trace(path.read_bytes(), path.name)


def _span_ms(timeline: Timeline) -> float:
    """From the first node's beginning to the last work's end."""
    found = columns(timeline)
    inside = found.node >= 0
    return float((found.end[inside].max() - found.start[inside].min()) / 1e6) if inside.any() else 0.0


def _kernel_times(recorded: Sequence[Timeline], names: Sequence[str]) -> np.ndarray:
    """Runs × nodes: milliseconds of the kernels that each node launched."""
    position = {name: at for at, name in enumerate(names)}
    table = np.zeros((len(recorded), len(names)))
    for row, timeline in enumerate(recorded):
        for (_, node), (_, ms) in pieces(timeline).items():
            if node in position:
                table[row, position[node]] += ms
    return table


def _launches(timeline: Timeline) -> dict[str, int]:
    """Kernels by node; copies and fills count, for each is a launch."""
    found = columns(timeline)
    nodes = found.node[is_on_device(timeline, found)]
    counts = np.bincount(nodes[nodes >= 0], minlength=len(timeline.nodes))
    return dict(zip(timeline.nodes, counts.tolist(), strict=True))


def _pieces(recorded: Sequence[Timeline]) -> tuple[Piece, ...]:
    """What ran for every node, with the median of the runs' own times."""
    tables = [pieces(timeline) for timeline in recorded]
    return tuple(
        Piece(name, node, count, float(np.median([table[name, node][1] for table in tables if (name, node) in table])))
        for (name, node), (count, _) in tables[-1].items()
    )
