"""The examples of every optimization again, with other sizes, layouts and precisions: what it promises holds there too."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphs.capture import capture
from graphs.errors import CaptureError
from graphs.sources.base import ModelSource
from optimizers.base import Example, Optimization
from optimizers.catalog import catalog
from tests.fuzzer.kernels import interpreted_kernels
from tests.fuzzer.models import seeded
from tests.fuzzer.trial import in_a_row

ALL = [one for one in catalog().values() if not one.costly]
OF_EACH = 3  # variations for an optimization, drawn from the thirteen below, so that each meets twenty optimizations; benchmarks.fuzz goes on from there
LEAST = 1  # of these, its examples must allow
EXAMPLES = 2  # of each optimization, each with every second variation


@dataclass(frozen=True)
class Variation:
    """One way to change an example: its inputs, and its model's precision."""

    name: str
    inputs: Callable[[Tensor], Tensor] = lambda value: value
    dtype: torch.dtype | None = None


def sized(dim: int, size: Callable[[int], int]) -> Callable[[Tensor], Tensor]:
    """The tensor with another size in one dimension: a part of it, or it and itself again."""

    def changed(value: Tensor) -> Tensor:
        if value.dim() <= abs(dim) - (dim < 0):
            return value
        positions = torch.arange(size(value.shape[dim])) % max(1, value.shape[dim])
        return value.index_select(dim, positions)

    return changed


def transposed(value: Tensor) -> Tensor:
    """The same numbers, the last dimension outermost in memory."""
    return value.movedim(-1, 0).contiguous().movedim(0, -1) if value.dim() > 1 else value


def every_second(value: Tensor) -> Tensor:
    """The same numbers, with gaps between them in memory."""
    return value.repeat_interleave(2, -1)[..., ::2] if value.dim() else value


def expanded(value: Tensor) -> Tensor:
    """The first of the outermost dimension, shown many times over."""
    return value[:1].expand(value.shape) if value.dim() and len(value) else value


def offset(value: Tensor) -> Tensor:
    """The same numbers, not at the start of their storage."""
    return torch.cat([value[:1], value])[1:] if value.dim() and len(value) else value


VARIATIONS = (
    Variation("another batch", sized(0, lambda size: size + 1)),
    Variation("a batch of one", sized(0, lambda size: 1)),
    Variation("an empty batch", sized(0, lambda size: 0)),
    Variation("one row", sized(1, lambda size: 1)),
    Variation("more rows", sized(-2, lambda size: size + 3)),
    Variation("wider", sized(-1, lambda size: 2 * size)),
    Variation("transposed", transposed),
    Variation("with gaps", every_second),
    Variation("expanded", expanded),
    Variation("not at the start of its storage", offset),
    Variation("float64", dtype=torch.float64),
    Variation("bfloat16", dtype=torch.bfloat16),
    Variation("bfloat16, transposed", transposed, torch.bfloat16),
)


def varied(example: Example, variation: Variation) -> ModelSource:
    """The example as a source, changed."""

    def precise(value: Any) -> Any:
        floating = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(variation.dtype) if floating and variation.dtype else value

    def build() -> nn.Module:
        if variation.dtype is None:
            return example.model()
        return example.model().to(variation.dtype)

    def inputs() -> Any:
        return pytree.tree_map_only(Tensor, lambda value: variation.inputs(precise(value)), example.inputs())

    return ModelSource("varied", build, inputs, None, ())


def runs(source: ModelSource, mode: str) -> bool:
    """Whether the model itself takes this variation, forward and backward."""
    try:
        with seeded(0), torch.set_grad_enabled(mode == "training"):
            outputs = source.build().train(mode == "training")(*source.inputs())
            first = next(value for value in pytree.tree_leaves(outputs) if isinstance(value, Tensor) and value.is_floating_point())
            if mode == "training":
                first.square().mean().backward()
    except Exception:
        return False
    return True


def broken_promises(optimization: Optimization, example: Example, variation: Variation, mode: str) -> list[str] | None:
    """Every promise that is broken on this variation; None when the model does not take it."""
    source = varied(example, variation)
    if not runs(source, mode):
        return None
    try:
        program = capture(source, mode, "cpu", example.options).program
    except CaptureError:
        return None
    matched = {optimization.name: 0}
    found = in_a_row(program, [optimization], 0, 1, matched, example.settings)
    return [f"{mode}, {variation.name}: {violation}" for violation in found]


@pytest.fixture(autouse=True)
def kernels_without_a_compiler() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with interpreted_kernels():
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("optimization", ALL, ids=lambda optimization: optimization.name)
def test_examples_keep_their_promises_in_other_sizes_layouts_and_precisions(optimization: Optimization) -> None:
    ran, found = set(), []
    chosen = random.Random(optimization.name).sample(optimization.examples, min(EXAMPLES, len(optimization.examples)))
    varied_by = random.Random(f"{optimization.name} varied").sample(VARIATIONS, len(VARIATIONS))
    for at, variation in enumerate(varied_by):
        if at >= OF_EACH and len(ran) >= LEAST:
            break
        example = chosen[at % len(chosen)]
        broken = broken_promises(optimization, example, variation, example.mode)
        if broken is not None:
            ran.add(variation.name)
            found += broken
    assert not found, "\n".join(found)
    assert len(ran) >= LEAST, f"only {sorted(ran)} could be tried"


def test_variations_change_layout_or_size_as_they_say() -> None:
    value = torch.randn(4, 6, 8)
    made = {variation.name: variation.inputs(value) for variation in VARIATIONS}
    assert made["an empty batch"].shape == (0, 6, 8)
    assert made["wider"].shape == (4, 6, 16)
    assert made["more rows"].shape == (4, 9, 8)
    for name in ("transposed", "with gaps", "not at the start of its storage"):
        assert torch.equal(made[name], value)
    assert made["expanded"].stride(0) == 0
    assert not made["transposed"].is_contiguous()
    assert made["with gaps"].stride(-1) == 2
    assert made["not at the start of its storage"].storage_offset() == 48
