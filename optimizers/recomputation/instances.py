"""Problems without a graph, for tests and benchmarks: chains, graphs in the manner of U-Nets, and random ones.

`linear(n)` is the chain of which two formulations elsewhere gave the same optima: n forward nodes, the loss, and n backward nodes, each of which reads
the gradient before it, its forward node and what that read; unit costs and sizes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from optimizers.recomputation.problem import Operator, Problem


@dataclass(frozen=True)
class Step:
    """An operator that makes one storage: which steps it reads, bytes of what it makes, cost of running it again."""

    reads: tuple[int, ...]
    size: int = 1
    cost: int = 1


def built(steps: Sequence[Step], backward: int) -> Problem:
    """A problem of steps in order; those before `backward` can run again. Step i makes storage i."""
    operators = []
    for at, step in enumerate(steps):
        reads = tuple(dict.fromkeys(step.reads))
        again = at < backward
        operators.append(
            Operator(
                f"step{at}",
                reads,
                (at,),
                step.cost,
                reads_again=reads if again else (),
                writes_again=(at,) if again else (),
                alike=f"step{at}",
            )
        )
    return Problem(tuple(operators), tuple(step.size for step in steps), (False,) * len(steps), backward)


def trained(forward: Sequence[Step]) -> Problem:
    """The training graph of a forward one: a loss of all that nobody reads, and for each step one backward, last first, which reads the
    gradients of its readers, its result and what it read; a gradient is as large as what it belongs to."""
    count = len(forward)
    readers = [[at for at, step in enumerate(forward) if one in step.reads] for one in range(count)]
    steps = [*forward, Step(tuple(at for at in range(count) if not readers[at]))]
    gradient = {at: 2 * count - at for at in range(count)}
    for at in reversed(range(count)):
        from_readers = [gradient[one] for one in readers[at]] or [count]
        steps.append(Step((*from_readers, at, *forward[at].reads), forward[at].size, forward[at].cost))
    return built(steps, count + 1)


def linear(length: int) -> Problem:
    """A chain; the cost of a whole schedule is 2 · length + 1 and what runs again."""
    return trained([Step((at - 1,) if at else ()) for at in range(length)])


def uneven(length: int, seed: int, largest: int = 9) -> Problem:
    """A chain of sizes and costs at random."""
    chance = random.Random(seed)
    return trained([Step((at - 1,) if at else (), chance.randint(1, largest), chance.randint(1, largest)) for at in range(length)])


def u_net(depth: int) -> Problem:
    """On the way down a convolution and a pooling at each depth, two convolutions at the bottom, on the way up an upsampling, a concatenation with
    what the way down made, and a convolution: 5 · depth + 2 forward steps. Widths double and areas shrink to a quarter."""
    steps: list[Step] = []
    across = []
    for level in range(depth):
        size = 2 ** (depth - level)
        steps.append(Step((len(steps) - 1,) if steps else (), size, 6))
        across.append(len(steps) - 1)
        steps.append(Step((len(steps) - 1,), max(1, size // 4), 1))
    steps += [Step((len(steps) - 1,), 1, 6), Step((len(steps),), 1, 6)]
    for level in reversed(range(depth)):
        size = 2 ** (depth - level)
        steps.append(Step((len(steps) - 1,), size, 2))
        steps.append(Step((len(steps) - 1, across[level]), 2 * size, 1))
        steps.append(Step((len(steps) - 1,), size, 9))
    return trained(steps)


def tangled(forward: int, seed: int, largest: int = 9) -> Problem:
    """A random graph: every step reads one to three of the six before it; sizes and costs at random."""
    chance = random.Random(seed)
    steps = []
    for at in range(forward):
        near = range(max(0, at - 6), at)
        reads = sorted(chance.sample(near, min(len(near), chance.choice((1, 1, 2, 2, 3)))))
        steps.append(Step(tuple(reads), chance.randint(1, largest), chance.randint(1, largest)))
    return trained(steps)


def paused(problem: Problem) -> tuple[Problem, int]:
    """The problem with a pause between forward and backward, and the bytes that the pause needs. They are more than all else together, so a plan for
    them and n bytes keeps at most n bytes between forward and backward, and no other moment matters. Planners that know no peak plan for that."""
    needed = sum(problem.sizes) + max(max(one.temporary, one.temporary_again) for one in problem.operators)
    pause = Operator("pause", (), (), 0, needed)
    operators = (*problem.operators[: problem.backward], pause, *problem.operators[problem.backward :])
    return replace(problem, operators=operators, nodes=(), storage={}), needed
