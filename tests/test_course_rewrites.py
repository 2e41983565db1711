"""Rewrites that an ML-systems course works by hand: constants in a row, neutral elements, value numbers, and images side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from graphs.capture import capture
from graphs.cost import value_bytes
from graphs.program import Program
from graphs.snapshot import snapshot
from optimizers.base import Example, Function
from optimizers.patterns.numbering import Numbering
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge

aten = torch.ops.aten
alias = aten.alias.default  # a plain assignment, `d = a`: capture itself leaves nothing of one


def program_of(function: Callable[..., Any], *inputs: Tensor) -> Program:
    return capture(Example(lambda: Function(function), lambda: inputs).source(), "inference", "cpu").program


def applied(program: Program, *names: str) -> Applied:
    judge, graph = Judge(program), snapshot(program)
    for name in names:
        result = apply(program, graph, name, {}, judge)
        assert result.step.verdict.kind in ("bitwise", "rounding")
        program, graph = result.program, result.snapshot
    return result


def calls(program: Program) -> list[tuple[Any, ...]]:
    """Every operator with its arguments, nodes by name."""
    found = []
    for node in program.gm.graph.nodes:
        if node.op == "call_function":
            found.append((node.target, *(arg.name if isinstance(arg, fx.Node) else arg for arg in node.args)))
    return found


# A08: (x + 3) + 4 is x + 7, x · 1 and x + 0 are x: two additions become one, and no operator is left of the others.
def test_constants_in_a_row_of_floats_become_one_addition() -> None:
    program = program_of(lambda x: (x + 3) + 4, torch.randn(8))
    assert snapshot(program).totals.launches == 2
    result = applied(program, "reassociate-constants")
    assert calls(result.program) == [(aten.add.Tensor, "primals_1", 7)]
    assert result.step.after.launches == 1
    assert [miss.reason for miss in applied(program, "simplify-arithmetic").step.misses] == [
        "Two operations round twice, one rounds once; reassociate-constants, which rounds, does it."
    ]


def test_constants_in_a_row_of_whole_numbers_become_one_addition_exactly() -> None:
    result = applied(program_of(lambda n: (n + 3) + 4, torch.arange(8)), "simplify-arithmetic")
    assert calls(result.program) == [(aten.add.Tensor, "primals_1", 7)]
    assert result.step.verdict.kind == "bitwise"


@pytest.mark.parametrize("neutral", [lambda x: x * 1, lambda x: x + 0, lambda x: x - 0, lambda x: x / 1, lambda x: 1 * x, lambda x: 0 + x])
def test_neutral_arithmetic_leaves_no_operator(neutral: Callable[[Tensor], Tensor]) -> None:
    """sin stands for whatever computes x; a result that were an input itself would share its memory."""
    program = program_of(lambda x: neutral(torch.sin(x)), torch.randn(8))
    result = applied(program, "simplify-arithmetic", "reassociate-constants")
    assert calls(result.program) == [(aten.sin.default, "primals_1")]


def test_adding_zero_to_whole_numbers_is_exact_and_to_floats_it_is_not() -> None:
    whole = applied(program_of(lambda n: torch.bitwise_not(n) + 0, torch.arange(8)), "simplify-arithmetic")
    assert calls(whole.program) == [(aten.bitwise_not.default, "primals_1")]
    floats = applied(program_of(lambda x: torch.sin(x) + 0, torch.randn(8)), "simplify-arithmetic")
    assert ["-0.0" in miss.reason for miss in floats.step.misses] == [True]
    assert 1 / (torch.tensor(-0.0) + 0) == float("inf")
    assert 1 / torch.tensor(-0.0) == -float("inf")


# A09: c = a + b; d = a; e = b; f = d + e; d = x.
def assignments(a: Tensor, b: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    c = a + b
    d = alias(a)
    e = alias(b)
    f = d + e
    d = alias(x)
    return torch.relu(c), f, d


def test_value_numbers_of_assignments() -> None:
    numbers = Numbering(program_of(assignments, *(torch.randn(8) for _ in range(3))).gm.graph)
    assert {node.name: number for node, number in numbers.number.items() if node.name != "relu"} == {
        "primals_1": 1,  # a
        "primals_2": 2,  # b
        "add": 3,  # a + b, and c
        "alias": 1,  # d = a
        "alias_1": 2,  # e = b
        "add_1": 3,  # f = d + e
        "primals_3": 4,  # x
        "alias_2": 4,  # the last d
    }


def test_the_second_sum_reads_the_first_and_the_first_copies_die() -> None:
    program = program_of(assignments, *(torch.randn(8) for _ in range(3)))
    step = applied(program, "merge-common-subexpressions").step
    assert [(match.anchor, match.note) for match in step.matches] == [("add_1", "value 3 = add(1, 2), first computed by add")]
    result = applied(program, "merge-common-subexpressions", "remove-dead-code")
    left = [node.name for node in result.program.gm.graph.nodes]
    assert "add" in left
    assert not {"add_1", "alias", "alias_1"} & set(left)  # f is c; the first d and e are read by nobody
    assert "alias_2" in left  # the last d


def test_swapped_operands_are_one_value() -> None:
    program = program_of(lambda x, y: torch.sin(x * y) + torch.cos(y * x), torch.randn(4), torch.randn(4))
    assert [match.anchor for match in applied(program, "merge-common-subexpressions").step.matches] == ["mul_1"]


def test_normal_forms_let_merging_see_what_it_could_not() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.sin(x - 3).sum(-1) + torch.sin(x + -3.0).sum(1)

    program = program_of(model, torch.randn(4, 8))
    assert applied(program, "merge-common-subexpressions").step.matches == ()
    merged = applied(program, "canonicalize", "merge-common-subexpressions")
    assert len(merged.step.matches) == 3
    assert merged.step.after.launches == 4
    assert merged.step.verdict.kind == "bitwise"


# A31: a convolution and its batch norm are one convolution with W2 = W · R and B2 = B · R + P for each channel.
def test_batch_norm_folds_into_its_convolution_by_the_formula() -> None:
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)).double().eval()
    norm, convolution = model[1], model[0]
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    program = capture(Example(lambda: model, lambda: (torch.randn(2, 3, 8, 8).double(),)).source(), "inference", "cpu").program
    result = applied(program, "fold-batch-norm")
    assert (result.step.before.launches, result.step.after.launches) == (2, 1)
    rate = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    weight = convolution.weight * rate[:, None, None, None]
    shift = convolution.bias * rate + norm.bias - norm.running_mean * rate  # type: ignore[operator]
    image = torch.randn(2, 3, 8, 8).double()
    with torch.no_grad():
        assert float((torch.conv2d(image, weight, shift) - model(image)).abs().max()) < 1e-14  # type: ignore[arg-type]
    assert result.step.verdict.kind in ("bitwise", "rounding")


# A33: query, key and value of Llama-2-7B, batch 1, sequence 4,096, in 16 bits: three matmuls read their input three times, one reads it once.
def test_one_matmul_for_query_key_and_value_reads_its_input_once() -> None:
    width, rows = 4096, 4096

    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(width, width, bias=False, dtype=torch.float16) for _ in range(3))

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            return tuple(part(x) for part in self.parts)

    def rows_of_input() -> tuple[Tensor]:
        return (torch.zeros(1, rows, width, dtype=torch.float16),)

    program = capture(Example(Three, rows_of_input).source(), "inference", "cpu").program
    result = apply(program, snapshot(program), "merge-parallel-matmuls", {}, None)
    reads = []
    for graph in (program.gm, result.program.gm):
        products = graph.graph.find_nodes(op="call_function", target=aten.mm.default)
        reads.append((len(products), sum(value_bytes(node.args[0].meta["val"]) for node in products) / 2**20))
    assert reads == [(3, 96), (1, 32)]
    assert result.step.after.flops == result.step.before.flops


# A36: PET's convolution. Two images of 5 × 5, kernel 3, padding 1: one of 5 × 10, whose columns 4 and 5 look across the seam.
def test_a_convolution_of_two_images_side_by_side_is_mended_at_the_seam() -> None:
    images = torch.arange(50.0).reshape(2, 1, 5, 5)
    program = program_of(lambda x, weight: torch.conv2d(x, weight, padding=1), images, torch.ones(1, 1, 3, 3))
    result = applied(program, "convolve-side-by-side")
    assert [call[0] for call in calls(result.program) if call[0] in (aten.cat.default, aten.convolution.default)] == [
        aten.cat.default,  # the images side by side
        aten.convolution.default,
        aten.cat.default,  # strips on either side of the seam, their sides changed
        aten.convolution.default,
        *[aten.cat.default] * 3,  # the mended columns in their places, for each image, and the two images
    ]
    assert [match.note for match in result.step.matches] == ["2 images 5 wide as 1 of 10, 1 columns on either side of the seam mended"]
    shapes = [
        tuple(node.meta["val"].shape) for node in result.program.gm.graph.find_nodes(op="call_function", target=aten.convolution.default)
    ]
    assert shapes == [(1, 1, 5, 10), (1, 1, 5, 4)]
    assert (result.step.before.matmul_flops, result.step.after.matmul_flops) == (50 * 18, 70 * 18)
    given = [images, torch.ones(1, 1, 3, 3)]
    (before,), (after,) = program.run(given), result.program.run(given)
    assert before is not None
    assert after is not None
    assert torch.equal(before, after)
