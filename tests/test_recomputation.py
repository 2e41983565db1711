"""Recomputation: a choice of levels comes to what the rewritten graph is counted and measured to be, and a plan keeps to its budget at the least cost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.errors import RequestError
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from jobs.experiment import parse_pipeline
from optimizers.amounts import bytes_of, in_words, is_amount
from optimizers.base import Match, Optimization
from optimizers.budget import budget_fronts
from optimizers.front import as_exact, pareto
from optimizers.pipeline import apply, apply_optimization
from optimizers.recomputation import core, plan, written
from optimizers.recomputation.bound import smallest_cost, smallest_peak
from optimizers.recomputation.core import Core
from optimizers.recomputation.evaluate import evaluate_in_python, held_at_peak, schedule
from optimizers.recomputation.min_cut import cheapest_to_keep
from optimizers.recomputation.problem import Operator, Problem, problem_of
from optimizers.recomputation.rewriting import run_schedule
from optimizers.record import BudgetPoint, Claim
from optimizers.verify import Judge
from profiler.peak import peak_bytes
from tests import small_models as small
from tests.fuzzer.kernels import interpreted_kernels

MODELS = {source.name: source for source in (small.ATTENTION, small.NORMALIZED, small.STACK)}


def levels_at_random(problem: Problem, seed: int) -> list[int]:
    chance, choices = random.Random(seed), set(problem.choices)
    return [chance.choice((0, 1, 1, 2, 3)) if at in choices else 0 for at in range(len(problem.operators))]


def rewritten(program: Program, seed: int) -> tuple[Program, int]:
    """The program after a schedule at random, and the peak that the evaluation says."""
    peak = 0

    def find(gm: torch.fx.GraphModule) -> Iterator[Match]:
        nonlocal peak
        problem = problem_of(gm, "cpu")
        levels = levels_at_random(problem, seed)
        peak = Core(problem).evaluate(levels).peak
        order = schedule(problem, levels)
        again = tuple(dict.fromkeys(problem.nodes[at] for runs in order for at, is_again in runs if is_again))
        yield Match(again[0], again, (problem, order))

    def rewrite(gm: torch.fx.GraphModule, match: Match) -> None:
        run_schedule(gm, *match.data)

    one = Optimization("at-random", "", find, rewrite, Claim("any", "any", "any", "any"), (), (), "bitwise")
    return apply_optimization(program, snapshot(program), one, {}).program, peak


@pytest.mark.parametrize("name", list(MODELS))
def test_a_schedule_is_counted_measured_and_computes_as_it_was_evaluated(name: str) -> None:
    program = capture(MODELS[name], "training", "cpu").program
    judge = Judge(program)
    for seed in range(2):
        made, peak = rewritten(program, seed)
        assert peak == snapshot(made).totals.peak_bytes
        assert peak_bytes(made, made.materialize()) == pytest.approx(peak, rel=0.005)
        assert judge.verdict(program, made, "bitwise").kind == "bitwise"


@pytest.mark.skipif(core.compiled() is None, reason="nothing to compare: no C++ compiler")
def test_the_compiled_core_says_what_python_says() -> None:
    for source in (small.ATTENTION, small.NORMALIZED, small.STACK):
        problem = problem_of(capture(source, "training", "cpu").program.gm, "cpu")
        ready = Core(problem)
        for seed in range(20):
            levels = levels_at_random(problem, seed)
            budget = ready.evaluate(levels).peak * 2 // 3
            assert ready.evaluate(levels, budget) == evaluate_in_python(problem, levels, budget)
            changes = [{at: 0} for at in problem.choices[:5]]
            assert [one.peak for one in ready.after(levels, changes, 0)] == [
                evaluate_in_python(problem, core.changed(levels, change), 0).peak for change in changes
            ]


def chain(length: int, seed: int = 0) -> Problem:
    """Layers in a row and their gradients; each gradient reads the next one and what its layer read and gave. Sizes and costs at random, or 1."""
    chance = random.Random(seed)
    size = [chance.randint(1, 9) if seed else 1 for _ in range(2 * length)]
    forward = [
        Operator(f"f{at}", (at - 1,) if at else (), (at,), chance.randint(1, 9) if seed else 1, 0, 0, (at - 1,) if at else (), (at,))
        for at in range(length)
    ]
    backward = []
    for step in range(length):
        layer = length - 1 - step
        reads = [layer, *([layer - 1] if layer else []), *([length + step - 1] if step else [])]
        backward.append(Operator(f"b{layer}", tuple(reads), (length + step,), 1))
    kept = [False] * (2 * length - 1) + [True]
    return Problem((*forward, *backward), tuple(size), tuple(kept), length)


def cheapest(problem: Problem, budget: int) -> int | None:
    """By trying all: what is forgotten, once."""
    found = []
    for chosen in itertools.product((0, 1), repeat=len(problem.choices)):
        levels = [0] * len(problem.operators)
        for at, level in zip(problem.choices, chosen, strict=True):
            levels[at] = level
        after = evaluate_in_python(problem, levels, budget)
        if not after.excess:
            found.append(after.cost)
    return min(found, default=None)


@pytest.mark.parametrize("seed", range(6))
def test_a_plan_for_a_small_problem_is_as_cheap_as_trying_all_finds(seed: int) -> None:
    problem = chain(8, seed)
    base = evaluate_in_python(problem, [0] * 16, 0).peak
    for budget in range(base, base // 2, -max(1, base // 8)):
        best, found = cheapest(problem, budget), plan.plan(problem, budget)
        if best is not None:
            assert found.peak <= budget
            assert found.cost <= best
            assert found.bound is not None
            assert found.bound <= found.cost
        assert found.least <= found.peak


def test_budgets_that_fall_cost_ever_more_and_are_kept() -> None:
    program = capture(small.STACK, "training", "cpu").program
    problem = problem_of(program.gm, "cpu")
    base = snapshot(program).totals.peak_bytes
    budgets = [base * share // 100 for share in range(95, 55, -4)]
    found = list(plan.plans(problem, budgets, work=2_000_000))
    assert len({one.cost for one in found}) > 4
    for one, budget in zip(found, budgets, strict=True):
        assert one.peak <= budget
        assert one.bound is not None
        assert one.bound <= one.cost
    assert [one.cost for one in found] == sorted(one.cost for one in found)
    again = list(plan.plans(problem, budgets[:2], work=2_000_000))
    assert [one.levels for one in again] == [one.levels for one in found[:2]]


def test_what_a_front_shows_is_found_again_by_its_budget() -> None:
    problem = problem_of(capture(small.STACK, "training", "cpu").program.gm, "cpu")
    shown = list(plan.front(problem))
    assert len(shown) > 6
    for one in shown[1::3]:
        again = plan.plan(problem, one.budget)
        assert again.peak <= one.budget
        assert again.cost <= one.cost


def test_without_a_compiler_a_plan_keeps_to_its_budget_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "compiled", lambda: None)
    monkeypatch.setattr(plan, "compiled", lambda: None)
    problem = chain(12)
    found = plan.plan(problem, 9)
    assert found.peak <= 9
    assert found.cost > 0


def test_the_bounds_hold_for_every_choice() -> None:
    problem = problem_of(capture(small.NORMALIZED, "training", "cpu").program.gm, "cpu")
    for seed in range(30):
        after = evaluate_in_python(problem, levels_at_random(problem, seed), 0)
        assert smallest_peak(problem) <= after.peak
        bound = smallest_cost(problem, after.peak)
        assert bound is not None
        assert bound <= after.cost


def test_a_minimum_cut_keeps_the_fewest_bytes_and_runs_nothing_heavy_again() -> None:
    for source in (small.ATTENTION, small.STACK):
        problem = problem_of(capture(source, "training", "cpu").program.gm, "cpu")
        levels = cheapest_to_keep(problem)
        again = {at for runs in schedule(problem, levels) for at, is_again in runs if is_again}
        assert again
        assert not any(problem.operators[at].heavy for at in again)
        light = [at for at in problem.choices if not problem.operators[at].heavy]
        for seed in range(200):
            chance = random.Random(seed)
            other = [int(at in light and chance.random() < 0.6) for at in range(len(problem.operators))]
            if not any(problem.operators[at].heavy for runs in schedule(problem, other) for at, is_again in runs if is_again):
                assert kept_bytes(problem, levels) <= kept_bytes(problem, other)


def kept_bytes(problem: Problem, levels: list[int] | tuple[int, ...]) -> int:
    """Bytes that forward leaves to backward: what is read there before it is made again."""
    made: set[int] = set()
    kept: set[int] = set()
    for runs in schedule(problem, levels)[problem.backward :]:
        for at, again in runs:
            one = problem.operators[at]
            kept |= set(one.reads_again if again else one.reads) - made
            made |= set(one.writes_again if again else one.writes)
    return sum(problem.sizes[storage] for storage in kept)


def test_a_budget_below_what_is_possible_names_the_smallest_one_and_what_is_there() -> None:
    program = capture(small.STACK, "training", "cpu").program
    graph = snapshot(program)
    step = apply(program, graph, "recompute-to-budget", {"budget": "100KiB"}).step
    assert step.matches == ()
    (reason,) = (miss.reason for miss in step.misses if "below" in miss.reason)
    problem = problem_of(program.gm, "cpu")
    found = plan.plan(problem, 100 << 10)
    assert found.ending == "impossible"
    assert f"the smallest peak found is {in_words(found.peak)}" in reason
    held = held_at_peak(problem, found.levels)
    assert problem.operators[held[0][0]].name in reason
    assert sum(size for _, size in held) <= found.peak


def test_the_nodes_that_are_named_run_again_and_no_others() -> None:
    program = capture(zoo_source("chain", {"depth": "4", "batch": "64", "width": "8"}), "training", "cpu").program
    graph = snapshot(program)
    for nodes, again in (("relu", {"relu_again"}), ("relu_1.addmm_1", {"addmm_1_again", "relu_1_again"}), ("detach", {"relu_again"})):
        made = apply(program, graph, "recompute-nodes", {"nodes": nodes}).snapshot
        copies = {node.name for node in made.nodes if node.phase == "recompute" and node.storage == node.name}
        assert copies == again, nodes


class _HalfDropped(nn.Module):
    """Dropout in half precision between a product and a sum; 1 / (1 - p) is no number of that precision."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(8, 8, dtype=torch.bfloat16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        dropped = nn.functional.dropout(self.first(x), 0.25, self.training)
        return self.second(dropped) + self.third(torch.tanh(dropped * 2 + x))


@pytest.mark.parametrize(
    ("name", "settings"),
    [("recompute-light-work", {}), ("recompute-by-knapsack", {"budget": "1B"}), ("recompute-nodes", {"nodes": "native_dropout"})],
)
def test_behind_fused_kernels_dropout_in_half_precision_comes_back_bit_for_bit(name: str, settings: dict[str, str]) -> None:
    half = ModelSource("half", _HalfDropped, lambda: (torch.randn(64, 8, dtype=torch.bfloat16),), None, ())
    program = capture(half, "training", "cpu").program
    with interpreted_kernels():
        fused = apply(program, snapshot(program), "fuse-loops", {})
        assert fused.step.matches
        step = apply(fused.program, fused.snapshot, name, settings, Judge(program)).step
    assert "native_dropout" in step.matches[0].nodes
    assert (step.verdict.kind, step.verdict.how) == ("bitwise", "run")


def test_amounts_are_read_as_they_are_written() -> None:
    assert [bytes_of(text, 1000) for text in ("0.5", "1", "2KiB", "1.5MB", "7B")] == [500, 1000, 2048, 1_500_000, 7]
    assert not any(is_amount(text) for text in ("", "0", "1.5", "-1", "5 %", "1TB", "1e3", "0.0", "nan"))
    assert [in_words(one) for one in (12, 2048, 3 << 19, 5 << 30)] == ["12 B", "2 KiB", "1.5 MiB", "5 GiB"]
    program = capture(small.TWO_LAYERS, "training", "cpu").program
    with pytest.raises(RequestError, match="not an amount of memory") as error:
        apply(program, snapshot(program), "recompute-to-budget", {"budget": "lots"})
    assert "512MiB" in error.value.help


def test_a_front_is_pipelines_that_come_to_what_it_says_without_planning_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(small.source(lambda: small.Stack(4), 64, 32), "training", "cpu").program
    graph = snapshot(program)
    fronts = [front for _, front in budget_fronts(program, graph, 3, False)]
    front = fronts[-1]
    assert front.points == pareto(front.points)
    assert front.points[0].words == ()
    assert len(front.points) > 4
    verified = [point for point in front.points if point.verdict.how == "proven" and point.words]
    assert len(verified) > 2
    assert all(point.verdict.kind == "bitwise" for point in verified)
    assert len(fronts[0].points) < len(front.points)
    assert fronts[0].points[-1].verdict.how == "proven"
    planned = [point for point in front.points if "plan=" in "".join(point.words)]
    assert len(planned) > 2
    monkeypatch.setattr(plan, "Search", None)  # whoever takes a point searches for nothing
    for point in [planned[0], planned[-1], *front.points[2:6:2]]:
        made, after = program, graph
        for step in parse_pipeline(",".join(point.words)):
            applied = apply(made, after, step.name, dict(step.settings))
            assert applied.step.matches
            made, after = applied.program, applied.snapshot
        assert after.totals.peak_bytes == point.peak
        assert applied.step.words == point.words[-1]


def test_a_plan_is_one_word_that_holds_for_its_graph_alone() -> None:
    programs = [
        capture(small.source(lambda width=width: small.Stack(4, width), 64, width), "training", "cpu").program for width in (16, 32)
    ]
    one, other = (problem_of(program.gm, "cpu") for program in programs)
    levels = [0] * len(one.operators)
    for number, at in enumerate(one.choices):
        levels[at] = number % 3
    word = written.written(one, levels)
    assert written.is_word(word)
    assert written.read(one, word) == tuple(levels)
    dearer = replace(one, operators=tuple(replace(each, cost=7) for each in one.operators))
    assert written.read(dearer, word) == tuple(levels)  # what it costs elsewhere does not change what it is
    with pytest.raises(written.OtherPlanError, match="another graph"):
        written.read(other, word)
    too_deep = written.written(one, [200] * len(levels))
    for damaged in (word[:-4], word + "AAAA", too_deep, written.written(one, [0] * len(levels))[:8], word[:6] + "!"):
        with pytest.raises(written.OtherPlanError, match=r"damaged|as fxscope writes"):
            written.read(one, damaged)
    graph = snapshot(programs[0])
    for budget, reason in (("0.05", "the budget is"), ("1B", "the budget is")):
        missed = apply(programs[0], graph, "recompute-to-budget", {"budget": budget, "plan": word}).step
        assert not missed.matches
        assert any(reason in miss.reason for miss in missed.misses), missed.misses


def test_of_points_only_those_stay_that_nothing_beats() -> None:
    exact = (("a", 9, 1.0), ("b", 9, 2.0), ("c", 5, 3.0), ("d", 6, 4.0))
    points = [*(BudgetPoint((name,), peak, seconds, "bitwise") for name, peak, seconds in exact), BudgetPoint(("e",), 4, 2.5, "rounding")]
    assert names(pareto(points)) == "ace"  # who wants the same bits is not served by what rounds
    assert names(as_exact(points, "bitwise")) == "ac"
    assert names(as_exact(points, "rounding")) == "ae"
    near = [
        BudgetPoint((name,), peak, seconds, "bitwise")
        for name, peak, seconds in (("a", 100, 1.0), ("b", 60, 2.0), ("c", 59, 3.0), ("d", 58, 4.0))
    ]
    assert names(pareto(near)) == "abcd"
    assert names(pareto(near, apart=2)) == "abd"  # the smallest stays


def names(points: Sequence[BudgetPoint]) -> str:
    return "".join(word for point in points for word in point.words)
