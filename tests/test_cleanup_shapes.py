"""Random programs of views, turns, splits, joints, sums and products: every cleanup keeps answers, claims, results' shapes, and who shares memory with whom."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from optimizers.base import Example, Function
from optimizers.catalog import catalog
from optimizers.pipeline import apply_optimization
from optimizers.verify import Judge

CLEANUP = [each for each in catalog().values() if each.record.kind == "cleanup"]
Step = Callable[[Tensor, random.Random], Tensor]


def split_somewhere(x: Tensor, draw: random.Random) -> Tensor:
    dim = draw.randrange(x.dim())
    parts = list(x.split(draw.choice((1, 2, 3)), dim))
    if draw.random() < 0.3:
        draw.shuffle(parts)
    return (
        torch.cat(parts, dim if draw.random() < 0.8 else x.dim() - 1) if len({part.shape for part in parts}) == 1 else torch.cat(parts, dim)
    )


def joined_and_cut(x: Tensor, draw: random.Random) -> Tensor:
    dim = draw.randrange(x.dim())
    size = x.shape[dim]
    both = torch.cat((x.sin(), x.cos()), dim)
    return both.narrow(dim, draw.choice((0, size, size // 2)), size)


def turned(x: Tensor, draw: random.Random) -> Tensor:
    order = draw.sample(range(x.dim()), x.dim())
    return x.permute(order)


def turned_there_and_back(x: Tensor, draw: random.Random) -> Tensor:
    one, other = draw.randrange(x.dim()), draw.randrange(x.dim())
    x = x.transpose(one, other)
    for _ in range(draw.randrange(4)):
        x = draw.choice((torch.sin, torch.relu, torch.Tensor.contiguous, lambda each: each * each, lambda each: each.double().float()))(x)
    return x.transpose(one, other)


def reshaped(x: Tensor, draw: random.Random) -> Tensor:
    sizes = [each for size in x.shape for each in ((2, size // 2) if size % 2 == 0 and size > 2 and draw.random() < 0.3 else (size,))]
    if len(sizes) > 3:
        sizes[:2] = [sizes[0] * sizes[1]]
    return x.reshape(sizes)


def squared_sum(x: Tensor, draw: random.Random) -> Tensor:
    return draw.choice(
        (lambda: x * 3 + x * 0.5, lambda: x * x.sin() - x * x.cos(), lambda: (x + 3 - 1) * 2 / 3, lambda: x - x * 0.25, lambda: -(1 - x))
    )()


def stacked(x: Tensor, draw: random.Random) -> Tensor:
    dim = draw.randrange(x.dim())
    return torch.stack(x.unbind(dim), draw.choice((dim, 0)))


STEPS: tuple[Step, ...] = (
    split_somewhere, joined_and_cut, turned, turned_there_and_back, reshaped, squared_sum, stacked, turned_there_and_back,
    lambda x, draw: x.unsqueeze(draw.randrange(x.dim())).squeeze(),
    lambda x, draw: x.contiguous(),
    lambda x, draw: x[None].expand(1, *x.shape)[0],
    lambda x, draw: torch.softmax(x, -1),
    lambda x, draw: x + x.sum(-1, keepdim=True),
    lambda x, draw: x.clone().reshape(-1).view(x.shape),
    lambda x, draw: torch.sin(x) + torch.sin(x),
)  # fmt: skip


def program_for(seed: int, mode: str, length: int = 7) -> Program:
    plan = random.Random(seed)
    chosen, kept = plan.choices(STEPS, k=length), plan.randrange(length)

    def model(x: Tensor, w: Tensor) -> tuple[Tensor, ...]:
        draw = random.Random(seed)
        x, given = x * w, []
        for position, step in enumerate(chosen):
            x = step(x, draw)
            if position == kept:
                given.append(x)
        return (*given, x)

    def inputs() -> tuple[Tensor, ...]:
        torch.manual_seed(seed)
        return torch.randn(4, 6, 2), torch.randn(6, 2)

    return capture(Example(lambda: Function(model), inputs).source(), mode, "cpu").program


def memory(values: list[Tensor | None]) -> set[tuple[int, int]]:
    places = [value.untyped_storage().data_ptr() for value in values if value is not None]
    return {(i, j) for i in range(len(places)) for j in range(i) if places[i] == places[j]}


def check(program: Program, seed: int) -> int:
    names = [each for each in CLEANUP if program.mode in each.applies_to]
    random.Random(seed).shuffle(names)
    judge, inputs, found = Judge(program), program.materialize(seed), 0
    before = memory([*program.run(inputs), *inputs])
    graph = snapshot(program)
    for optimization in names:
        result = apply_optimization(program, graph, optimization, {}, judge)
        step = result.step
        found += len(step.matches)
        words = (optimization.name, program.gm.code, result.program.gm.code)
        assert step.claim_broken == (), (step.claim_broken, *words)
        assert step.verdict.kind in (("bitwise",) if optimization.exactness == "bitwise" else ("bitwise", "rounding")), (
            step.verdict,
            *words,
        )
        assert memory([*result.program.run(inputs), *inputs]) <= before, words
        program, graph = result.program, result.snapshot
    return found


def test_answers_claims_and_memory_stay_in_random_programs() -> None:
    assert sum(check(program_for(seed, "inference"), seed) for seed in range(6)) > 6
