"""How fast budgets are planned: points of a front, verified, for GPT-2, and one plan for a graph of some 10,000 nodes.

    python -m benchmarks.memory_planning [--batch 1] [--seq 64] [--layers 40] [--skip gpt2]

Of GPT-2 small (12 layers, training) the front is planned, then the pipeline of each of its points is applied and verified on real weights, until eight are. Times are wall
time from the captured graph on; the judge's own runs of the unoptimized program are in the first verification. Of the long Llama the smallest budget that a rung reaches
is planned; the memory is the process's highest resident size, before and after.
"""

from __future__ import annotations

import argparse
import resource
import time

from benchmarks import fusion_models as models
from graphs.capture import capture
from graphs.options import CaptureOptions
from graphs.snapshot import snapshot
from jobs.experiment import parse_pipeline
from optimizers.budget import budget_front
from optimizers.pipeline import apply
from optimizers.recomputation.plan import front, plan
from optimizers.recomputation.problem import problem_of
from optimizers.verify import Judge

WANTED = 8


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
    judge, verified, start = Judge(program), 0, time.perf_counter()
    for point in found.points:
        made, after = program, graph
        for step in parse_pipeline(",".join(point.words)):
            applied = apply(made, after, step.name, dict(step.settings))
            made, after = applied.program, applied.snapshot
        verdict = judge.verdict(program, made, "rounding")
        verified += verdict.kind in ("bitwise", "rounding")
        share = after.totals.peak_bytes / graph.totals.peak_bytes
        print(
            f"  {verified} verified after {time.perf_counter() - start:5.1f} s: {verdict.kind:9} {share:.3f} {', '.join(point.words)}",
            flush=True,
        )


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
