"""A part of a graph as one node: extracted, put in place, and weights' work done once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from graphs.capture import capture
from graphs.kernels import Kernel
from graphs.program import Program
from graphs.regions import Prepared, Region, collapse, has_outside_path
from graphs.snapshot import snapshot
from optimizers.base import Example, Function
from optimizers.editing import of_weights_alone, prepare


def program_of(model: nn.Module, *inputs: Tensor) -> Program:
    return capture(Example(lambda: model, lambda: inputs).source(), "inference", "cpu").program


def named(gm: fx.GraphModule, *names: str) -> list[fx.Node]:
    return [node for node in gm.graph.nodes if node.name in names]


def test_a_region_computes_what_its_nodes_did_and_readers_before_its_end_move_behind() -> None:
    def model(x: Tensor) -> Tensor:
        a = x.sin()
        b = a.exp()  # reads the region's first node before its last
        return b + a.cos()

    program = program_of(Function(model), torch.randn(3, 4))
    inputs = program.materialize()
    before = program.run(inputs)
    changed = program.clone()
    node = collapse(named(changed.gm, "sin", "cos"), lambda body: Region("sin·cos", body))
    changed.gm.graph.lint()
    changed.gm.recompile()
    after = changed.run(inputs)
    assert torch.equal(before[0], after[0])  # type: ignore[arg-type]
    assert torch.equal(changed.gm(*inputs)[0], before[0])
    assert len(node.users) == 2
    record = snapshot(changed).by_name()[node.name]
    assert record.target == "region.sin·cos"
    assert record.origins == ("sin", "cos")


def test_a_kernel_that_reads_nothing_has_shapes_too() -> None:
    """A mask is made of numbers alone; what makes it has no operand by which fake tensors could be told from real ones."""
    program = program_of(Function(lambda x: x + torch.arange(6).mul(2).sub(1)), torch.randn(3, 6))
    node = collapse(named(program.gm, "arange", "mul", "sub"), lambda body: Kernel("mask", body))
    assert not node.args
    assert isinstance(node.target, Kernel)
    with FakeTensorMode():
        assert isinstance(node.target(), FakeTensor)
    assert node.target().tolist() == [-1, 1, 3, 5, 7, 9]


def test_a_region_reads_nothing_of_what_it_takes_the_shape_of() -> None:
    program = program_of(Function(lambda x: torch.full_like(x, 2.0).sin()), torch.randn(8, 16))
    node = collapse(named(program.gm, "full_like", "full", "sin"), lambda body: Region("filled", body))
    cost = snapshot(program).by_name()[node.name].cost
    assert (cost.bytes_read, cost.bytes_written) == (0, 8 * 16 * 4)
    both = program_of(Function(lambda x: torch.full_like(x, 2.0) * x), torch.randn(8, 16))
    node = collapse(named(both.gm, "full_like", "full", "mul"), lambda body: Region("filled", body))
    assert snapshot(both).by_name()[node.name].cost.bytes_read == 8 * 16 * 4


def test_a_path_through_the_outside_is_seen() -> None:
    program = program_of(Function(lambda x: x.sin().exp().cos() + x.sin()), torch.randn(3))
    assert has_outside_path(named(program.gm, "sin", "cos"))
    assert not has_outside_path(named(program.gm, "sin", "exp", "cos"))
    assert not has_outside_path(named(program.gm, "sin", "sin_1"))


def test_work_on_weights_is_done_once_until_a_weight_changes() -> None:
    program = program_of(nn.Linear(4, 4), torch.randn(2, 4))
    weights = [node for node in of_weights_alone(program.gm) if node.op == "placeholder"]
    assert len(weights) == 2
    changed = program.clone()
    weight = next(node for node in changed.gm.graph.nodes if node.name == weights[0].name)
    with changed.gm.graph.inserting_after(weight):
        node = prepare(changed.gm, "doubled", lambda w: w * 2, weight)
    assert isinstance(node.target, Prepared)
    value = torch.ones(2)
    first = node.target.run(value)
    assert node.target.run(value) is first
    assert node.target.run(torch.zeros(2)).tolist() == [0.0, 0.0]
    value.add_(1)
    assert node.target.run(value).tolist() == [4.0, 4.0]
    node.meta["origin"] = weight.meta["origin"]
    record = snapshot(changed).by_name()[node.name]
    assert (record.cost.launches, record.role) == (0, "prepared")


@pytest.mark.parametrize("zero", [0, 3])
def test_the_order_of_nodes_stays_an_order(zero: int) -> None:
    program = program_of(Function(lambda x: (x.sin() + x.cos()) * x.exp()), torch.randn(zero))
    changed = program.clone()
    collapse(named(changed.gm, "sin", "exp"), lambda body: Region("two", body))
    changed.gm.graph.lint()
    inputs = program.materialize()
    assert torch.equal(changed.run(inputs)[0], program.run(inputs)[0])  # type: ignore[arg-type]


def test_bytes_of_a_kernel_of_two_loops_are_those_of_both() -> None:
    """The sum of everything is there only when the first loop is over, so x is read twice and the sum written and read."""
    program = program_of(Function(lambda x: x / x.sum()), torch.randn(64, 32))
    node = collapse(named(program.gm, "sum_1", "div"), lambda body: Kernel("sum·div", body))
    record = snapshot(program).by_name()[node.name]
    x, number = 64 * 32 * 4, 4
    assert record.cost.launches == 2
    assert (record.cost.bytes_read, record.cost.bytes_written) == (2 * x + number, x + number)


def test_bytes_of_a_kernel_of_one_loop_are_operands_and_results() -> None:
    program = program_of(Function(lambda x: x - x.mean(-1, keepdim=True)), torch.randn(64, 32))
    node = collapse(named(program.gm, "mean", "sub"), lambda body: Kernel("mean·sub", body))
    record = snapshot(program).by_name()[node.name]
    assert record.cost.launches == 1
    assert (record.cost.bytes_read, record.cost.bytes_written) == (64 * 32 * 4, 64 * 32 * 4)


def test_draws_keep_their_order_when_a_kernel_makes_room() -> None:
    """The first draw needs the kernel's first node, the second nothing of it; a later node of the kernel stands behind both."""

    def model(x: Tensor) -> tuple[Tensor, ...]:
        a = x.sin()
        one, two = torch.rand_like(a), torch.rand(5)
        return one, two, x.cos()

    program = program_of(Function(model), torch.randn(3, 4))
    inputs = program.materialize()
    torch.manual_seed(0)
    before = program.run(inputs)
    changed = program.clone()
    collapse(named(changed.gm, "sin", "cos"), lambda body: Region("sin·cos", body))
    changed.gm.graph.lint()
    changed.gm.recompile()
    torch.manual_seed(0)
    after = changed.gm(*inputs)
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))  # type: ignore[arg-type]


def test_two_views_of_one_part_are_that_part_once() -> None:
    """A product that reads a part and its transpose reads 4 × 4 numbers, though the memory behind holds twice as many."""

    def model(x: Tensor) -> Tensor:
        part = (x + 1).split(4, 1)[0]
        return part @ part.t()

    program = program_of(Function(model), torch.randn(4, 8))
    product = next(node for node in snapshot(program).nodes if node.target == "aten.mm.default")
    assert product.cost.bytes_read == 4 * 4 * 4
