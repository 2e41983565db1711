"""How good is the planner of recomputation? Its plans against the optimum, on problems where that can be known.

    python -m benchmarks.recomputation [--seconds 60]

Problems: chains of equal operators with the budgets of which optima were known, chains of unequal ones, graphs in the manner of U-Nets, and 20 random training
graphs of 21 to 31 operators; and three larger ones, of which not every optimum could be proven. A ratio is the cost of what runs again over the same cost of the optimum, which is stricter than the ratio of whole schedules that
Checkmate's table gives; that one is shown beside it. "Levels" is the search alone, without the exact one that plans for small problems end with.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optimizers.recomputation.bound import smallest_peak
from optimizers.recomputation.evaluate import as_it_is
from optimizers.recomputation.exact import optimum
from optimizers.recomputation.instances import linear, tangled, u_net, uneven
from optimizers.recomputation.plan import plan
from optimizers.recomputation.problem import Problem

SHARES = (0.15, 0.4, 0.65)  # of the way from what every schedule needs to what saving all needs


@dataclass(frozen=True)
class Row:
    """Costs of what runs again; None where nothing within the budget was found, or nothing proven."""

    name: str
    group: str
    budget: int
    once: int  # cost of running everything once
    levels: int | None
    planned: int | None
    best: int | None
    ending: str
    gap: float
    seconds: float
    proving: float


def instances() -> Iterator[tuple[str, str, Problem, Sequence[int]]]:
    """Name, group, problem and budgets."""
    for length, budgets in ((8, (7, 5)), (16, (12, 9)), (32, (23, 17))):
        yield f"linear{length}", "equal chains", linear(length), budgets
    for seed in range(5):
        yield f"uneven{8 + 4 * seed}", "unequal chains", *_spread(uneven(8 + 4 * seed, seed))
    for depth in (2, 3):
        yield f"u-net{depth}", "U-Nets", *_spread(u_net(depth))
    for seed in range(20):
        yield f"random{seed}", "random graphs", *_spread(tangled(10 + seed % 6, seed))
    for name, problem in (("u-net4", u_net(4)), ("uneven30", uneven(30, 2)), ("random22", tangled(22, 3))):
        yield name, "larger", *_spread(problem)


def _spread(problem: Problem) -> tuple[Problem, list[int]]:
    least, most = smallest_peak(problem), as_it_is(problem).peak
    return problem, [math.ceil(least + share * (most - least)) for share in SHARES]


def measured(name: str, group: str, problem: Problem, budget: int, seconds: float) -> Row:
    start = time.monotonic()
    planned = plan(problem, budget)
    between = time.monotonic()
    best = optimum(problem, budget, seconds)
    return Row(
        name, group, budget, sum(one.cost for one in problem.operators),
        None if planned.ending == "impossible" else planned.cost, None if planned.cheapest is None else planned.cheapest.cost,
        None if best.order is None else best.cost, best.ending, best.gap, between - start, time.monotonic() - between,
    )  # fmt: skip


def ratios(rows: Sequence[Row], levels: bool, whole: bool = False) -> list[float]:
    """Of each row where the optimum is proven and something must run again."""
    found = []
    for row in rows:
        cost = row.levels if levels else row.planned
        if cost is not None and row.best and row.ending.startswith("optimal"):
            found.append((row.once * whole + cost) / (row.once * whole + row.best))
    return found


def geometric_mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def show(rows: Sequence[Row]) -> None:
    print("| problem | budget | levels | plan | optimum | known as | gap | planning | proving |\n|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        numbers = " | ".join("none" if one is None else str(one) for one in (row.levels, row.planned, row.best))
        print(f"| {row.name} | {row.budget} | {numbers} | {row.ending} | {row.gap:.1%} | {row.seconds:.2f} s | {row.proving:.1f} s |")
    print(
        "\n| group | rows | plan ÷ optimum | worst | of whole schedules | levels ÷ optimum | worst | of whole schedules | levels find none |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for group in [*dict.fromkeys(row.group for row in rows), "all"]:
        mine = [row for row in rows if group in (row.group, "all") and row.best is not None]
        cells = []
        for levels in (False, True):
            each = ratios(mine, levels)
            cells += [
                f"{geometric_mean(each):.3f}",
                f"{max(each, default=math.nan):.2f}",
                f"{geometric_mean(ratios(mine, levels, True)):.3f}",
            ]
        missed = sum(row.levels is None for row in mine)
        print(f"| {group} | {len(mine)} | {' | '.join(cells)} | {missed} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="for the programs of integers, each problem and budget")
    seconds = parser.parse_args().seconds
    show([measured(name, group, problem, budget, seconds) for name, group, problem, budgets in instances() for budget in budgets])


if __name__ == "__main__":
    main()
