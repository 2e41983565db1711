"""Peak memory of training graphs: PyTorch's activation budgets, a checkpoint around every block, and `recompute-to-budget`.

    python -m benchmarks.memory [--only resnet50] [--solvers dp,ilp] [--alone]

Each row: the peak as a share of the peak that keeps everything, and the operations that are done more, of matmuls and convolutions alone and of all. All peaks
are counted the same way: what the graph allocates over forward and then backward, parameters and inputs left out, gradients of parameters
in. fxscope's rows say which steps stand before the recomputation. Needs networkx for PyTorch's rows, and scipy for those of its solver ilp: a
solver that cannot run here is named and left out. At each peak that a peer came to, a row says what recomputation alone needs there, and
"dearer" where that is more operations than the peer's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks import fusion_models as models
from benchmarks.memory_peers import checkpointed_blocks, partitioned, usable
from graphs.capture import capture
from graphs.cost import cost
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.record import Totals
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.pipeline import apply
from optimizers.recomputation.core import Core
from optimizers.recomputation.evaluate import schedule
from optimizers.recomputation.plan import plans
from optimizers.recomputation.problem import Problem, problem_of

BUDGETS = (1.0, 0.75, 0.5, 0.25, 0.1, 0.0)


@dataclass(frozen=True)
class Row:
    """A model, the steps before recomputation, and the peaks that are asked for, as shares.

    Attributes:
        bars: what is wanted, for the reader.
        numbers: how many numbers in a module's path name a block.
    """

    name: str
    title: str
    source: Callable[[], ModelSource]
    steps: tuple[str, ...]
    shares: tuple[float, ...]
    bars: str
    numbers: int = 1


def bert() -> ModelSource:
    return models.sized(
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]}, {"layers": "12", "batch": "8", "seq": "128"}, "training"
    )


LANGUAGE = ("chunk-linear-cross-entropy", "accumulate-embedding-gradient")
ROWS = (
    Row("gpt2", "GPT-2 small, 4 × 512", lambda: models.gpt2("training", 12), LANGUAGE, (0.5, 0.36, 0.3, 0.25), "≤ .36 at ≤ +20 %"),
    Row("llama", "Llama 160M, 4 × 512", lambda: models.llama("training", 12), LANGUAGE, (0.5, 0.34, 0.3), "≤ .34 at ≤ +20 %"),
    Row("bert", "BERT base, 8 × 128", bert, LANGUAGE, (0.7, 0.6, 0.54), "≤ .60 at ≤ +20 %"),
    Row("resnet50", "ResNet-50, 32", lambda: models.resnet(50), (), (0.5, 0.35, 0.3), "≤ .50 at ≤ +6 %, ≤ .35 at ≤ +33 %", 2),
    Row("mobilenet", "MobileNetV2, 32", lambda: models.images(models.MobileNetV2, 32, 224), (), (0.35, 0.28), "≤ .28 at ≤ +2 %"),
    Row("unet", "U-Net c64, 4 × 256²", lambda: models.images(models.UNet, 4, 256), ("free-early",), (0.5, 0.42, 0.35), "≤ .42 at ≤ +6 %"),
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """What someone came to: a peak in bytes, and the operations that run, of matmuls and convolutions and all."""

    what: str
    peak: int
    matmul: int
    every: int

    def shown(self, base: Totals, more: str = "") -> None:
        """One row of the table."""
        print(
            f"  {self.what:44} {self.peak / base.peak_bytes:6.3f} {self.peak / 1e6:9.1f} MB {100 * (self.matmul / base.matmul_flops - 1):+7.2f} % matmul"
            f" {100 * (self.every / base.flops - 1):+7.2f} % all  {more}",
            flush=True,
        )


def peers(program: Program, problem: Problem, base: Totals, solvers: Sequence[str], numbers: int) -> list[Point]:
    """PyTorch's budgets, and a checkpoint around every block."""
    points = []
    for solver in solvers:
        for budget in BUDGETS:
            totals = partitioned(program, budget, solver).totals
            points.append(Point(f"activation_memory_budget={budget} {solver}", totals.peak_bytes, totals.matmul_flops, totals.flops))
            points[-1].shown(base)
    levels = checkpointed_blocks(problem, numbers)
    points.append(Point("a checkpoint around every block", Core(problem).evaluate(levels).peak, *operations(problem, levels, base)))
    points[-1].shown(base)
    return points


def at_equal_peaks(problem: Problem, points: Sequence[Point], base: Totals) -> None:
    """Recomputation alone, at the peaks that the others came to, beside the fewest operations that a peer needs for as little."""
    budgets = sorted({point.peak for point in points}, reverse=True)
    dearer = 0
    for plan in plans(problem, budgets):
        ours = Point(f"recompute-to-budget at {plan.budget / base.peak_bytes:.3f}", plan.peak, *operations(problem, plan.levels, base))
        best = min((point for point in points if point.peak <= plan.budget), key=lambda point: point.every)
        share = (ours.every - best.every) / base.flops
        dearer += share > 0
        than = f"{100 * share:+.2f} % of all operations against {best.what}"
        ours.shown(base, f"{plan.ending}; {'dearer: ' if share > 0 else ''}{than}")
    print(f"  dearer than a peer at {dearer} of {len(budgets)} peaks", flush=True)


def operations(problem: Problem, levels: Sequence[int], base: Totals) -> tuple[int, int]:
    """(of matmuls, all) with what runs again."""
    again = [cost(problem.nodes[at]) for runs in schedule(problem, levels) for at, is_again in runs if is_again]
    return base.matmul_flops + sum(one.matmul_flops for one in again), base.flops + sum(one.flops for one in again)


def ours(row: Row, program: Program, base: Totals) -> None:
    """The steps before, then a plan for each share."""
    graph, done = snapshot(program), []
    for step in row.steps:
        applied = apply(program, graph, step, {})
        program, graph = applied.program, applied.snapshot
        done.append(step)
        Point(" + ".join(done), graph.totals.peak_bytes, graph.totals.matmul_flops, graph.totals.flops).shown(base)
    problem = problem_of(program.gm, program.device, "operations")
    start = time.perf_counter()
    for plan in plans(problem, [int(share * base.peak_bytes) for share in row.shares]):
        bound = "" if plan.bound is None else f"bound {100 * ((graph.totals.flops + plan.bound) / base.flops - 1):+.2f} % all"
        what = " + ".join([*done, f"budget {plan.budget / base.peak_bytes:.2f}"])
        Point(what, plan.peak, *operations(problem, plan.levels, graph.totals)).shown(
            base, f"{bound} {plan.ending} {time.perf_counter() - start:.1f} s"
        )
        start = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--solvers", default="dp,ilp")
    parser.add_argument("--alone", action="store_true", help="only what recomputation comes to without other steps")
    given = parser.parse_args()
    solvers = usable([one for one in given.solvers.split(",") if one])
    for row in ROWS:
        if given.only in row.name:
            program = capture(row.source(), "training", "cpu", CaptureOptions(omit="outputs")).program
            base = snapshot(program).totals
            problem = problem_of(program.gm, "cpu", "operations")
            print(f"{row.title}: {base.nodes:,} nodes, {base.peak_bytes / 1e6:,.1f} MB with everything kept; bar {row.bars}", flush=True)
            at_equal_peaks(problem, peers(program, problem, base, solvers, row.numbers), base)
            if not given.alone:
                ours(row, program, base)


if __name__ == "__main__":
    main()
