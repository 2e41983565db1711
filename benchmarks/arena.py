"""How small an arena memory planning finds, beside greedy planning and the lower bound.

    python -m benchmarks.arena                the instances of the tests, and the training graphs of two models
    python -m benchmarks.arena FILE.csv …     columns `id,lower,upper,size`; a name like A.1048576.csv states a capacity

KiB of the arena. The lower bound is the most that lives at one step. With a capacity, planning ends when the plan keeps to it; without, when nothing smaller
is possible, or after 10 seconds. Seconds are wall time of one run on one core, the C++ compiler not counted.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from graphs.ladder import climb
from graphs.lifetimes import lifetimes
from graphs.sources.zoo import zoo_source
from optimizers.arena import Buffer, buffers_of, plan
from optimizers.arena.greedy import greedy, order_of
from optimizers.arena.problem import problem_of

INSTANCES = Path(__file__).parent.parent / "tests" / "data" / "allocation"
MODELS = {"gpt2": {"layers": "2", "batch": "2", "seq": "64"}, "resnet18": {"batch": "2"}}
SECONDS = 10


def from_file(path: Path) -> tuple[str, list[Buffer], int | None]:
    """Name, buffers, and the capacity if the name states one."""
    with path.open() as file:
        buffers = [Buffer(int(row["lower"]), int(row["upper"]), int(row["size"])) for row in csv.DictReader(file)]
    stated = path.stem.rpartition(".")[2]
    return path.stem.partition(".")[0], buffers, int(stated) if stated.isdigit() else None


def from_models() -> Iterator[tuple[str, list[Buffer], int | None]]:
    """Lifetimes in training graphs, as captured."""
    for name, options in MODELS.items():
        snapshot = climb(zoo_source(name, options), "training", "cpu").graph
        yield f"zoo/{name}", buffers_of(lifetimes(snapshot.nodes, snapshot.outputs)), None


def row(name: str, buffers: Sequence[Buffer], capacity: int | None) -> str:
    """One line of the table."""
    problem = problem_of(buffers)
    order = order_of(problem, "size")
    fits = []
    for rule in ("first-fit", "best-fit"):
        offsets = greedy(problem, order, rule)
        fits.append(problem.unit * max(offset + size for offset, size in zip(offsets, problem.sizes, strict=True)))
    found = plan(buffers, capacity, SECONDS)
    sizes = " | ".join(f"{size / 1024:,.0f}" for size in (problem.lower_bound * problem.unit, *fits, found.size))
    gap = found.size / (problem.lower_bound * problem.unit) - 1
    return f"| {name} | {len(buffers):,} | {sizes} | {gap:.2%} | {found.ending} | {found.seconds:.2f} |"


def main(files: Sequence[str]) -> None:
    """Prints the table."""
    print("| instance | buffers | lower bound | first-fit by size | best-fit by size | ours | gap | ended by | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    paths = [Path(file) for file in files] or sorted(INSTANCES.glob("*.csv"))
    for path in paths:
        print(row(*from_file(path)), flush=True)
    if not files:
        for name, buffers, capacity in from_models():
            print(row(name, buffers, capacity), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
