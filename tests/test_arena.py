"""Memory planning: plans are right, as small as brute force finds, and within the capacities of published instances."""

from __future__ import annotations

import csv
import itertools
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from graphs.errors import RequestError, TooLargeError
from graphs.lifetimes import Lifetime
from optimizers.arena import ArenaPlan, Buffer, buffers_of, greedy_plans, plan, search, validate
from optimizers.arena.greedy import ORDERS, RULES, greedy, order_of
from optimizers.arena.problem import problem_of
from optimizers.arena.search import attempt, attempt_in_python

INSTANCES = sorted((Path(__file__).parent / "data" / "allocation").glob("*.csv"))


def read(path: Path) -> list[Buffer]:
    with path.open() as file:
        return [Buffer(int(row["lower"]), int(row["upper"]), int(row["size"])) for row in csv.DictReader(file)]


def at_random(seed: int, count: int, steps: int = 12, largest: int = 9) -> list[Buffer]:
    chance = random.Random(seed)
    spans = [sorted(chance.sample(range(steps + 1), 2)) for _ in range(count)]
    return [Buffer(start, end, chance.randint(1, largest)) for start, end in spans]


def most_alive(buffers: Sequence[Buffer]) -> int:
    return max(sum(other.bytes for other in buffers if other.start <= each.start < other.end) for each in buffers)


def overlapping(buffers: Sequence[Buffer], offsets: Sequence[int]) -> bool:
    """Every pair, without a sweep."""
    return any(
        a.start < b.end and b.start < a.end and x < y + b.bytes and y < x + a.bytes
        for (a, x), (b, y) in itertools.combinations(zip(buffers, offsets, strict=True), 2)
    )


def smallest(buffers: Sequence[Buffer]) -> int:
    """Every order of placing, each buffer on the top of those before it that live with it."""
    found = sum(buffer.bytes for buffer in buffers)
    for order in itertools.permutations(buffers):
        tops: list[int] = []
        for place, one in enumerate(order):
            under = [top for other, top in zip(order[:place], tops, strict=True) if other.start < one.end and one.start < other.end]
            tops.append(max(under, default=0) + one.bytes)
        found = min(found, max(tops))
    return found


@pytest.mark.parametrize("seed", range(40))
def test_a_plan_has_no_overlap_is_aligned_and_not_below_the_bound(seed: int) -> None:
    buffers, alignment = at_random(seed, 5 + seed, steps=20, largest=300), (1, 4, 64)[seed % 3]
    found = plan(buffers, seconds=0.2, alignment=alignment)
    assert not overlapping(buffers, found.offsets)
    assert all(offset % alignment == 0 for offset in found.offsets)
    assert found.size >= found.lower_bound >= most_alive(buffers)
    assert found.size >= max(offset + buffer.bytes for offset, buffer in zip(found.offsets, buffers, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_a_small_plan_is_as_small_as_brute_force_finds_and_says_so(seed: int) -> None:
    buffers = at_random(seed, 3 + seed % 5, steps=8)
    found = plan(buffers)
    assert (found.size, found.ending) == (smallest(buffers), "optimal")


def saturated(seed: int, load: int = 4, steps: int = 7, largest: int = 2) -> list[Buffer]:
    """Buffers added as long as no step holds more than `load`: there is hardly any room to spare."""
    chance, room, found = random.Random(seed), [load] * steps, []
    for _ in range(200):
        (start, end), size = sorted(chance.sample(range(steps + 1), 2)), chance.randint(1, largest)
        if min(room[start:end]) >= size:
            found.append(Buffer(start, end, size))
            room[start:end] = [left - size for left in room[start:end]]
    return found


def possible(buffers: Sequence[Buffer], capacity: int, offsets: tuple[int, ...] = ()) -> bool:
    """Every offset of every buffer."""
    if len(offsets) == len(buffers):
        return True
    tried = ((*offsets, offset) for offset in range(capacity - buffers[len(offsets)].bytes + 1))
    return any(not overlapping(buffers[: len(each)], each) and possible(buffers, capacity, each) for each in tried)


@pytest.mark.parametrize("seed", [*range(12), 1279])
def test_an_optimum_above_the_most_alive_is_proven_and_becomes_the_lower_bound(seed: int) -> None:
    buffers = saturated(seed)
    found = plan(buffers)
    assert found.ending == "optimal"
    assert found.size == found.lower_bound == next(size for size in range(most_alive(buffers), 99) if possible(buffers, size))
    assert (found.size > most_alive(buffers)) == (seed == 1279)
    with pytest.raises(TooLargeError, match=f"at least {found.size} bytes"):
        plan(buffers, capacity=found.size - 1)


@pytest.mark.skipif(search.compiled() is None, reason="no C++ compiler: the search in Python takes longer than anyone waits")
@pytest.mark.parametrize("path", INSTANCES, ids=lambda path: path.stem)
def test_published_instance_fits_its_capacity(path: Path) -> None:
    buffers, capacity = read(path), int(path.stem.split(".")[1])
    found = plan(buffers, capacity, seconds=60)  # some seconds on one core; the rest is for a machine that does other work too
    validate(buffers, found)
    assert most_alive(buffers) <= found.size <= capacity


def test_there_are_instances() -> None:
    assert len(INSTANCES) == 5


@pytest.mark.parametrize("seed", range(12))
def test_greedy_is_never_below_the_bound_and_never_overlaps(seed: int) -> None:
    buffers = at_random(seed, 40, steps=30)
    problem = problem_of(buffers)
    for name, rule in itertools.product(ORDERS, RULES):
        offsets = [offset * problem.unit for offset in greedy(problem, order_of(problem, name), rule)]
        assert not overlapping(buffers, offsets), (name, rule)
        assert max(offset + buffer.bytes for offset, buffer in zip(offsets, buffers, strict=True)) >= most_alive(buffers)


def test_first_fit_takes_the_lowest_hole_and_best_fit_the_smallest() -> None:
    buffers = [Buffer(0, 2, 3), Buffer(0, 9, 1), Buffer(0, 2, 2), Buffer(0, 9, 1), Buffer(4, 9, 2)]
    problem = problem_of(buffers)
    assert greedy(problem, range(5), "first-fit") == [0, 3, 4, 6, 0]
    assert greedy(problem, range(5), "best-fit") == [0, 3, 4, 6, 4]


def test_no_time_still_gives_a_plan() -> None:
    buffers = read(INSTANCES[0])
    found = plan(buffers, seconds=0)
    validate(buffers, found)
    assert found.ending == "time limit"
    assert found.gap > 0


def test_a_capacity_ends_planning_as_soon_as_it_is_kept() -> None:
    buffers = read(INSTANCES[0])
    found = plan(buffers, capacity=sum(buffer.bytes for buffer in buffers))
    assert (found.ending, found.found_by) == ("fits", "first-fit by size")


def test_a_capacity_that_is_not_reached_leaves_the_best_plan_found() -> None:
    buffers = saturated(1279)
    found = plan(buffers, capacity=most_alive(buffers), seconds=0)
    validate(buffers, found)
    assert found.size > most_alive(buffers)
    assert found.ending == "time limit"


def test_nothing_and_no_bytes_are_placed_too() -> None:
    assert plan([]).size == 0
    assert plan([Buffer(0, 3, 0), Buffer(1, 2, 8)]).size == 8


@pytest.mark.parametrize("bad", [Buffer(0, 1, -1), Buffer(3, 3, 1), Buffer(4, 3, 1)])
def test_a_bad_buffer_is_refused_by_number(bad: Buffer) -> None:
    with pytest.raises(RequestError, match="buffer 1"):
        plan([Buffer(0, 1, 1), bad])


def test_a_bad_alignment_is_refused() -> None:
    with pytest.raises(RequestError, match="alignment of 0"):
        plan([Buffer(0, 1, 1)], alignment=0)


def test_a_capacity_below_the_most_alive_names_the_smallest_possible() -> None:
    with pytest.raises(TooLargeError, match="at least 12 bytes"):
        plan([Buffer(0, 4, 5), Buffer(2, 6, 7)], capacity=11)


def test_validate_finds_an_overlap_a_wrong_size_and_a_wrong_alignment() -> None:
    buffers = [Buffer(0, 4, 4), Buffer(2, 6, 4), Buffer(4, 8, 4)]
    right = ArenaPlan((0, 4, 0), 8, 8, "hand", "optimal", 0.0)
    validate(buffers, right)
    validate(buffers, right, alignment=4)
    for offsets, alignment in (((0, 3, 0), 1), ((0, 4, 2), 1), ((0, 5, 0), 1), ((-1, 4, 0), 1), ((0, 4), 1), ((0, 4, 0), 8)):
        with pytest.raises(RequestError):
            validate(buffers, ArenaPlan(offsets, 8, 8, "hand", "optimal", 0.0), alignment)


@pytest.mark.parametrize("seed", range(30))
def test_validate_agrees_with_every_pair(seed: int) -> None:
    buffers, chance = at_random(seed, 6), random.Random(seed)
    offsets = tuple(chance.randint(0, 30) for _ in buffers)
    try:
        validate(buffers, ArenaPlan(offsets, 100, 0, "chance", "optimal", 0.0))
        right = True
    except RequestError:
        right = False
    assert right == (not overlapping(buffers, offsets))


def test_eighteen_thousand_buffers_are_placed() -> None:
    chance = random.Random(0)
    starts = [chance.randrange(20_000) for _ in range(18_000)]
    buffers = [Buffer(start, start + 1 + int(chance.expovariate(1 / 300)), 64 * chance.randint(1, 5000)) for start in starts]
    found = plan(buffers, seconds=0)
    validate(buffers, found)
    assert found.ending == "too large to search"


@pytest.mark.skipif(search.compiled() is None, reason="nothing to compare: no C++ compiler")
@pytest.mark.parametrize("jump", [False, True])
def test_compiled_search_and_python_agree_node_by_node(jump: bool) -> None:
    for seed in range(60):
        buffers = at_random(seed, 4 + seed % 22, steps=14)
        problem = problem_of(buffers)
        for order in ("size", "start"):
            for extra in (0, 1, 3):
                given = (problem, problem.lower_bound + extra, order_of(problem, order), 300, 60.0, jump)
                assert attempt(*given) == attempt_in_python(*given), (seed, order, extra)


def test_without_a_compiler_python_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "compiled", lambda: None)
    for seed in range(8):
        buffers = at_random(seed, 6, steps=8)
        assert plan(buffers).size == smallest(buffers)


def test_wide_numbers_are_planned_like_narrow_ones() -> None:
    buffers = at_random(3, 12)
    large = [Buffer(each.start, each.end, each.bytes * 10**9 + 1) for each in buffers]
    found = plan(large, seconds=2)
    assert not overlapping(large, found.offsets)
    assert found.size >= most_alive(large)


def test_lifetimes_end_after_their_last_step() -> None:
    assert buffers_of([Lifetime("a", 2, 5, 8, "forward")]) == [Buffer(2, 6, 8)]


def test_planning_needs_no_torch() -> None:
    code = "import sys, optimizers.arena as arena; arena.plan([arena.Buffer(0, 1, 4)]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent, timeout=120)


def test_every_greedy_order_is_tried_and_the_best_is_reached_without_a_search() -> None:
    """That is how the page Memory has a plan at once."""
    buffers = at_random(4, 60)
    found = greedy_plans(buffers)
    sizes = [one.size for one in found]
    assert min(sizes) < sizes[0]  # here the first order is not the best
    best = plan(buffers, capacity=min(sizes))
    assert best.size == min(sizes)
    assert best.found_by in {f"{one.rule} by {one.order}" for one in found if one.size == best.size}
