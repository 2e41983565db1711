"""The counted peak is the measured one, to the byte, before and after every optimization for memory; none is named here."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.memory import SAVED, memory_of
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.base import Optimization
from optimizers.catalog import catalog
from optimizers.pipeline import apply_optimization
from profiler.peak import peak_bytes

MEMORY = [one for one in catalog().values() if one.record.kind == "memory"]


class Net(nn.Module):
    """Convolution, batch norm, ReLU, dropout and a residual perceptron: activations of several kinds, worth forgetting or not."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + block(x)
        return torch.sigmoid(x)


def _loss(made: Tensor) -> Tensor:
    """One that keeps the memory of all its terms."""
    return nn.functional.mse_loss(made, made.detach() + 1)


def measured(program: Program) -> int:
    return peak_bytes(program, program.materialize(0))


def agrees(program: Program, graph: GraphSnapshot, optimization: Optimization, settings: dict[str, str]) -> bool:
    """Did the step find a place? What it leaves behind holds what is counted."""
    applied = apply_optimization(program, graph, optimization, settings)
    assert measured(applied.program) == applied.snapshot.totals.peak_bytes
    return bool(applied.step.matches)


@functools.cache
def training() -> tuple[Program, GraphSnapshot]:
    """A step of training with the update of the weights."""
    source = ModelSource("net", Net, lambda: (torch.randn(4, 3, 16, 16),), _loss, (__file__,))
    program = capture(source, "training", "cpu", CaptureOptions(update="sgd")).program
    return program, snapshot(program)


def test_a_step_of_training_holds_what_is_counted() -> None:
    program, graph = training()
    assert measured(program) == graph.totals.peak_bytes


@pytest.mark.parametrize("optimization", MEMORY, ids=lambda one: one.name)
def test_so_it_does_after_each_optimization_for_memory(optimization: Optimization) -> None:
    """With the settings of its first example; where that finds no place, the example itself is taken."""
    program, graph = training()
    example = optimization.examples[0]
    found = [one.name for one in memory_of(graph).holdings if one.role == SAVED]
    named = {one.name: ".".join(found[:3]) for one in optimization.parameters if one.kind == "nodes"}
    if not agrees(program, graph, optimization, {**example.settings, **named}):
        program = capture(example.source(), example.mode, "cpu", example.options).program
        graph = snapshot(program)
        assert measured(program) == graph.totals.peak_bytes
        assert agrees(program, graph, optimization, example.settings)


class Idle(nn.Module):
    """With, and without, two dropouts that drop nothing: one with a probability of 0, one outside of training."""

    def __init__(self, dropouts: bool) -> None:
        super().__init__()
        self.layer, self.dropouts = nn.Linear(64, 64), dropouts

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x).exp()
        if self.dropouts:
            x = nn.functional.dropout(x, 0.0, True)
        x = x.sin()
        return (nn.functional.dropout(x, 0.5, False) if self.dropouts else x).cos().sum()


def test_dropout_that_drops_nothing_costs_nothing_as_in_the_model_s_own_run() -> None:
    x = torch.randn(4)
    assert nn.functional.dropout(x, 0.0, True).data_ptr() == x.data_ptr() == nn.functional.dropout(x, 0.5, False).data_ptr()
    graphs = []
    for dropouts in (True, False):
        source = ModelSource("idle", functools.partial(Idle, dropouts), lambda: (torch.randn(64, 64),), None, (__file__,))
        graphs.append(snapshot(capture(source, "training", "cpu").program))
    assert graphs[0].totals == graphs[1].totals
