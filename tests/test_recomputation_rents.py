"""Rents: for given rents the choice is the cheapest there is, and plans that set out from such choices are cheaper."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from graphs.capture import capture
from optimizers.recomputation.core import Core
from optimizers.recomputation.evaluate import as_it_is, evaluate_in_python
from optimizers.recomputation.instances import tangled, u_net
from optimizers.recomputation.problem import Problem, problem_of
from optimizers.recomputation.rents import Rents
from tests import small_models as small

MOMENT = 2


def price(problem: Problem, rents: Rents, levels: tuple[int, ...], paid: np.ndarray) -> int:
    """What is kept pays while it waits, and what runs again costs, and pays for the moment: counted storage by storage, without a cut."""
    place = {at: number for number, at in enumerate(problem.choices)}
    total, seen, runs = 0, set(), set()
    queue = [storage for one in problem.operators[problem.backward :] for storage in one.reads if storage in rents.made]
    while queue:
        storage = queue.pop()
        at = rents.made[storage]
        if storage in seen or at in runs:
            continue
        seen.add(storage)
        if not levels[at]:
            total += int(problem.sizes[storage] * paid[rents.first[storage] : rents.last[storage]].sum())
            continue
        runs.add(at)
        total += problem.operators[at].cost + int(MOMENT * rents.moment[place[at]] * paid[rents.row[place[at]]])
        queue += [read for read in problem.operators[at].reads_again if read in rents.made]
    return total


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_is_cheaper_than_the_cut_s(seed: int) -> None:
    problem = tangled(8, seed) if seed else u_net(1)
    rents = Rents(problem)
    chance = random.Random(seed)
    paid = np.array([chance.choice((0, 0, 1, 3)) for _ in problem.operators], np.float64)
    cut = rents.cut(paid, MOMENT)
    found = []
    for chosen in itertools.product((0, 1), repeat=len(problem.choices)):
        levels = [0] * len(problem.operators)
        for at, level in zip(problem.choices, chosen, strict=True):
            levels[at] = level
        found.append(price(problem, rents, tuple(levels), paid))
    assert price(problem, rents, cut, paid) == min(found) < max(found)


def test_rents_that_rise_keep_less() -> None:
    problem = problem_of(capture(small.STACK, "training", "cpu").program.gm, "cpu", "operations")
    rents = Rents(problem)
    again = [sum(rents.cut(np.full(rents.count, rent), 0)) for rent in (1e-6, 1e-2, 1, 1e6)]
    assert again == sorted(again)
    assert again[0] < again[-1]


def test_starts_are_near_the_budget_and_some_keep_to_it() -> None:
    problem = problem_of(capture(small.STACK, "training", "cpu").program.gm, "cpu", "operations")
    peak = as_it_is(problem).peak
    for share in (0.9, 0.8):
        starts = Rents(problem).starts(Core(problem), int(share * peak))
        outcomes = [evaluate_in_python(problem, levels, int(share * peak)) for levels in starts]
        assert len(set(starts)) == len(starts) > 1
        assert any(not one.excess for one in outcomes)
        assert min(one.cost for one in outcomes if not one.excess) < evaluate_in_python(problem, [1] * len(problem.operators), 0).cost
