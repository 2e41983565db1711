"""How fast budgets are planned: verified points of a front, for GPT-2, and one plan for a graph of some 10,000 nodes.

    python -m benchmarks.memory_planning [--batch 4] [--seq 512] [--layers 40] [--skip gpt2] [--run]

Of GPT-2 small (12 layers, training, float32) the front is planned as the app does: each point that counts is carried out on a copy of the graph, counted there, and proven to give the
same bits. Told is when the front had its first, third and eighth verified point, after the capture and with the catalogue loaded: wall time, and the process's own. With --run the
smallest verified point is run too, on real weights, and compared with the graph as captured. Of the long Llama the smallest budget that a rung reaches is planned; the
memory is the process's highest resident size, before and after.
"""

from __future__ import annotations

import argparse
import resource
import time

from benchmarks import fusion_models as models
from graphs.capture import capture
from graphs.options import CaptureOptions
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from jobs.experiment import parse_pipeline
from optimizers.budget import budget_fronts
from optimizers.catalog import catalog
from optimizers.pipeline import apply
from optimizers.recomputation.plan import front, plan
from optimizers.recomputation.problem import problem_of
from optimizers.record import BudgetFront, BudgetPoint
from optimizers.verify import Judge

RUNGS, TOLD = 9, (1, 3, 8)


def gpt2(name: str, source: ModelSource, run: bool) -> None:
    """When the verified points are there; on request, the smallest of them run."""
    program = capture(source, "training", "cpu", CaptureOptions()).program
    graph = snapshot(program)
    catalog()
    start, own, front, told = time.perf_counter(), time.process_time(), None, dict[int, str]()
    for _, front in budget_fronts(program, graph, RUNGS, False):
        for count in TOLD:
            if len(verified(front)) >= count:
                told.setdefault(count, f"{time.perf_counter() - start:.1f} s ({time.process_time() - own:.1f} s of CPU)")
    assert front is not None
    points = verified(front)
    print(
        f"{name}: {len(graph.nodes):,} nodes; verified points, the first after {told.get(1)}, the third after {told.get(3)}, the eighth after {told.get(8)}; "
        f"whole after {time.perf_counter() - start:.1f} s ({time.process_time() - own:.1f} s of CPU): {len(front.points)} points of {front.tried}, {len(points)} verified",
        flush=True,
    )
    for point in front.points:
        more = f"{point.peak / graph.totals.peak_bytes:.3f} of {graph.totals.peak_bytes / 1e6:,.0f} MB, {point.seconds / front.now.seconds - 1:+.2%}"
        print(f"  {more}: {point.verdict.kind}, {point.verdict.how}; {', '.join(point.words) or 'as it is'}")
    if run and points:
        (step,) = parse_pipeline(points[-1].words[-1])
        start = time.perf_counter()
        done = apply(program, graph, step.name, dict(step.settings), Judge(program)).step
        print(
            f"  {step.words} planned anew and run: {done.verdict.kind}, {done.after.peak_bytes:,} bytes, {time.perf_counter() - start:.1f} s"
        )


def verified(front: BudgetFront) -> list[BudgetPoint]:
    """Points of the front that are proven, but for the graph as it is."""
    return [point for point in front.points if point.words and point.verdict.kind == "bitwise"]


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
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seq", type=int, default=512)
    parser.add_argument("--layers", type=int, default=40)
    parser.add_argument("--skip", default="")
    parser.add_argument("--run", action="store_true")
    given = parser.parse_args()
    if given.skip != "gpt2":
        shape = {"batch": str(given.batch), "seq": str(given.seq)}
        gpt2(f"zoo/gpt2, {given.batch} × {given.seq}", zoo_source("gpt2", shape), given.run)
    if given.skip != "long":
        long(given.layers)


if __name__ == "__main__":
    main()
