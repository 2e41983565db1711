"""Half of the catalog in any order, another half for each model of the zoo and mode: every step, and all of them together, compute what the model computes."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch

from graphs.capture import capture
from graphs.sources.zoo import zoo_models, zoo_source
from optimizers.catalog import catalog
from tests import small_models as small
from tests.fuzzer.kernels import interpreted_kernels
from tests.fuzzer.trial import in_a_row

SIZES = {
    "batch": "2", "seq": "4", "image": "32", "layers": "1", "width": "16", "heads": "2", "vocab": "20", "kv_heads": "1", "classes": "3",
    "depth": "1", "experts": "2", "dropout": "0.1",
}  # fmt: skip
LARGEST = 450  # nodes of a graph: deeper models repeat what their shallow ones have
SOURCES = {
    **{name: zoo_source(name, {o.name: SIZES[o.name] for o in model.options if o.name in SIZES}) for name, model in zoo_models().items()},
    **{source.name: source for source in (small.TWO_LAYERS, small.ATTENTION, small.NORMALIZED, small.STACK)},
}


@pytest.fixture(autouse=True)
def kernels_without_a_compiler() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with interpreted_kernels():
        yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("name", list(SOURCES))
def test_half_of_the_catalog_in_random_order_computes_the_same(name: str, mode: str) -> None:
    program = capture(SOURCES[name], mode, "cpu").program
    if len(program.gm.graph.nodes) > LARGEST:
        pytest.skip("a smaller model of its family stands for it")
    every = [one for one in catalog().values() if not one.costly]
    seed = sum(map(ord, name + mode))  # another order for each
    chosen = random.Random(seed).sample(every, len(every) // 2)
    found = in_a_row(program, chosen, seed, 1, {optimization.name: 0 for optimization in chosen})
    assert not found, "\n".join(map(str, found))
