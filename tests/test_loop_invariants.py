"""Work that is the same in every round of a loop is done once before it, whatever the loop, and gives the same bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as map_slices
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge
from pages.ui.graph_view.drawing import picture
from profiler.measure import measure

STEPS = 6


class Held(nn.Module):
    """Weights, and a function of them and the input that a test gives."""

    def __init__(self, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.weight, self.gain = nn.Parameter(torch.randn(8, 8) / 3), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def captured(function: Callable[[Any, Tensor], Tensor], *shape: int, mode: str = "inference") -> Program:
    def loss(outputs: Tensor) -> Tensor:
        return (outputs * torch.linspace(-1, 2, outputs.numel()).reshape(outputs.shape)).sin().sum()

    return capture(ModelSource("loop", lambda: Held(function), lambda: (torch.randn(*shape),), loss, (__file__,)), mode, "cpu").program


def hoisted(program: Program) -> Applied:
    """Applied, with what must hold wherever it is: the same bits, no claim broken, and the graph before still there."""
    before = snapshot(program)
    done = apply(program, before, "hoist-loop-invariants", {}, Judge(program))
    assert done.step.verdict.kind == "bitwise", done.step.verdict
    assert done.step.claim_broken == ()
    assert snapshot(program) == before
    known = set(before.by_name())
    assert all(set(node.origins) <= known for node in done.snapshot.nodes if node.op == "call_function")
    return done


def inside(done: Applied) -> set[str]:
    return {node.name for node in done.snapshot.nodes if "/" in node.name}


def normalized_cell(self: Any, x: Tensor) -> Tensor:
    """A recurrent cell whose weight has rows of length `gain`."""

    def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.weight / self.weight.norm(dim=1, keepdim=True) * self.gain
        new = torch.tanh(nn.functional.linear(state, weight) + row)
        return new, new.clone()

    return scan(step, torch.zeros(4, 8), x, dim=0)[1]


def nested(self: Any, x: Tensor) -> Tensor:
    def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        new = torch.tanh(state @ self.weight.exp() + row)
        return new, new.clone()

    def of_part(part: Tensor) -> Tensor:
        return scan(step, part.sum(0), part, dim=0)[1]

    return map_slices(of_part, x)


def rounds(limit: int) -> Callable[[Any, Tensor], Tensor]:
    def function(self: Any, x: Tensor) -> Tensor:
        def unfinished(count: Tensor, y: Tensor, kept: Tensor) -> Tensor:
            return (count < limit) & (y.sum() < self.gain.exp().sum() * 1e6)

        def body(count: Tensor, y: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return count + 1, torch.tanh(y @ self.weight.exp() + kept.sin()), kept.clone()

        return while_loop(unfinished, body, (torch.zeros((), dtype=torch.int64), x.cos(), x * 2))[1]

    return function


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_weight_is_normalized_once_and_not_in_every_step(mode: str) -> None:
    program = captured(normalized_cell, STEPS, 4, 8, mode=mode)
    done = hoisted(program)
    forward = [node.name for node in done.snapshot.nodes if node.phase == "forward"]
    assert {"norm", "div", "mul"} <= {name.rstrip("_0123456789").replace("linalg_vector_", "") for name in forward if "/" not in name}
    before, after = done.step.before, done.step.after
    if mode == "inference":
        assert {name.rpartition("/")[2] for name in inside(done)} == {"state_0", "slice_0", "t", "mm", "add", "tanh", "clone"}
        assert before.launches - after.launches == 3 * (STEPS - 1)
    assert after.launches < before.launches
    assert after.bytes_moved < before.bytes_moved


def test_what_was_moved_says_where_it_comes_from_and_the_rest_stays_in_its_group() -> None:
    program = captured(normalized_cell, STEPS, 4, 8)
    before, done = snapshot(program), hoisted(program)
    scale = done.snapshot.by_name()["div"]
    assert scale.origins == ("scan/step/div",)
    assert (scale.module, scale.phase, scale.times) == ("", "forward", 1)
    assert scale.source is not None
    assert "self.weight.norm" in scale.source.text
    assert {node.module for node in done.snapshot.nodes if "/" in node.name} == {"scan.step"}
    assert "mul" in done.snapshot.by_name()["scan/step/t"].inputs
    assert "gain" not in {done.snapshot.by_name()[name].target for name in done.snapshot.by_name()["scan"].inputs}
    assert len(picture([before, done.snapshot], ["0", "1"], [done.step.diff])["nodes"]["name"]) > len(before.nodes)
    assert measure([done.program], ["it"], budget_s=0.01).timings[0].peak_bytes > 0


def test_out_of_two_loops_at_once() -> None:
    done = hoisted(captured(nested, 3, STEPS, 4, 8))
    assert done.snapshot.by_name()["exp"].origins == ("map_impl/step/scan/step/exp",)
    assert not any("exp" in name for name in inside(done))
    assert done.step.before.launches - done.step.after.launches == 3 * STEPS - 1


def test_what_only_the_inner_loop_repeats_stays_in_the_outer_one() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        def of_part(part: Tensor) -> Tensor:
            def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
                new = torch.tanh(state * part.exp().sum(0) + row)
                return new, new.clone()

            return scan(step, part.sum(0), part.sin(), dim=0)[1]

        return map_slices(of_part, x)

    done = hoisted(captured(function, 3, STEPS, 4, 8))
    moved = done.snapshot.by_name()["map_impl/step/exp"]
    assert (moved.origins, moved.times, moved.module) == (("map_impl/step/scan/step/exp",), 3, "map.step")
    assert not any("scan/step/exp" in name for name in inside(done))
    again = apply(done.program, done.snapshot, "hoist-loop-invariants", {}, Judge(done.program))
    assert not again.step.matches


@pytest.mark.parametrize("limit", [0, 5])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_rounds_conditions_and_states_that_never_change(limit: int, mode: str) -> None:
    if limit == 0 and mode == "training":
        pytest.skip("torch's own backward of a loop without rounds fails")
    done = hoisted(captured(rounds(limit), 4, 8, mode=mode))
    outside = {origin for node in done.snapshot.nodes if "/" not in node.name for origin in node.origins if "/" in origin}
    loop = "while_loop" if mode == "inference" else "while_loop_stack_output"
    assert {f"{loop}/condition/exp", f"{loop}/condition/sum_2", f"{loop}/body/exp", f"{loop}/body/sin"} <= outside
    assert not any(name.startswith(f"{loop}/") and name.rpartition("/")[2] in ("exp", "sin") for name in inside(done))
    assert done.step.after.launches == done.step.before.launches  # one round is counted


def test_a_loop_in_a_loop_of_unknown_length() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            new = torch.tanh(state @ self.weight.exp() + row)
            return new, new.clone()

        def body(count: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return count + 1, scan(step, y, x, dim=0)[0].clone()

        return while_loop(lambda count, y: count < 3, body, (torch.zeros((), dtype=torch.int64), x[0].sin()))[1]

    done = hoisted(captured(function, STEPS, 8, 8))
    assert done.snapshot.by_name()["exp"].origins == ("while_loop/body/scan/step/exp",)


def test_numbers_and_constants_of_a_body_and_operators_with_several_results() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        def of_row(row: Tensor) -> Tensor:
            variance, mean = torch.var_mean(self.weight, dim=0)
            first, second = (self.weight * 3).chunk(2)
            return (row - mean) / variance + torch.arange(8) * 0.5 + first[0] * second[1]

        return map_slices(of_row, x)

    done = hoisted(captured(function, STEPS, 4, 8))
    assert {name.rpartition("/")[2] for name in inside(done)}.isdisjoint({"var_mean", "arange", "mul"})
    assert {"var_mean", "arange", "mul", "mul_1"} <= set(done.snapshot.by_name())


def test_a_state_must_be_memory_of_its_own() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        def step(state: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
            return self.weight.exp(), state @ row

        return scan(step, torch.zeros(8, 8), x, dim=0)[1]

    done = hoisted(captured(function, STEPS, 8, 8))
    assert not done.step.matches
    assert any("memory of its own" in miss.reason for miss in done.step.misses)


def test_a_division_of_whole_numbers_stays_in_a_loop_that_may_have_no_round() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        zeros = (x[0] * 0).long()

        def body(count: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            return count + 1, y + 7 // zeros

        return while_loop(lambda count, y: count < 0, body, (torch.zeros((), dtype=torch.int64), x.sin()))[1]

    done = hoisted(captured(function, 4, 8))
    assert any("no round" in miss.reason for miss in done.step.misses)


def test_loops_in_a_branch_are_left_with_a_reason() -> None:
    def function(self: Any, x: Tensor) -> Tensor:
        def looped(y: Tensor) -> Tensor:
            return map_slices(lambda row: row * self.weight.exp(), y)

        return torch.cond(x.sum() > 0, looped, torch.sin, (x,))

    done = hoisted(captured(function, STEPS, 8, 8))
    assert not done.step.matches
    assert any("branch" in miss.reason for miss in done.step.misses)


def test_weights_that_came_out_of_a_loop_are_then_prepared() -> None:
    done = hoisted(captured(normalized_cell, STEPS, 4, 8))
    prepared = apply(done.program, done.snapshot, "hoist-weight-work", {}, Judge(done.program))
    assert prepared.step.verdict.kind == "bitwise"
    assert [node.target for node in prepared.snapshot.nodes if node.role == "prepared"]
    assert prepared.step.before.launches - prepared.step.after.launches == 3
