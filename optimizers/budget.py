"""What could be done about a graph's peak, all memory optimizations together: pipelines, each with its peak and its predicted time.

What keeps every bit comes first. Recomputation is planned for a ladder of budgets; each plan that nothing found so far beats is carried out on a copy of the
graph, its peak is counted there, and the copy is proven to give the same bits (`sameness`): such points are verified before anybody takes them. Then
come steps that round, one after another as far as each lowers the peak, and recomputation behind them: what those steps do to the answers is not known before they
run, so these points are verified when they are taken. The plans that go lowest are searched once more, and results are written in place behind them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import msgspec
from torch import fx

from graphs.program import Program
from graphs.record import GraphSnapshot
from optimizers.base import Match, Optimization
from optimizers.catalog import named, parse_settings
from optimizers.front import APART, RANKS, beaten, pareto
from optimizers.pipeline import apply, apply_optimization, sites
from optimizers.planning.profit import MACHINES
from optimizers.recomputation.evaluate import held_at_peak
from optimizers.recomputation.plan import Plan, front, plans
from optimizers.recomputation.problem import NANOSECONDS, Problem, in_copy, problem_of
from optimizers.recomputation.rewriting import ran_again
from optimizers.recomputation.written import written
from optimizers.record import BudgetFront, BudgetPoint, Exactness, Verdict
from optimizers.sameness import Prover

INTO_INPUTS = "update-in-place"  # it costs nothing, and counts where recomputation has lowered all else
FIRST = (
    "fuse-attention",
    "chunk-linear-cross-entropy",
    "accumulate-embedding-gradient",
    "free-early",
    INTO_INPUTS,
    "update-as-gradients-come",
)
LAST = ("run-in-place", "reorder-for-peak")  # one behind the other: what is free once all else is decided
IN_PIECES = ("chunk-mlp", "chunk-attention", "accumulate-gradients")
APPROXIMATE = ("save-in-bfloat16", "compress-activations")
ON_CUDA = ("offload-activations",)  # on a CPU the host's memory is the same
RECOMPUTE = "recompute-to-budget"
SHOWN = 8
AS_IT_IS = Verdict("bitwise", reason="nothing is done", how="proven")
WHEN_TAKEN = "verified when it is taken"
VERIFYING = 0.5  # the share of the work up to the last verified point
CARRIED_OUT = 4  # plans, of those with the lowest peaks, that are searched once more, and behind which it is tried what can be in place


@dataclass(frozen=True)
class _Base:
    """A graph after steps that were really applied."""

    words: tuple[str, ...]
    program: Program
    graph: GraphSnapshot
    verdict: Verdict

    @cached_property
    def point(self) -> BudgetPoint:
        seconds = _seconds(self.program, self.graph)
        return BudgetPoint(self.words, self.graph.totals.peak_bytes, seconds, _exactness(self.words), verdict=self.verdict)

    def after(self, step: str, settings: Mapping[str, str] | None = None) -> _Base | None:
        """With one step more; None where it has nothing to do."""
        settings = settings or {}
        if not sites(self.program, named(step), parse_settings(named(step), settings)[0]):
            return None
        done = apply(self.program, self.graph, step, settings)
        verdict = Verdict("not run", reason=f"{WHEN_TAKEN}: {step} is not proven before it runs")
        return _Base((*self.words, done.step.words), done.program, done.snapshot, verdict)


@dataclass
class _Finding:
    """What is found so far, for one graph as it is.

    Attributes:
        smallest: the plan with the lowest peak of all, with its problem.
    """

    start: _Base
    points: list[BudgetPoint] = field(default_factory=list)
    smallest: tuple[Problem, Plan] | None = None

    @property
    def apart(self) -> float:
        return APART * self.start.graph.totals.peak_bytes

    def front(self) -> BudgetFront:
        """The front so far."""
        points = pareto(self.points, self.apart)
        now = self.points[0]
        if self.smallest is None or self.smallest[1].peak > points[-1].peak:
            return BudgetFront(now, points, len(self.points))
        problem, plan = self.smallest
        held = [(problem.operators[at].name, size) for at, size in held_at_peak(problem, plan.levels)]
        return BudgetFront(now, points, len(self.points), problem.operators[plan.at].name, tuple(held[:SHOWN]))

    def note(self, problem: Problem, plan: Plan) -> None:
        if self.smallest is None or plan.peak < self.smallest[1].peak:
            self.smallest = problem, plan


def budget_fronts(program: Program, graph: GraphSnapshot, rungs: int, approximate: bool) -> Iterator[tuple[float, BudgetFront]]:
    """The front of a graph, given anew (with the share of the work that is done) whenever there is a point more; the last is the whole.

    Args:
        rungs: budgets for which recomputation is planned; 0 takes only the patterns that its search starts from.
        approximate: with steps that change the answers.
    """
    finding = _Finding(_Base((), program, graph, AS_IT_IS))
    finding.points.append(finding.start.point)
    prover = Prover(program)
    # What is written into inputs cannot be proven, so it comes behind what can.
    exact = _chain(finding, [step for step in FIRST if named(step).exactness == "bitwise" and step != INTO_INPUTS], prover)
    for share in _verified(finding, exact, rungs, prover):
        yield VERIFYING * share, finding.front()
    chain = _chain(finding, FIRST, prover)
    if chain.words != exact.words:
        yield VERIFYING, finding.front()
        _planned_only(finding, chain, rungs)
    yield 0.8, finding.front()
    finding.points += [_judged(made, prover) for made in _others(chain, approximate)]
    yield 0.9, finding.front()
    finding.points += _refined([exact] if chain.words == exact.words else [exact, chain], finding.front().points, prover)
    yield 1.0, finding.front()


def _chain(finding: _Finding, steps: Sequence[str], prover: Prover) -> _Base:
    """The graph after one step behind the other, each only where it lowers the peak, or keeps it in less time. Every stage is a point."""
    base = finding.start
    for step in steps:
        more = base.after(step)
        if more is None or not _is_taken(step, more.point, base.point):
            continue
        base = replace(more, verdict=_proof(prover, more.program)) if _exactness(more.words) == "bitwise" else more
        finding.points.append(base.point)
    return base


def _verified(finding: _Finding, base: _Base, rungs: int, prover: Prover) -> Iterator[float]:
    """Carries out and proves every plan behind a base that nothing found so far beats; gives the share of the plans that are done."""
    problem = problem_of(base.program.gm, base.program.device)
    passed_over: Plan | None = None
    for number, plan in enumerate(_plans(problem, rungs), 1):
        finding.note(problem, plan)
        if beaten(_planned(base, problem, plan), finding.points, finding.apart):
            passed_over = plan if passed_over is None or plan.peak < passed_over.peak else passed_over
            continue
        finding.points.append(_carried_out(base, problem, plan, prover))
        yield number / (number + 2)
    if passed_over is not None and all(passed_over.peak < one.peak for one in finding.points):
        finding.points.append(_carried_out(base, problem, passed_over, prover))
        yield 1.0


def _planned_only(finding: _Finding, base: _Base, rungs: int) -> None:
    problem = problem_of(base.program.gm, base.program.device)
    for plan in _plans(problem, rungs):
        finding.note(problem, plan)
        finding.points.append(_planned(base, problem, plan))


def _plans(problem: Problem, rungs: int) -> Iterator[Plan]:
    if problem.choices and problem.backward < len(problem.operators):
        yield from (plan for plan in front(problem, rungs) if plan.cost)


def _settings(problem: Problem, plan: Plan) -> dict[str, str]:
    """The budget and the plan itself, so that whoever takes the point searches for nothing and gets this very plan."""
    return {"budget": f"{plan.budget}B", "plan": written(problem, plan.levels)}


def _in_words(settings: Mapping[str, str]) -> str:
    return f"{RECOMPUTE}({','.join(f'{key}={value}' for key, value in settings.items())})"


def _planned(base: _Base, problem: Problem, plan: Plan) -> BudgetPoint:
    """A point as it is planned: the peak of the schedule is what is counted once it is a graph."""
    words = (*base.words, _in_words(_settings(problem, plan)))
    seconds = base.point.seconds
    return BudgetPoint(words, plan.peak, seconds + plan.cost / NANOSECONDS, _exactness(words), _bound(base, plan), base.verdict)


def _carried_out(base: _Base, problem: Problem, plan: Plan, prover: Prover) -> BudgetPoint:
    """A point whose plan was really written into a copy of the graph, counted there, and proven."""
    done = apply_optimization(base.program, base.graph, _planned_step(base, problem, plan), _settings(problem, plan))
    point = _planned(base, problem, plan)
    verdict = _proof(prover, done.program)
    return msgspec.structs.replace(
        point, peak=done.snapshot.totals.peak_bytes, seconds=_seconds(done.program, done.snapshot), verdict=verdict
    )


def _planned_step(base: _Base, problem: Problem, plan: Plan) -> Optimization:
    """The optimization with a plan that is there already."""
    assert plan.cheapest is not None
    order = plan.cheapest.order

    def find(gm: fx.GraphModule, **_: object) -> Iterator[Match]:
        moved = in_copy(problem, base.program.gm, gm)
        again = ran_again(moved, order)
        yield Match(again[0], again, (moved, order))

    return replace(named(RECOMPUTE), find=find)


def _proof(prover: Prover, after: Program) -> Verdict:
    found = prover.prove(after)
    if found.proven:
        return Verdict("bitwise", reason=found.reason, tensors=len(after.outputs), how="proven")
    return Verdict("not run", reason=f"{WHEN_TAKEN}: no proof, since {found.reason}")


def _others(base: _Base, approximate: bool) -> Iterator[_Base]:
    """Steps of other kinds after the last of the first ones: each alone, and those that come last one behind the other."""
    for step in (*(ON_CUDA if base.program.device == "cuda" else ()), *(APPROXIMATE if approximate else ()), *IN_PIECES):
        made = base.after(step)
        if made is not None:
            yield made
            yield from _ended(made, LAST[:1])
    yield from _ended(base, LAST)


def _ended(base: _Base, steps: Sequence[str]) -> Iterator[_Base]:
    """Steps one behind the other, and what each leaves."""
    for step in steps:
        made = base.after(step)
        if made is not None:
            base = made
            yield made


def _refined(bases: Sequence[_Base], front: Sequence[BudgetPoint], prover: Prover) -> list[BudgetPoint]:
    """The points with the lowest peaks, planned once more with all the work that a plan is given, for patterns that go so low are dear; and with results written in place behind."""
    lowest = [one for one in front if one.words and one.words[-1].startswith(RECOMPUTE)][-CARRIED_OUT:]
    found = []
    for base in bases:
        budgets = [_budget_of(point) for point in lowest if point.words[:-1] == base.words]
        problem = problem_of(base.program.gm, base.program.device)
        for plan in plans(problem, sorted(budgets, reverse=True)) if budgets else ():
            done = base.after(RECOMPUTE, _settings(problem, plan))
            if done is not None:
                point = _judged(done, prover)
                found.append(msgspec.structs.replace(point, bound=_bound(base, plan)))
                found += [_judged(made, prover) for made in _ended(done, LAST[:1])]
    return found


def _budget_of(point: BudgetPoint) -> int:
    """Bytes that the point's recomputation keeps to."""
    return int(point.words[-1].partition("budget=")[2].partition("B")[0])


def _bound(base: _Base, plan: Plan) -> float:
    """Predicted seconds that no recomputation behind these steps stays below; 0 where it is not known."""
    return 0.0 if plan.bound is None else base.point.seconds + plan.bound / NANOSECONDS


def _judged(made: _Base, prover: Prover) -> BudgetPoint:
    """The point, proven where its steps promise the same bits and that can be seen."""
    return replace(made, verdict=_proof(prover, made.program)).point if _exactness(made.words) == "bitwise" else made.point


def _seconds(program: Program, graph: GraphSnapshot) -> float:
    """Predicted time of one run."""
    machine = MACHINES.get(program.device, MACHINES["cpu"])
    return sum(machine.seconds(node.total) for node in graph.nodes if node.role != "prepared")


def _is_taken(step: str, one: BudgetPoint, other: BudgetPoint) -> bool:
    return _is_better(one, other) or step == INTO_INPUTS and one.peak <= other.peak


def _is_better(one: BudgetPoint, other: BudgetPoint) -> bool:
    """Lower peak, or the same peak in less time."""
    return one.peak < other.peak or (one.peak == other.peak and one.seconds < other.seconds)


def _exactness(words: Sequence[str]) -> Exactness:
    steps: list[Exactness] = [named(step.partition("(")[0]).exactness for step in words]
    return max(steps, key=RANKS.index) if steps else "bitwise"
