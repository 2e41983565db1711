"""Orders with the lowest peak: as low as brute force finds, never above the given one, and counted as the graph's own memory curve counts."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from graphs.capture import capture
from graphs.diff import diff
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.randomness import is_random
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from optimizers.base import Function
from optimizers.ordering import Problem, Storage, is_right, peak_of, solve
from optimizers.ordering.bounds import cut, floors
from optimizers.ordering.effort import Effort
from optimizers.ordering.exact import search
from optimizers.ordering.from_graph import problem_of, put_in_order, units_of
from optimizers.ordering.orders import ORDERS
from optimizers.ordering.problem import Index, Run, without_trifles
from optimizers.pipeline import apply
from optimizers.verify import Judge


def at_random(seed: int, units: int) -> Problem:
    """A problem with views, scratch, results and readers further down."""
    chance = random.Random(seed)
    before = tuple(tuple(sorted(chance.sample(range(at), min(at, chance.choice((0, 1, 1, 2, 2, 3)))))) for at in range(units))
    inside, storages = [0] * units, list[Storage]()
    for unit in range(units):
        if chance.random() < 0.2:
            continue
        readers = [one for one in range(unit + 1, units) if unit in before[one] and chance.random() < 0.9]
        readers += [one for one in range(unit + 1, units) if readers and readers[0] in before[one]][:1]
        size, lasts = chance.choice((1, 2, 3, 5, 8, 13)), chance.random() < 0.1
        inside[unit] = size + (chance.randint(0, 6) if chance.random() < 0.2 else 0)
        if readers or lasts:
            storages.append(Storage(size, unit, tuple(dict.fromkeys(readers)), lasts))
    return Problem(tuple(inside), tuple(storages), before)


def alive(problem: Problem, ran: set[int]) -> int:
    return sum(one.bytes for one in problem.storages if one.maker in ran and (one.lasting or not set(one.readers) <= ran))


def lowest(problem: Problem) -> int:
    """Brute force: every set of units that can have run, and every unit next."""
    known: dict[frozenset[int], int] = {}

    def rest(ran: frozenset[int]) -> int:
        if len(ran) == problem.units:
            return 0
        if ran not in known:
            live = alive(problem, set(ran))
            ready = (unit for unit in range(problem.units) if unit not in ran and set(problem.before[unit]) <= ran)
            known[ran] = min(max(live + problem.inside[unit], rest(ran | {unit})) for unit in ready)
        return known[ran]

    return rest(frozenset())


@pytest.mark.parametrize("seed", range(60))
def test_small_problems_are_solved_as_well_as_by_brute_force(seed: int) -> None:
    problem = at_random(seed, 4 + seed % 9)
    best, found = lowest(problem), solve(problem)
    assert is_right(problem, found.order)
    assert peak_of(problem, found.order) == found.peak == found.lower_bound == best
    assert found.given_peak == peak_of(problem, range(problem.units)) >= found.peak
    assert found.ending in ("optimal", "only order")


@pytest.mark.parametrize("seed", range(25))
def test_search_of_all_states_finds_the_optimum_and_proves_that_there_is_no_lower(seed: int) -> None:
    problem = at_random(seed, 6 + seed % 6)
    smaller, groups = without_trifles(problem)
    best, index, never = lowest(problem), Index(smaller), Effort()
    found = search(index, 0, 1 << 40, 1 << 40, never)
    assert found.order is not None
    assert found.proven == best == peak_of(problem, [unit for group in found.order for unit in groups[group]])
    assert search(index, 0, best, 1 << 40, never).order is None
    assert search(index, 0, 1 << 40, 1, never).proven <= best


@pytest.mark.parametrize("seed", range(12))
def test_cut_is_the_least_that_any_order_leaves_alive_at_a_unit(seed: int) -> None:
    problem = at_random(seed, 8)
    index = Index(problem)
    low = floors(index)
    for unit in range(problem.units):
        least = min(
            alive(problem, ran)
            for bits in range(1 << problem.units)
            if (ran := {one for one in range(problem.units) if bits >> one & 1}) >= set(problem.before[unit])
            and unit not in ran
            and all(set(problem.before[one]) <= ran for one in ran)
        )
        assert low[unit] <= cut(index, unit)[0] == least + problem.inside[unit]


@pytest.mark.parametrize("name", list(ORDERS))
def test_simple_orders_are_right_ones(name: str) -> None:
    for seed in range(20):
        problem = at_random(seed, 30)
        assert is_right(problem, ORDERS[name](Index(problem)))


def test_a_run_is_taken_back_as_it_came() -> None:
    index = Index(at_random(5, 20))
    run = Run(index)
    for _ in range(8):
        run.do(next(iter(run.ready)))
    seen = (run.live, list(run.waits), list(run.left), set(run.ready))
    for _ in range(7):
        run.do(next(iter(run.ready)))
    for _ in range(7):
        run.undo()
    assert (run.live, run.waits, run.left, set(run.ready)) == seen


def test_larger_problems_never_get_worse_and_come_out_the_same_each_time() -> None:
    for seed in range(2):
        problem = at_random(seed, 60)
        one, two = solve(problem), solve(problem)
        assert is_right(problem, one.order)
        assert one.lower_bound <= one.peak <= one.given_peak
        assert one.order == two.order
    hurried = solve(problem, looks=0)
    assert is_right(problem, hurried.order)
    assert hurried.peak <= hurried.given_peak


def program_of(name: str, mode: str, **options: str) -> Program:
    return capture(zoo_source(name, options), mode, "cpu").program


def looped(x: Tensor) -> Tensor:
    """A loop, whose steps hold memory inside, between large branches."""
    early = x.exp()
    _, rows = torch._higher_order_ops.scan(lambda state, row: (state + row.sin(), (state * row).cos()), x[0], x)
    return (rows + 1).sum(0) + early.sum(0) + torch.cond(x.sum() > 0, lambda y: y.exp().sin().sum(0), lambda y: y[0] + 1, (x,))


SOURCES = {
    "attention": (zoo_source("attention", {"batch": "1"}), "training"),
    "lstm": (zoo_source("lstm", {"seq": "3"}), "training"),
    "branches": (zoo_source("branches", {}), "training"),
    "loop": (ModelSource("looped", lambda: Function(looped), lambda: (torch.randn(5, 40),), None, ()), "inference"),
}


@pytest.mark.parametrize("name", list(SOURCES))
def test_peak_of_any_order_is_that_of_the_reordered_graph(name: str) -> None:
    program = capture(*SOURCES[name], "cpu").program
    problem, chance = problem_of(program.gm), random.Random(0)
    assert peak_of(problem, range(problem.units)) == snapshot(program).totals.peak_bytes
    for _ in range(3):
        run = Run(Index(problem))
        while run.ready:
            run.do(chance.choice(list(run.ready)))
        other = program.clone()
        units = units_of(other.gm)
        put_in_order(other.gm.graph, [units[at] for at in run.order])
        other.gm.graph.lint()
        assert peak_of(problem, run.order) == snapshot(other).totals.peak_bytes


def test_draws_of_random_numbers_keep_their_order() -> None:
    def drawing(x: Tensor) -> Tensor:
        one, two, three = torch.rand_like(x), torch.rand_like(x[0]), torch.rand_like(x)
        return three.sum(0) + two + one.sum(0)

    program = capture(
        ModelSource("drawing", lambda: Function(drawing), lambda: (torch.randn(9, 40),), None, ()), "inference", "cpu"
    ).program
    before = [node.name for node in program.gm.graph.nodes if is_random(node)]
    done = apply(program, snapshot(program), "reorder-for-peak", {}, Judge(program))
    assert done.step.after.peak_bytes < done.step.before.peak_bytes
    assert [node.name for node in done.program.gm.graph.nodes if is_random(node)] == before
    assert done.step.verdict.kind == "bitwise"
    assert done.step.diff.moved
    assert not done.step.diff.changed


def test_a_training_graph_gets_lower_and_a_second_time_stays() -> None:
    program = capture(zoo_source("lstm", {"seq": "4"}), "training", "cpu", CaptureOptions(update="sgd")).program
    done = apply(program, snapshot(program), "reorder-for-peak", {}, Judge(program))
    assert done.step.after.peak_bytes < done.step.before.peak_bytes
    assert done.step.verdict.kind == "bitwise"
    assert done.step.claim_broken == ()
    again = apply(done.program, done.snapshot, "reorder-for-peak", {})
    assert again.step.after.peak_bytes <= done.step.after.peak_bytes


def test_a_diff_names_the_fewest_nodes_that_moved() -> None:
    program = program_of("mlp", "inference", depth="2")
    other = program.clone()
    units = units_of(other.gm)
    put_in_order(other.gm.graph, units)
    assert diff(snapshot(program), snapshot(other)).moved == ()
    free = next(node for node in units if not any(read in units for read in node.all_input_nodes) and node is not units[0])
    units[0].prepend(free)
    assert diff(snapshot(program), snapshot(other)).moved == (free.name,)
