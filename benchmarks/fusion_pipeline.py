"""The best pipelines of the catalog for speed, and what is left after them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

from graphs.capture import capture
from graphs.program import Program
from graphs.record import GraphSnapshot, NodeRecord, Totals
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.catalog import catalog
from optimizers.pipeline import apply
from optimizers.verify import Judge

# In this order: library kernels first, since they are recognized by what was written; what the catalog does not have is left out.
# Without fuse-rotary-embedding: the planner turns queries and keys in one loop.
STEPS = (
    "remove-dead-code",
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-gelu",
    "fuse-silu",
    "fuse-cross-entropy",
    "fuse-swiglu",
    "remove-no-ops",
    "fold-constants",
    "merge-common-subexpressions",
    "recompute-log-softmax",
    "accumulate-embedding-gradient",
    "fuse-attention",
    "simplify-arithmetic",
    "cancel-views",
    "cancel-split-concat",
    "fold-batch-norm",
    "fold-scale-into-convolution",
    "fold-scale-into-linear",
    "merge-parallel-matmuls",
    "merge-summed-matmuls",
    "merge-parallel-matmuls",
    "commute-split",
    "merge-common-subexpressions",
    "fuse-convolution-epilogue",
    "fuse-matmul-epilogue",
    "fuse-loops",
    "remove-dead-code",
)


@dataclass
class Optimized:
    """A program after its pipeline.

    Attributes:
        before, after: counted totals.
        words: the steps that changed something, with the number of places.
        broken: claims that did not hold, as sentences.
        seconds: for each step, finding and rewriting together.
    """

    program: Program
    graph: GraphSnapshot
    before: Totals
    words: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    refuted: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def after(self) -> Totals:
        return self.graph.totals


def steps() -> list[str]:
    """The steps that the catalog has."""
    known = catalog()
    return [name for name in STEPS if name in known]


def optimized(source: ModelSource, mode: str, judged: bool = False) -> Optimized:
    """Captures a model and runs the pipeline over it; judged steps are run on real weights beside the graph before them."""
    program = capture(source, mode, "cpu").program
    return improved(program, judged)


def improved(program: Program, judged: bool = False, effort: int = 0, without: tuple[str, ...] = ()) -> Optimized:
    """The pipeline over a captured program; `effort` is how many plans fuse-loops compares, `without` steps that are left out."""
    graph = snapshot(program)
    found = Optimized(program, graph, graph.totals)
    judge = Judge(program) if judged else None
    for name in (name for name in steps() if name not in without):
        start = time.perf_counter()
        settings = {"effort": str(effort)} if name == "fuse-loops" else {}
        result = apply(found.program, found.graph, name, settings, judge)
        found.seconds[name] = found.seconds.get(name, 0.0) + time.perf_counter() - start
        found.program, found.graph = result.program, result.snapshot
        if result.step.matches:
            found.words.append(f"{name} {len(result.step.matches)}")
        found.broken += [f"{name}: {sentence}" for sentence in result.step.claim_broken]
        if result.step.verdict.kind == "refuted":
            found.refuted.append(f"{name}: {result.step.verdict.reason}")
    return found


def launches_left(graph: GraphSnapshot) -> list[tuple[str, int, int]]:
    """(operator, launches, bytes) of what still runs, most launches first."""
    launches: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    for node in graph.nodes:
        launches[_kind(node)] += node.cost.launches
        moved[_kind(node)] += node.cost.bytes_read + node.cost.bytes_written
    return [(name, count, moved[name]) for name, count in launches.most_common() if count]


def _kind(node: NodeRecord) -> str:
    return str(node.target).removeprefix("aten.").removesuffix(".default")
