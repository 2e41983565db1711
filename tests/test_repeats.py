"""Layers that are alike are traced once: the graph is the same, node by node, as if every layer had been traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.repeats import find_runs
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source

TINY = {"width": "32", "heads": "2", "vocab": "64", "seq": "8"}
DEEP = [
    ("llama", {**TINY, "layers": "7", "kv_heads": "1"}, "training"),
    ("gpt2", {**TINY, "layers": "6", "dropout": "0.1"}, "training"),
    ("bert", {**TINY, "layers": "6"}, "inference"),
    ("chain", {"depth": "9", "width": "8"}, "inference"),
]


class Layer(nn.Module):
    """A residual layer with batch norm: a parameter, a buffer that changes, a random draw."""

    def __init__(self, width: int, gate: bool = False) -> None:
        super().__init__()
        self.linear, self.norm, self.gate = nn.Linear(width, width), nn.BatchNorm1d(width), gate

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.linear(x))
        return x + nn.functional.dropout(torch.sigmoid(y) if self.gate else torch.relu(y), 0.5, self.training)


class Deep(nn.Module):
    """Layers around which the loop can do something with their number."""

    def __init__(self, layers: list[nn.Module], between: Callable[[int, Tensor, list[Tensor]], Tensor]) -> None:
        super().__init__()
        self.first, self.layers, self.last = nn.Linear(8, 8), nn.ModuleList(layers), nn.Linear(8, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        before: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            before.append(x)
            x = self.between(index, layer(x), before)
        return self.last(x)


def plain(index: int, x: Tensor, before: list[Tensor]) -> Tensor:
    return x


def tenth_is_special(index: int, x: Tensor, before: list[Tensor]) -> Tensor:
    return x.tanh() if index == 9 else x


def every_fourth_is_special(index: int, x: Tensor, before: list[Tensor]) -> Tensor:
    return x.tanh() if index % 4 == 3 else x


def growing(index: int, x: Tensor, before: list[Tensor]) -> Tensor:
    return x * (index + 1)


def skipping(index: int, x: Tensor, before: list[Tensor]) -> Tensor:
    return x + before[-3] if len(before) > 2 else x


def collecting(index: int, x: Tensor, before: list[Tensor]) -> Tensor:
    return torch.stack([*before, x]).sum(0) if index == 11 else x


def deep(between: Callable[..., Tensor] = plain, gates: tuple[bool, ...] = (False,) * 12) -> ModelSource:
    def build() -> nn.Module:
        return Deep([Layer(8, gate) for gate in gates], between)

    return ModelSource("deep", build, lambda: (torch.randn(4, 8),), None, (__file__,))


def both(source: ModelSource, mode: str) -> tuple[Any, Any]:
    return capture(source, mode, "cpu"), capture(source, mode, "cpu", whole=True)


def assert_same(source: ModelSource, mode: str) -> tuple[str, ...]:
    """The same nodes, inputs and outputs either way; returns what the report says of the short way."""
    short, whole = both(source, mode)
    for one, other in zip(snapshot(short.program).nodes, snapshot(whole.program).nodes, strict=True):
        assert one == other
    assert short.program.inputs == whole.program.inputs
    assert short.program.outputs == whole.program.outputs
    assert short.report.parameters == whole.report.parameters
    return short.report.notes


@pytest.mark.parametrize(("name", "options", "mode"), DEEP, ids=[name for name, *_ in DEEP])
def test_replicated_equals_traced_node_by_node(name: str, options: dict[str, str], mode: str) -> None:
    (said,) = assert_same(zoo_source(name, options), mode)
    assert "layers traced" in said


def test_buffers_that_change_and_layers_that_alternate_are_replicated() -> None:
    (said,) = assert_same(deep(gates=(False, True) * 6), "training")
    assert "8 of 12 layers traced" in said
    (said,) = assert_same(deep(gates=(True, *(False,) * 11)), "training")  # a first layer of its own
    assert "4 of 11 layers traced" in said


def test_a_replicated_graph_computes_what_the_traced_one_does() -> None:
    short, whole = both(deep(), "training")
    inputs = short.program.materialize(seed=4)
    for one, other in zip(short.program.run(inputs, seed=2), whole.program.run(inputs, seed=2), strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("between", "said"),
    [
        (tenth_is_special, "layer 9 of layers does something else"),
        (every_fourth_is_special, "does something else"),
        (growing, "does something else"),
        (skipping, "layers"),
        (collecting, "layers"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_layers_that_depend_on_their_number_are_all_traced(between: Callable[..., Tensor], said: str) -> None:
    notes = assert_same(deep(between), "training")
    assert len(notes) == 1
    assert notes[0].startswith("traced every layer, since")
    assert said in notes[0]


def test_runs_are_found_with_their_period_and_outside_of_short_ones() -> None:
    model = nn.ModuleDict({
        "short": nn.Sequential(*(nn.Linear(4, 4) for _ in range(5))),
        "deep": nn.ModuleList([nn.ReLU(), *(nn.Sequential(nn.Linear(4, 4), *(nn.Tanh() for _ in range(9))) for _ in range(10))]),
    })  # fmt: skip
    (run,) = find_runs(model)
    assert (run.path, run.start, run.period, run.count) == ("deep", 1, 1, 10)
    assert list(run.removed) == [4, 5, 6, 7, 8, 9]
