"""How fast budgets are planned: points of a front, verified, for GPT-2, and one plan for a graph of some 10,000 nodes.

    python -m benchmarks.memory_planning [--batch 1] [--seq 64] [--layers 40] [--skip gpt2]

Of GPT-2 small (12 layers, training) the front is planned, then the pipeline of each of its points is applied and verified on real weights, step by step as the app does (b: bitwise, r: same up to rounding). Times
are wall time; the runs of the unoptimized program, and in float64, are in the first verification that needs them. Of the long Llama the smallest budget that a rung reaches
is planned; the memory is the process's highest resident size, before and after.
"""

from __future__ import annotations

import argparse
import resource
import time

from benchmarks import fusion_models as models
from graphs.capture import capture
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from jobs.experiment import parse_pipeline
from optimizers.budget import budget_front
from optimizers.pipeline import Applied, apply
from optimizers.recomputation.plan import front, plan
from optimizers.recomputation.problem import problem_of
from optimizers.verify import Judge


def gpt2(batch: int, seq: int) -> None:
    """Planning, then verification of point after point."""
    source = models.gpt2("training", 12, batch, seq)
    program = capture(source, "training", "cpu", CaptureOptions(omit="outputs")).program
    graph = snapshot(program)
    start = time.perf_counter()
    quick = budget_front(program, graph, 0, False, lambda share: None)
    print(f"GPT-2 small, {batch} × {seq}: {len(quick.points)} points at once, {time.perf_counter() - start:.1f} s", flush=True)
    start = time.perf_counter()
    found = budget_front(program, graph, 9, False, lambda share: None)
    print(f"  {len(found.points)} points of {found.tried} with all rungs, {time.perf_counter() - start:.1f} s", flush=True)
    judge, start = Judge(program), time.perf_counter()
    known: dict[tuple[str, ...], Applied] = {}
    for number, point in enumerate(found.points, 1):
        made = applied(program, graph, point.words, judge, known)
        verdicts = "".join(known[point.words[:count]].step.verdict.kind[0] for count in range(1, len(point.words) + 1)) or "-"
        share = made.snapshot.totals.peak_bytes / graph.totals.peak_bytes if made else 1.0
        print(
            f"  {number} verified after {time.perf_counter() - start:5.1f} s: {verdicts:4} {share:.3f} {', '.join(point.words)}", flush=True
        )


def applied(
    program: Program, graph: GraphSnapshot, words: tuple[str, ...], judge: Judge, known: dict[tuple[str, ...], Applied]
) -> Applied | None:
    """The pipeline's last step, every step verified as the app does: once for each prefix."""
    if not words:
        return None
    if words not in known:
        before = applied(program, graph, words[:-1], judge, known)
        (step,) = parse_pipeline(words[-1])
        start = (before.program, before.snapshot) if before else (program, graph)
        known[words] = apply(*start, step.name, dict(step.settings), judge)
        assert known[words].step.verdict.kind in ("bitwise", "rounding"), known[words].step.verdict
    return known[words]


def long(layers: int) -> None:
    """A plan for a long graph."""
    program = capture(models.llama("training", layers), "training", "cpu", CaptureOptions(omit="outputs")).program
    before = resident()
    start = time.perf_counter()
    problem = problem_of(program.gm, "cpu")
    read = time.perf_counter() - start
    shown = list(front(problem))
    all_rungs = time.perf_counter() - start
    base = shown[0].peak if not shown[0].cost else max(one.peak for one in shown)
    one = plan(problem, shown[-1].budget)
    whole = time.perf_counter() - start - all_rungs
    print(
        f"Llama, {layers} layers: {len(program.gm.graph.nodes):,} nodes, {len(problem.operators):,} operators; read in {read:.1f} s, "
        f"front of {len(shown)} in {all_rungs:.1f} s, one plan for {one.peak / base:.3f} of the peak in {whole:.1f} s ({one.ending}); "
        f"memory {before:.2f} GB before planning, {resident():.2f} GB after"
    )


def resident() -> float:
    """Highest resident size of the process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--seq", type=int, default=64)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--skip", default="")
    given = parser.parse_args()
    if given.skip != "gpt2":
        gpt2(given.batch, given.seq)
    if given.skip != "long":
        long(given.layers)


if __name__ == "__main__":
    main()
