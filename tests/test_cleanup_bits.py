"""Cleanup that calls itself bitwise keeps every bit: random programs over every dtype, with what is not a number, infinities, both zeros and the smallest numbers."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from optimizers.base import Example, Function
from optimizers.catalog import catalog
from optimizers.pipeline import apply_optimization

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)
SPECIAL = (float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-40, -1e-45, 1.0, -2.0, 3e38, 65504.0, 0.1)
EXACT = [
    each for each in catalog().values() if each.record.kind == "cleanup" and each.exactness == "bitwise" and "inference" in each.applies_to
]
SHAPE = (4, 12)

Step = Callable[[Tensor, Tensor], Tensor]
FLOATS: tuple[Step, ...] = (
    lambda x, y: x * 1, lambda x, y: x / 1, lambda x, y: x + 0, lambda x, y: x - 0, lambda x, y: x + (-0.0), lambda x, y: x * 0, lambda x, y: x - x,
    lambda x, y: -x, lambda x, y: x.abs(), lambda x, y: torch.relu(x), lambda x, y: x.exp(), lambda x, y: x**2, lambda x, y: x**0.5, lambda x, y: x**-1,
    lambda x, y: x**1, lambda x, y: x**0, lambda x, y: x**-0.5, lambda x, y: x * -1, lambda x, y: x / 4, lambda x, y: x / -0.5, lambda x, y: x / 3,
    lambda x, y: x.clamp(-1, 2), lambda x, y: x.clamp_min(0), lambda x, y: x.clamp_max(0.3), lambda x, y: torch.maximum(x, x), lambda x, y: 3 - x,
    lambda x, y: x - (-y), lambda x, y: (-x) * 3, lambda x, y: x + (-y), lambda x, y: (-x) / 3, lambda x, y: x.double().to(x.dtype), lambda x, y: x.float().to(x.dtype),
    lambda x, y: x.bfloat16().to(x.dtype), lambda x, y: x.to(torch.int32).to(x.dtype) * 0 + x, lambda x, y: 1 / (x + 0), lambda x, y: 1 / (x * 1),
    lambda x, y: x[None].mean(0), lambda x, y: x[None].amax(0), lambda x, y: x * torch.ones(12, dtype=x.dtype), lambda x, y: x + torch.tensor(2.5), lambda x, y: x * torch.tensor(0.1, dtype=x.dtype),
)  # fmt: skip
WHOLE: tuple[Step, ...] = (
    lambda x, y: x * 1, lambda x, y: x + 0, lambda x, y: x - x, lambda x, y: x * 0, lambda x, y: x + 200, lambda x, y: x + 100, lambda x, y: x - 90, lambda x, y: x * 3,
    lambda x, y: x * 100, lambda x, y: 7 - x, lambda x, y: x**2, lambda x, y: x**1, lambda x, y: x**0, lambda x, y: torch.bitwise_not(x), lambda x, y: torch.bitwise_and(x, x),
    lambda x, y: (x * 1.0).to(x.dtype) if x.dtype is torch.int32 else x, lambda x, y: x.long().to(x.dtype), lambda x, y: x[None].sum(0).to(x.dtype), lambda x, y: x.clamp(3, 90),
    lambda x, y: -x, lambda x, y: x - (-y), lambda x, y: x * -1, lambda x, y: torch.full((12,), 2, dtype=x.dtype) * 3 + x,
)  # fmt: skip
TRUTH: tuple[Step, ...] = (
    lambda x, y: torch.logical_not(x), lambda x, y: torch.bitwise_not(x), lambda x, y: x & x, lambda x, y: x | y, lambda x, y: y & x, lambda x, y: x ^ y,
    lambda x, y: torch.where(torch.ones(12, dtype=torch.bool), x, y), lambda x, y: x.float().bool(), lambda x, y: x.long().bool(), lambda x, y: x.masked_fill(torch.zeros(12, dtype=torch.bool), True),
    lambda x, y: (x * 1).bool(), lambda x, y: (x * 3 + 4).bool(),
)  # fmt: skip
SHAPES: tuple[Step, ...] = (
    lambda x, y: x * y, lambda x, y: y * x, lambda x, y: x.t().contiguous().t(), lambda x, y: x.clone(), lambda x, y: x.reshape(2, 24).view(4, 12), lambda x, y: x.unsqueeze(0).squeeze(0),
    lambda x, y: torch.cat([x]), lambda x, y: x.expand(4, 12), lambda x, y: x.t().permute(1, 0), lambda x, y: torch.nn.functional.pad(x, (0, 0)), lambda x, y: x[:, :], lambda x, y: x.repeat(1, 1),
    lambda x, y: torch.where(x == x, x, x), lambda x, y: torch.where(torch.zeros(12, dtype=torch.bool), y, x), lambda x, y: x.mT.sin().mT if x.is_floating_point() else x, lambda x, y: torch.maximum(x, y),
)  # fmt: skip


def steps_for(dtype: torch.dtype) -> tuple[Step, ...]:
    own = FLOATS if dtype.is_floating_point else TRUTH if dtype is torch.bool else WHOLE
    return (*own, *SHAPES)


def value_of_dtype(dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        special = torch.tensor(SPECIAL, dtype=torch.float64).repeat(2)
        usual = torch.randn(24, generator=generator, dtype=torch.float64) * 3
        return torch.cat((special, usual))[torch.randperm(48, generator=generator)].reshape(SHAPE).to(dtype)
    return (
        torch.randint(0, 256, SHAPE, generator=generator).to(dtype)
        if dtype is not torch.bool
        else torch.rand(SHAPE, generator=generator) > 0.5
    )


def program_for(dtype: torch.dtype, seed: int, length: int = 6) -> Program:
    draw = random.Random(seed)
    chosen = draw.choices(steps_for(dtype), k=length)
    middle = draw.randrange(length)

    def model(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        given = []
        for position, step in enumerate(chosen):
            x = step(x, y)
            if position == middle:
                given.append(x)
        return (*given, x)

    inputs = value_of_dtype(dtype, seed), value_of_dtype(dtype, seed + 1)
    return capture(Example(lambda: Function(model), lambda: inputs).source(), "inference", "cpu").program


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal numbers of the same sign, that of zero included; one thing that is not a number is as good as another."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return bool((((one == other) & (one.signbit() == other.signbit())) | (one.isnan() & other.isnan())).all())


def memory(values: list[Tensor | None]) -> set[tuple[int, int]]:
    """Which of the values share memory with which."""
    places = [value.untyped_storage().data_ptr() for value in values if value is not None and value.numel()]
    return {(i, j) for i in range(len(places)) for j in range(i) if places[i] == places[j]}


def check(program: Program, names: list[str], seed: int) -> int:
    """Applies the optimizations one after the other; every one keeps every bit, and shares no memory that was not shared."""
    inputs = program.materialize(seed)
    before = program.run(inputs)
    found = 0
    for name in names:
        result = apply_optimization(program, snapshot(program), catalog()[name], {})
        found += len(result.step.matches)
        assert result.step.claim_broken == (), (name, result.step.claim_broken)
        after = result.program.run(inputs)
        for one, other in zip(before, after, strict=True):
            assert one is not None
            assert other is not None
            assert same_bits(one, other), (name, program.gm.code, result.program.gm.code)
        assert memory([*after, *inputs]) <= memory([*before, *inputs]), (name, program.gm.code, result.program.gm.code)
        program = result.program
    return found


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_bit_moves_in_random_programs(dtype: torch.dtype) -> None:
    found = 0
    for seed in range(4):
        names = [each.name for each in EXACT]
        random.Random(seed).shuffle(names)
        found += check(program_for(dtype, 100 * seed), names, seed)
    assert found > 8  # else the programs would have nothing in them
