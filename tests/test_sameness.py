"""Proof without running: what is recomputed or reordered is proven, and whatever could change a bit is refused."""

from __future__ import annotations

import dataclasses
import operator
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from graphs.bodies import held_graph
from graphs.capture import capture
from graphs.determinism import repeats
from graphs.program import InputSpec, OutputSpec, Program
from graphs.randomness import dropout_scale
from graphs.snapshot import snapshot
from jobs.record import Budget, BudgetResult, Optimize, OptimizeResult, Progress
from jobs.run import perform
from optimizers.pipeline import apply
from optimizers.sameness import prove
from optimizers.verify import Judge, _same_bits
from tests import small_models as small

aten = torch.ops.aten
Function = Callable[..., Any]


def program_of(function: Function, *tensors: Tensor, device: str = "cpu") -> Program:
    """A function of tensors as a program; one output for each value that it gives."""
    with FakeTensorMode() as mode:
        gm = make_fx(function)(*(mode.from_tensor(tensor) for tensor in tensors))
    names = [node.name for node in gm.graph.find_nodes(op="placeholder")]
    given = gm.graph.output_node().args[0]
    outputs = tuple(OutputSpec("output", str(at)) for at in range(len(given) if isinstance(given, list | tuple) else 1))
    inputs = tuple(InputSpec(name, "input", str(at)) for at, name in enumerate(names))
    return Program(gm, inputs, outputs, lambda seed: {("input", str(at)): tensor for at, tensor in enumerate(tensors)}, "inference", device)


def proven(before: Function, after: Function, *tensors: Tensor) -> bool:
    return prove(program_of(before, *tensors), program_of(after, *tensors)).proven


def reason(before: Function, after: Function, *tensors: Tensor) -> str:
    found = prove(program_of(before, *tensors), program_of(after, *tensors))
    assert not found.proven
    return found.reason


X, Y = torch.randn(4, 6), torch.randn(4, 6)


# ------------------------------------------------------------ what is proven


def once(x: Tensor, y: Tensor) -> Any:
    a = torch.exp(x)
    return a.sum(), a * y


def twice(x: Tensor, y: Tensor) -> Any:
    later = torch.exp(x)
    return torch.exp(x).sum(), later * y


def test_a_value_computed_again_or_earlier_or_once_instead_of_twice_is_proven() -> None:
    assert proven(once, twice, X, Y)
    assert proven(twice, once, X, Y)
    assert proven(lambda x, y: (x.exp(), y.sin()), lambda x, y: tuple(reversed((y.sin(), x.exp()))), X, Y)
    assert proven(lambda x, y: x.detach().exp() + y, lambda x, y: x.exp().detach() + y, X, Y)


@pytest.mark.parametrize("name", ["recompute-activations", "recompute-light-work", "recompute-by-knapsack", "recompute-to-budget"])
def test_recomputation_of_a_model_with_dropout_is_proven_and_running_agrees(name: str) -> None:
    program = capture(DROPPING, "training", "cpu").program
    done = apply(program, snapshot(program), name, {"budget": "0.8"} if name == "recompute-to-budget" else {})
    assert done.step.matches
    assert prove(program, done.program).proven, prove(program, done.program).reason
    assert Judge(program).verdict(program, done.program, "bitwise").kind == "bitwise"


class Dropping(nn.Module):
    """Blocks whose activations are large beside their weights, with dropout and a norm in each."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = x + nn.functional.dropout(torch.tanh(layer(norm(x))) * torch.sigmoid(x), 0.25, self.training)
        return x


DROPPING = small.source(Dropping, 64, 16)


# ------------------------------------------------------------ what is refused: other values

REFUSED: dict[str, tuple[Function, Function]] = {
    "operands change places": (lambda x, y: x - y, lambda x, y: y - x),
    "operands of a sum of two dtypes change places": (lambda x, y: x + y.double(), lambda x, y: y.double() + x),
    "operands of a weighted sum change places": (lambda x, y: torch.add(x, y, alpha=2), lambda x, y: torch.add(y, x, alpha=2)),
    "an input for another": (lambda x, y: x.exp(), lambda x, y: y.exp()),
    "a constant in its last bit": (lambda x, y: x * 0.1, lambda x, y: x * 0.10000000000000002),
    "a zero of the other sign": (lambda x, y: x + 0.0, lambda x, y: x + -0.0),
    "a whole number for a fraction": (lambda x, y: x * 1, lambda x, y: x * 1.0),
    "a truth value for a number": (lambda x, y: aten.add.Scalar(x, 1), lambda x, y: aten.add.Scalar(x, True)),
    "another axis": (lambda x, y: x.sum(0, keepdim=True) + y, lambda x, y: x.sum(1, keepdim=True) + y),
    "another part": (lambda x, y: x.chunk(2)[0].exp(), lambda x, y: x.chunk(2)[1].exp()),
    "another dtype between": (lambda x, y: x.exp(), lambda x, y: x.bfloat16().float().exp()),
    "other strides": (lambda x, y: x.clone(), lambda x, y: x.t().contiguous().t()),
    "other strides of an operand": (lambda x, y: x.sum(), lambda x, y: x.t().contiguous().t().sum()),
    "a dependence is dropped": (lambda x, y: (x + y) * 2, lambda x, y: x * 2),
    "outputs change places": (lambda x, y: (x.exp(), y.exp()), lambda x, y: (y.exp(), x.exp())),
    "outputs share memory": (lambda x, y: (x.exp(), x.exp()), lambda x, y: [x.exp()] * 2),
    "an output is an input": (lambda x, y: x.clone(), lambda x, y: x.detach()),
    "work that nobody reads": (lambda x, y: x.exp(), lambda x, y: (y.log(), x.exp())[1]),
}


@pytest.mark.parametrize("case", REFUSED, ids=str)
def test_what_could_change_a_bit_or_shares_memory_otherwise_is_refused(case: str) -> None:
    before, after = REFUSED[case]
    assert proven(before, before, X, Y)
    assert not proven(before, after, X, Y)


def test_a_sum_and_a_product_do_not_mind_the_order_of_their_operands() -> None:
    assert proven(lambda x, y: (x + y) * x.exp(), lambda x, y: x.exp() * (y + x), X, Y)
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, 3.0])
    left, right = special[:, None].expand(7, 7).contiguous(), special[None].expand(7, 7).contiguous()
    assert _same_bits(left + right, right + left)
    assert _same_bits(left * right, right * left)


def test_another_number_of_outputs_or_other_inputs_are_refused() -> None:
    assert "inputs, outputs or device" in reason(once, lambda x, y: (*twice(x, y), y.exp()), X, Y)
    one, other = program_of(lambda x: x.exp(), X), program_of(lambda x: x.exp(), X.t().contiguous().t())
    assert not prove(one, other).proven


def test_a_graph_that_says_of_a_value_that_it_lies_otherwise_is_refused() -> None:
    before = program_of(lambda x, y: x.exp() + y, X, Y)
    after = before.clone()
    node = after.gm.graph.find_nodes(op="call_function", target=aten.exp.default)[0]
    with node.meta["val"].fake_mode:
        node.meta["val"] = node.meta["val"].t().contiguous().t()
    assert not prove(before, after).proven


# ------------------------------------------------------------ what is refused: draws


def drop(x: Tensor) -> tuple[Tensor, Tensor]:
    return aten.native_dropout.default(x, 0.25, True)


DRAWS: dict[str, Function] = {
    "swapped": lambda x, y: tuple(reversed((drop(y)[0], drop(x)[0]))),
    "drawn again": lambda x, y: (drop(x)[0], drop(y)[0], drop(y))[:2],
    "drawn before": lambda x, y: (torch.rand_like(x), drop(x)[0], drop(y)[0])[1:],
    "left out": lambda x, y: (drop(x)[0], y),
    "with another probability": lambda x, y: (drop(x)[0], aten.native_dropout.default(y, 0.5, True)[0]),
}


@pytest.mark.parametrize("case", DRAWS, ids=str)
def test_draws_must_be_the_same_in_the_same_order(case: str) -> None:
    def before(x: Tensor, y: Tensor) -> Any:
        return drop(x)[0], drop(y)[0]

    assert proven(before, before, X, Y)
    assert "draw" in reason(before, DRAWS[case], X, Y)


def test_two_draws_alike_are_two_values() -> None:
    assert not proven(
        lambda x, y: (torch.rand_like(x), torch.rand_like(x)), lambda x, y: (torch.rand_like(x), torch.rand_like(x))[::-1], X, Y
    )
    assert not proven(lambda x, y: (torch.rand_like(x), torch.rand_like(x)), lambda x, y: [torch.rand_like(x)] * 2, X, Y)


# ------------------------------------------------------------ dropout from its mask


def dropped(x: Tensor, y: Tensor) -> Any:
    value, mask = drop(x)
    return value.sum(), mask, value * y


def remade(scale: float = 1 / 0.75, read: Function = lambda x, mask: x) -> Function:
    def function(x: Tensor, y: Tensor) -> Any:
        value, mask = drop(x)
        return value.sum(), mask, read(x, mask) * mask * scale * y

    return function


def test_dropout_made_again_from_its_mask_is_proven_on_a_cpu_only() -> None:
    assert proven(dropped, remade(), X, Y)
    elsewhere = [dataclasses.replace(program_of(function, X, Y), device="cuda") for function in (dropped, remade())]
    assert not prove(*elsewhere).proven


def test_in_half_precision_the_scale_is_the_rounded_one() -> None:
    x, y = X.bfloat16(), Y.bfloat16()
    assert proven(dropped, remade(dropout_scale(0.25, torch.bfloat16)), x, y)
    assert not proven(dropped, remade(), x, y)


def test_dropout_with_another_scale_operand_or_mask_is_refused() -> None:
    assert not proven(dropped, remade(scale=1.3), X, Y)
    assert not proven(dropped, remade(read=lambda x, mask: x + x), X, Y)

    def other_operand(x: Tensor, y: Tensor) -> Any:
        value, mask = drop(x)
        return value.sum(), mask, y * mask * (1 / 0.75) * y

    def other_mask(x: Tensor, y: Tensor) -> Any:
        value, mask = drop(x)
        return value.sum(), mask, x * (x > 0) * (1 / 0.75) * y

    def masks_change_places(x: Tensor, y: Tensor) -> Any:
        (one, first), (other, second) = drop(x), drop(x)
        return one + other, x * second * (1 / 0.75), first, second

    def masks_in_place(x: Tensor, y: Tensor) -> Any:
        (one, first), (other, second) = drop(x), drop(x)
        return one + other, one, first, second

    assert not proven(dropped, other_operand, X, Y)
    assert not proven(dropped, other_mask, X, Y)
    assert not proven(masks_in_place, masks_change_places, X, Y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("p", [0.1, 0.3, 0.9])
def test_the_kernel_for_cpus_multiplies_by_mask_and_scale_in_this_order(dtype: torch.dtype, p: float) -> None:
    x = torch.randn(257, 33).to(dtype).t()
    x[0, :4] = torch.tensor([float("inf"), -0.0, 1e-40, 60000.0]).to(dtype)
    value, mask = aten.native_dropout.default(x, p, True)
    again = aten.mul.Tensor(aten.mul.Tensor(x, mask), dropout_scale(p, dtype))
    assert _same_bits(value, again)
    assert value.stride() == again.stride()


# ------------------------------------------------------------ writing, operators that do not repeat, what is not known


def written(function: Function, find: Any, target: Any, at: int = 0) -> tuple[Program, Program]:
    """A program, and the same with one of its operators in place."""
    before = program_of(function, X, Y)
    after = before.clone()
    after.gm.graph.find_nodes(op="call_function", target=find)[at].target = target
    return before, after


def test_an_elementwise_operator_in_place_is_its_twin_where_nobody_reads_the_memory_otherwise() -> None:
    before, after = written(lambda x, y: (x.exp(), (x.exp() + y).t().sin()), aten.add.Tensor, aten.add_.Tensor)
    assert prove(before, after).proven
    assert prove(after, after.clone()).proven
    assert all(_same_bits(a, b) for a, b in zip(before.run([X, Y]), after.run([X, Y]), strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("function", "find", "target", "why"),
    [
        (lambda x, y: (lambda a: (a, a + y))(x.exp()), aten.add.Tensor, aten.add_.Tensor, "`output` reads later"),
        (lambda x, y: (lambda a: (a + y, a.sin()))(x.exp()), aten.add.Tensor, aten.add_.Tensor, "`sin` reads later"),
        (lambda x, y: (lambda a, v: (a + y, v.sin()))(*(lambda a: (a, a.t()))(x.exp())), aten.add.Tensor, aten.add_.Tensor, "`sin` reads later"),
        (lambda x, y: (x + y,), aten.add.Tensor, aten.add_.Tensor, "which the graph did not make"),
        (lambda x, y: (x.t().sin(),), aten.sin.default, aten.sin_.default, "which the graph did not make"),
        (lambda x, y: (lambda a: (a[:2] + a[1:3],))(x.exp()), aten.add.Tensor, aten.add_.Tensor, "reads as `slice_2` too"),
        (lambda x, y: (x.exp().cumsum(0),), aten.cumsum.default, aten.cumsum_.default, "may write into memory"),
    ],
)  # fmt: skip
def test_writing_into_memory_that_others_read_is_refused(function: Function, find: Any, target: Any, why: str) -> None:
    before, after = written(function, find, target)
    found = prove(before, after)
    assert not found.proven
    assert why in found.reason
    assert prove(after, after.clone()).reason.startswith("the graph before")


def test_another_operator_in_place_is_another_value() -> None:
    before, after = written(lambda x, y: (x.exp() + y,), aten.add.Tensor, aten.mul_.Tensor)
    assert "computes what no operator" in prove(before, after).reason


def test_batch_norm_that_updates_its_statistics_unsaid_is_refused() -> None:
    def norm(x: Tensor, y: Tensor) -> Tensor:
        return aten.native_batch_norm.default(x, None, None, y[0], y[1], True, 0.1, 1e-5)[0]

    assert "may write into memory" in reason(norm, norm, X, Y)


INDEX = torch.tensor([0, 0, 1])


def put(x: Tensor, at: Tensor, add: bool = True) -> Tensor:
    return aten.index_put.default(x, [at], x[:3], add)


def test_a_copy_of_what_gives_other_bits_each_time_is_refused() -> None:
    assert proven(lambda x, at: put(x, at).exp() + put(x, at), lambda x, at: put(x, at).exp() + put(x, at), X, INDEX)
    assert proven(lambda x, at: (put(x, at), put(x[:], at)), lambda x, at: (put(x, at), put(x[:], at)), X, INDEX)

    def shared(x: Tensor, at: Tensor) -> Any:
        one = put(x, at)
        return one.exp(), one.sin()

    def copied(x: Tensor, at: Tensor) -> Any:
        return put(x, at).exp(), put(x, at).sin()

    assert "other bits each time" in reason(shared, copied, X, INDEX)
    assert not proven(copied, shared, X, INDEX)
    assert not proven(lambda x, y: x.new_empty(3).exp() + x.new_empty(3), lambda x, y: (e := x.new_empty(3)).exp() + e, X, Y)


def test_more_operators_are_in_doubt_on_cuda() -> None:
    def summed(x: Tensor, y: Tensor) -> Any:
        return x.cumsum(0), y.tanh()

    nodes = [node for node in program_of(summed, X, Y).gm.graph.nodes if node.op == "call_function"]
    found = {str(node.target).partition(".")[2]: (repeats(node, "cpu"), repeats(node, "cuda")) for node in nodes}
    assert found == {"cumsum.default": (True, False), "tanh.default": (True, True)}


def test_an_operator_that_nobody_knows_is_refused() -> None:
    def known(x: Tensor, y: Tensor) -> Tensor:
        return torch.ops.fxscope.rms_norm(x, [6], y[0], 1e-6)

    assert proven(known, known, X, Y)
    program = program_of(lambda x, y: x + y, X, Y)
    for target in (lambda a, b: a + b, torch.ops._c10d_functional.wait_tensor.default):
        after = program.clone()
        add = after.gm.graph.find_nodes(op="call_function", target=aten.add.Tensor)[0]
        add.target, add.args = target, add.args[: 1 if isinstance(target, torch._ops.OpOverload) else 2]
        assert prove(after, after.clone()).reason.startswith("the graph before")


# ------------------------------------------------------------ graphs inside of a graph


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda v: v * 2.0, lambda v: v.sin(), (x,)) + 1


def test_bodies_are_compared_node_by_node() -> None:
    program = capture(small.source(Branching, 4, 6), "inference", "cpu").program
    for change, same in ((2.0, True), (2.5, False)):
        after = program.clone()
        node = next(node for node in after.gm.graph.nodes if (body := held_graph(node)) is not None and "mul" in str(body.graph))
        body = held_graph(node)
        assert body is not None
        other = fx.GraphModule(body, fx.Graph())
        other.graph.output(other.graph.graph_copy(body.graph, {}))  # type: ignore[arg-type]
        mul = next(each for each in other.graph.nodes if each.target is aten.mul.Tensor)
        mul.update_arg(1, change)
        for old, new in zip(body.graph.nodes, other.graph.nodes, strict=True):
            new.meta = dict(old.meta)
        setattr(after.gm, str(node.target), other)
        assert prove(program, after).proven is same


# ------------------------------------------------------------ at random


def test_whatever_is_proven_of_graphs_changed_at_random_has_equal_bits() -> None:
    """Changes that keep a graph running: another operand of the same shape, another order of operands, another number, a copy of an operator."""
    program = capture(small.source(Dropping, 8, 16), "training", "cpu").program
    inputs, chance = program.materialize(0), random.Random(0)
    right, found = program.run(inputs, 1), {True: 0, False: 0}
    for _ in range(60):
        after = program.clone()
        changed = [_change(after.gm, chance) for _ in range(chance.randint(1, 2))]
        after.gm.graph.lint()
        is_proven = prove(program, after).proven
        given = after.run(inputs, 1)
        if is_proven:
            assert all(_same_bits(a, b) for a, b in zip(right, given, strict=True) if a is not None and b is not None), changed
        found[is_proven] += 1
    assert found[True] >= 10
    assert found[False] >= 10


def _change(gm: fx.GraphModule, chance: random.Random) -> str:
    node = chance.choice([node for node in gm.graph.nodes if node.op == "call_function" and node.target is not operator.getitem])
    reads = node.all_input_nodes
    kind = chance.choice(["copy", "copy", "operand", "swap", "number"])
    if kind == "copy":
        with gm.graph.inserting_before(node):
            read = chance.choice(reads)
            if read.op == "call_function" and isinstance(read.meta["val"], Tensor):
                node.replace_input_with(read, gm.graph.node_copy(read))
    elif kind == "operand":
        read = chance.choice(reads)
        alike = [one for one in gm.graph.nodes if one < node and one.op != "output" and _shape(one) == _shape(read)]
        node.replace_input_with(read, chance.choice(alike))
    elif kind == "swap" and len(reads) == 2 and _shape(reads[0]) == _shape(reads[1]):
        node.args = (node.args[1], node.args[0], *node.args[2:])
    elif kind == "number":
        node.args = tuple(arg * 1.5 if isinstance(arg, float) and arg < 0.5 else arg for arg in node.args)
    return f"{kind} {node.name}"


def _shape(node: fx.Node) -> object:
    value = node.meta.get("val")
    return (value.shape, value.stride(), value.dtype) if isinstance(value, Tensor) else node


# ------------------------------------------------------------ what a request gives

CHAIN = "model=zoo/chain&mode=training&depth=6&width=16&batch=256&device=cpu"


def test_a_proven_step_is_run_too_where_that_is_asked() -> None:
    words = f"{CHAIN}&pipeline=recompute-activations"
    proven_only, run_too = (perform(Optimize(words, run_proven), {}, lambda progress: None) for run_proven in (False, True))
    assert isinstance(proven_only, OptimizeResult)
    assert isinstance(run_too, OptimizeResult)
    assert [one.steps[0].verdict.how for one in (proven_only, run_too)] == ["proven", "run"]
    assert {one.steps[0].verdict.kind for one in (proven_only, run_too)} == {"bitwise"}


def test_a_budget_tells_its_points_as_they_are_found() -> None:
    told: list[Progress] = []
    whole = perform(Budget(CHAIN, 3), {}, told.append)
    assert isinstance(whole, BudgetResult)
    parts = [progress.so_far for progress in told if isinstance(progress.so_far, BudgetResult)]
    counts = [len(part.front.points) for part in parts]
    assert not any(part.whole for part in parts)
    assert counts[0] < len(whole.front.points)
    assert parts[-1].front == whole.front
    assert [progress.share for progress in told] == sorted(progress.share for progress in told)
