"""What could be done about a graph's peak, all memory optimizations together: pipelines, each with its peak and its predicted time.

Steps that lower the peak and cost little come first, one after another, as far as each is worth it. Then recomputation is planned for a ladder of budgets, with and
without them. What no other point beats in both peak and time is the front. Every point is steps that the reader can add, and that are verified then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from graphs.program import Program
from graphs.record import GraphSnapshot
from optimizers.catalog import named
from optimizers.pipeline import apply
from optimizers.planning.profit import MACHINES
from optimizers.recomputation.evaluate import held_at_peak
from optimizers.recomputation.plan import Plan, front
from optimizers.recomputation.problem import NANOSECONDS, Problem, problem_of
from optimizers.record import BudgetFront, BudgetPoint, Exactness

FIRST = ("fuse-attention", "chunk-linear-cross-entropy", "accumulate-embedding-gradient", "free-early", "update-as-gradients-come")
LAST = ("run-in-place",)  # nothing else can look at the graph after it
APPROXIMATE = ("save-in-bfloat16", "compress-activations")
ON_CUDA = ("offload-activations",)  # on a CPU the host's memory is the same
RANKS: tuple[Exactness, ...] = ("bitwise", "rounding", "approximate")
SHOWN = 8

Tell = Callable[[float], None]


@dataclass(frozen=True)
class _Base:
    """A graph after steps that were really applied."""

    words: tuple[str, ...]
    program: Program
    graph: GraphSnapshot

    @property
    def seconds(self) -> float:
        """Predicted time of one run."""
        machine = MACHINES.get(self.program.device, MACHINES["cpu"])
        return sum(machine.seconds(node.total) for node in self.graph.nodes if node.role != "prepared")

    @property
    def point(self) -> BudgetPoint:
        return BudgetPoint(self.words, self.graph.totals.peak_bytes, self.seconds, _exactness(self.words))

    def after(self, step: str) -> _Base | None:
        """With one step more; None where it has nothing to do."""
        done = apply(self.program, self.graph, step, {})
        return _Base((*self.words, step), done.program, done.snapshot) if done.step.matches else None


def budget_front(program: Program, graph: GraphSnapshot, rungs: int, approximate: bool, tell: Tell) -> BudgetFront:
    """The front of a graph.

    Args:
        rungs: budgets for which recomputation is planned; 0 takes only the patterns that its search starts from.
        approximate: with steps that change the answers.
        tell: told a share of the work that is done.
    """
    start = _Base((), program, graph)
    points, bases = [start.point], [start]
    for number, step in enumerate(FIRST):
        base = bases[-1].after(step)
        tell(0.5 + 0.1 * number / len(FIRST))
        if base is not None and _is_better(base.point, bases[-1].point):
            bases.append(base)
            points.append(base.point)
    smallest: tuple[int, Problem, Plan] | None = None
    tried = list(dict.fromkeys((bases[-1].words, bases[0].words)))
    for number, base in enumerate(base for base in reversed(bases) if base.words in tried):
        problem = problem_of(base.program.gm, base.program.device)
        for plan in _planned(problem, rungs):
            points.append(_point(base, plan))
            if smallest is None or plan.peak < smallest[0]:
                smallest = plan.peak, problem, plan
            tell(0.6 + 0.15 * (number + 1))
    points += [made.point for made in _others(bases[-1], approximate)]
    found = pareto(points)
    if smallest is None or smallest[0] > found[-1].peak:
        return BudgetFront(start.point, found, len(points))
    _, problem, plan = smallest
    held = [(problem.operators[at].name, size) for at, size in held_at_peak(problem, plan.levels)]
    return BudgetFront(start.point, found, len(points), problem.operators[plan.at].name, tuple(held[:SHOWN]))


def _planned(problem: Problem, rungs: int) -> Iterator[Plan]:
    if problem.choices and problem.backward < len(problem.operators):
        yield from (plan for plan in front(problem, rungs) if plan.cost)


def _others(base: _Base, approximate: bool) -> Iterator[_Base]:
    """Single steps of other kinds after the last of the first ones."""
    for step in (*(ON_CUDA if base.program.device == "cuda" else ()), *(APPROXIMATE if approximate else ()), *LAST):
        made = base.after(step)
        if made is not None:
            yield made


def _point(base: _Base, plan: Plan) -> BudgetPoint:
    words = (*base.words, f"recompute-to-budget(budget={plan.budget}B)")
    bound = 0.0 if plan.bound is None else base.seconds + plan.bound / NANOSECONDS
    return BudgetPoint(words, plan.peak, base.seconds + plan.cost / NANOSECONDS, _exactness(words), bound)


def _is_better(one: BudgetPoint, other: BudgetPoint) -> bool:
    """Lower peak, or the same peak in less time."""
    return one.peak < other.peak or (one.peak == other.peak and one.seconds < other.seconds)


def _exactness(words: Sequence[str]) -> Exactness:
    steps: list[Exactness] = [named(step.partition("(")[0]).exactness for step in words]
    return max(steps, key=RANKS.index) if steps else "bitwise"


def pareto(points: Sequence[BudgetPoint]) -> tuple[BudgetPoint, ...]:
    """What none beats in both peak and time, largest peak first; of equals the one with the fewest steps."""
    found: list[BudgetPoint] = []
    for point in sorted(points, key=lambda one: (one.seconds, one.peak, len(one.words))):
        if not found or point.peak < found[-1].peak:
            found.append(point)
    return tuple(found)
