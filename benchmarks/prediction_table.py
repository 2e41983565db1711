"""What the labelled runs ask of a device, counted once and kept: `tests/data/neusight/counted.json`.

    python -m benchmarks.prediction_table CONFIGS LABELS

Captures every labelled model (a few minutes) and writes, per run, the work of forward and of backward with how often each piece runs. Differences between the graph and what was timed:

- dropout that does nothing is a copy in a captured graph and nothing in eager PyTorch;
- the loss's forward part was not timed, its backward part was;
- gradients are added to those of the run before: one pass over every parameter;
- the release of transformers that was timed masks attention scores with `where` (GPT-2) or `max` (OPT), whose backward passes the graph of today lacks.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks.prediction_models import labelled_source
from graphs.capture import capture
from graphs.memory import resident_bytes
from graphs.record import GraphSnapshot, NodeRecord
from graphs.snapshot import snapshot
from profiler.prediction.calibrate import Counted
from profiler.prediction.work import work_of
from profiler.prediction_record import ELEMENTWISE, Work

RUN = re.compile(r"(?P<model>.+)-(?P<mode>inf|train)-(?P<seq>\d+)-(?P<batch>\d+)$")
TABLE = Path(__file__).parent.parent / "tests" / "data" / "neusight" / "counted.json"


class LabelledRun(msgspec.Struct, frozen=True):
    """The counted work of one labelled run, and bytes: parameters and inputs, and the peak while it runs."""

    forward: Counted
    backward: Counted
    resident_bytes: int
    peak_bytes: int


def table(configs: Path, runs: list[str]) -> dict[str, LabelledRun]:
    """Name of a run, such as `gpt2_large-inf-1024-4`, -> its counted work."""
    found = {}
    for run in runs:
        parts = RUN.match(run)
        assert parts is not None
        training = parts["mode"] == "train"
        source = labelled_source(configs, parts["model"], training, int(parts["seq"]), int(parts["batch"]))
        graph = snapshot(capture(source, "training" if training else "inference", "cpu").program)
        found[run] = labelled_run(graph, parts["model"], training)
        print(run, flush=True)
    return found


def labelled_run(graph: GraphSnapshot, model: str, training: bool) -> LabelledRun:
    """The work that was timed, from the captured graph."""
    strides = {node.name: (node.op, node.strides) for node in graph.nodes}
    work: dict[str, Counter[Work]] = {"forward": Counter(), "backward": Counter()}
    calls: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op != "call_function" or node.phase == "loss" or _is_idle_dropout(node, strides):
            continue
        phase = "backward" if node.phase == "backward" else "forward"
        calls[phase] += node.times
        if (asked := work_of(node)) is not None:
            work[phase][asked] += node.times
    if training:
        for asked in (*_masking(graph, model), *_accumulation(graph)):
            work["backward"][asked] += 1
            calls["backward"] += 1
    both = {phase: Counted(tuple((count, asked) for asked, count in sorted(found.items())), calls[phase]) for phase, found in work.items()}
    return LabelledRun(both["forward"], both["backward"], resident_bytes(graph), graph.totals.peak_bytes)


def _is_idle_dropout(node: NodeRecord, strides: Mapping[str, tuple[str, object]]) -> bool:
    return node.target == "aten.clone.default" and strides[node.inputs[0]] == ("call_function", node.strides)


def _accumulation(graph: GraphSnapshot) -> list[Work]:
    parameters = [node.bytes for node in graph.nodes if node.op == "placeholder" and node.role == "parameter"]
    return [Work(ELEMENTWISE, "float32", size // 4, 2 * size, size, 1) for size in parameters]


def _masking(graph: GraphSnapshot, model: str) -> list[Work]:
    """Backward passes of masks over attention scores: of `where` one; of `max` a comparison, a half, a choice, a comparison and a fill."""
    sizes = [node.bytes for node in graph.nodes if node.phase == "forward" and node.target == "aten._softmax.default"]
    found = []
    for size in sizes:
        flags = size // 4
        passes = {
            "gpt": [(size, size)],
            "opt": [(size, flags), (size, size), (2 * size + flags, size), (size, flags), (size + flags, size)],
        }
        found += [Work(ELEMENTWISE, "float32", size // 4, read, written, 1) for read, written in passes.get(model[:3], [])]
    return found


def main(configs: Path, labels: Path) -> None:
    """Captures all and writes the table."""
    runs = sorted({path.stem for path in labels.glob("*/*.json") if RUN.match(path.stem)})
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    TABLE.write_bytes(msgspec.json.encode(table(configs, runs)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
