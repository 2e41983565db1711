"""What the shared examples of cleanup do not show: places that depend on one another, one place only, memory, speed, and every pair of casts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from graphs.capture import capture
from graphs.origin import Origin
from graphs.program import Program
from graphs.regions import Prepared, region_of
from graphs.snapshot import snapshot
from optimizers.base import Example, Function, Match, Optimization
from optimizers.catalog import catalog
from optimizers.patterns.numbering import Numbering
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge
from tests import small_models as small
from tests.work import grows_in_proportion

aten = torch.ops.aten
CLEANUP = [each for each in catalog().values() if each.record.kind == "cleanup"]


def program_of(model: Callable[..., Any], *inputs: Tensor, mode: str = "inference") -> Program:
    module = model if isinstance(model, nn.Module) else Function(model)
    return capture(Example(lambda: module, lambda: inputs).source(), mode, "cpu").program


def applied(program: Program, name: str, **settings: str) -> Applied:
    return apply(program, snapshot(program), name, settings, Judge(program))


def targets(program: Program) -> list[Any]:
    return [node.target for node in program.gm.graph.nodes if node.op == "call_function"]


def test_of_four_signs_two_pairs_go() -> None:
    result = applied(program_of(lambda x: -(-(-(-x.sin()))), torch.randn(4)), "simplify-arithmetic")  # noqa: B002
    assert [match.anchor for match in result.step.matches] == ["neg_1", "neg_3"]
    assert targets(result.program) == [aten.sin.default]


def test_one_place_alone_is_rewritten_as_the_graph_is_then() -> None:
    program = program_of(lambda x: -(-(-(-x.sin()))), torch.randn(4))  # noqa: B002
    result = applied(program, "simplify-arithmetic", only="neg_3")
    assert targets(result.program) == [aten.sin.default, aten.neg.default, aten.neg.default]


def test_a_chain_of_constants_is_merged_in_one_step() -> None:
    result = applied(program_of(lambda x: 2 - (x + 1 + 2 - 5 + 4), torch.randn(4)), "reassociate-constants")
    assert len(result.step.matches) == 4
    assert [node.args[1] for node in result.program.gm.graph.nodes if node.op == "call_function"] == [0]
    assert targets(result.program) == [aten.rsub.Scalar]


WITH_CONSTANT: dict[str, Callable[[Tensor, int], Tensor]] = {
    "x + c": lambda x, c: x + c,
    "x - c": lambda x, c: x - c,
    "c - x": lambda x, c: c - x,
    "x * c": lambda x, c: x * c,
    "x / c": lambda x, c: x / c,
}


@pytest.mark.parametrize(
    ("first", "second"), [*itertools.product(["x + c", "x - c", "c - x"], repeat=2), *itertools.product(["x * c", "x / c"], repeat=2)]
)
def test_every_pair_of_operations_with_constants_becomes_one(first: str, second: str) -> None:
    program = program_of(lambda x: WITH_CONSTANT[second](WITH_CONSTANT[first](x, 3), 5), torch.randn(64))
    result = applied(program, "reassociate-constants")
    assert result.step.verdict.kind in ("bitwise", "rounding")
    assert (result.step.before.launches, result.step.after.launches) == (2, 1)
    if first != "x / c" and second != "x / c":
        whole = program_of(lambda n: WITH_CONSTANT[second](WITH_CONSTANT[first](n, 3), 5), torch.arange(8))
        exact = applied(whole, "simplify-arithmetic")
        assert (exact.step.verdict.kind, exact.step.after.launches) == ("bitwise", 1)


def test_whole_numbers_go_round_as_they_did() -> None:
    values = torch.arange(256, dtype=torch.int64).to(torch.uint8)
    result = applied(program_of(lambda n: ((n + 200) + 100) * 3 * 100, values), "simplify-arithmetic")
    assert [node.args[1] for node in result.program.gm.graph.nodes if node.op == "call_function"] == [44, 44]
    assert result.step.verdict.kind == "bitwise"


def test_a_result_never_shares_memory_that_it_did_not_share() -> None:
    def model(x: Tensor) -> tuple[Tensor, ...]:
        y = x.sin()
        return y.clone(), y.clone(), y * 1, y.detach(), x.clone()

    program = program_of(model, torch.randn(4))
    for name in ("remove-no-ops", "simplify-arithmetic", "merge-common-subexpressions"):
        program = applied(program, name).program
    inputs = program.materialize()
    places = [value.data_ptr() for value in (*program.run(inputs), *inputs) if value is not None]
    assert len(set(places)) == 6  # five results and the input


def test_who_reads_memory_by_its_steps_keeps_the_layout() -> None:
    def model(x: Tensor) -> Tensor:
        part = torch.cat((x.sin(), x.cos()), 1)[:, :4]
        return torch.as_strided(part, (2, 2), (8, 1))

    program = program_of(model, torch.randn(2, 4))
    assert applied(program, "cancel-split-concat").step.verdict.kind == "bitwise"


@pytest.mark.parametrize("shape", [(0, 3), (1, 3), (1, 1), (3, 0)])
def test_tensors_without_elements_or_of_one_row_survive_all_cleanup(shape: tuple[int, int]) -> None:
    def model(x: Tensor) -> Tensor:
        y = torch.cat((x.t().contiguous().sin().t() * 1, x - 0)).clone()
        one, two = y.split(max(1, x.shape[0]))[0], y[: x.shape[0]]
        return (one * 2 * 3 + two + two * 4).unsqueeze(0).squeeze(0).transpose(0, 1).transpose(0, 1)

    program = program_of(model, torch.randn(shape))
    for optimization in CLEANUP:
        result = applied(program, optimization.name)
        assert result.step.verdict.kind in ("bitwise", "rounding")
        assert result.step.claim_broken == ()
        program = result.program


KINDS = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
)


def numbers_of(dtype: torch.dtype) -> Tensor:
    """Every number of 8 bits, both ends, fractions, and what is not a number, as far as the dtype holds them."""
    if dtype.is_floating_point:
        limits = torch.finfo(dtype)
        ends = (
            limits.max,
            -limits.max,
            limits.tiny,
            limits.smallest_normal / 4,
            limits.eps,
            1 + limits.eps,
            float("nan"),
            float("inf"),
            -float("inf"),
            -0.0,
        )
        return torch.cat((torch.tensor(ends, dtype=torch.float64), torch.arange(-300, 300) / 3)).to(dtype)
    if dtype is torch.bool:
        return torch.tensor([True, False])
    ends = torch.iinfo(dtype)
    return torch.cat((torch.tensor([ends.min, ends.max, ends.max - 1]), torch.arange(0, 256))).to(dtype)


def test_every_pair_of_casts_that_is_merged_gives_the_same_bits() -> None:
    from optimizers.cleanup.merge_casts import OPTIMIZATION

    merged = 0
    for first, middle, last in itertools.product(KINDS, repeat=3):
        graph = cast_twice(numbers_of(first), middle, last)
        found = [each for each in OPTIMIZATION.find(graph) if isinstance(each, Match)]
        if not found:
            continue
        merged += 1
        x = numbers_of(first)
        once, twice = x.to(last), x.to(middle).to(last)
        same = (once == twice) | (once != once) & (twice != twice)
        assert bool(same.all()), (first, middle, last, x[~same])
    assert merged > 150


def cast_twice(x: Tensor, middle: torch.dtype, last: torch.dtype) -> fx.GraphModule:
    graph = fx.Graph()
    node = graph.placeholder("x")
    node.meta["val"] = x
    for dtype in (middle, last):
        node = graph.call_function(aten._to_copy.default, (node,), {"dtype": dtype})
        node.meta["val"] = x = x.to(dtype)
    node = graph.call_function(aten.sin.default, (node,))  # a cast that is a result must not be an input
    node.meta["val"] = x.sin()
    graph.output((node,))
    return fx.GraphModule(nn.Module(), graph)


class LowRank(nn.Module):
    """A linear layer whose weight has an update of low rank."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.down, self.up = nn.Parameter(torch.randn(2, 16)), nn.Parameter(torch.randn(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight + self.up @ self.down, self.layer.bias)


def test_work_on_weights_runs_once_and_again_when_a_weight_changes() -> None:
    program = program_of(LowRank(), torch.randn(4, 16))
    result = applied(program, "hoist-weight-work")
    assert result.step.verdict.kind == "bitwise"
    assert (result.step.before.launches, result.step.after.launches) == (3, 1)
    region = next(region for node in result.program.gm.graph.nodes if isinstance(region := region_of(node), Prepared))
    inputs = result.program.materialize()
    first = result.program.run(inputs)
    kept = region._kept
    assert torch.equal(result.program.run(inputs)[0], first[0])  # type: ignore[arg-type]
    assert region._kept is kept
    with torch.no_grad():
        inputs[0].mul_(2)
    changed = result.program.run(inputs)
    assert region._kept is not kept
    assert torch.equal(changed[0], program.run(inputs)[0])  # type: ignore[arg-type]


def test_a_part_that_meets_itself_through_a_branch_is_left() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            doubled = self.weight * 2
            chosen = torch.cond(doubled.sum() > 0, lambda w: w + 1, lambda w: w - 1, (doubled,))
            return x * (chosen + doubled)

    program = program_of(Branch(), torch.randn(4))
    step = applied(program, "hoist-weight-work").step
    assert step.verdict.kind == "bitwise"
    assert step.claim_broken == ()


def test_what_is_recomputed_on_purpose_is_not_merged_away() -> None:
    program = capture(small.STACK, "training", "cpu").program
    saved = apply(program, snapshot(program), "recompute-activations", {"every": "2"})
    assert saved.step.after.peak_bytes < saved.step.before.peak_bytes
    merged = apply(saved.program, saved.snapshot, "merge-common-subexpressions", {})
    assert merged.step.after.peak_bytes == saved.step.after.peak_bytes
    assert any("on purpose" in miss.reason for miss in merged.step.misses)


def test_value_numbers_pass_through_dead_and_random_nodes() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.rand_like(x) + torch.rand_like(x) + x.sin() * x.sin()

    program = program_of(model, torch.randn(4))
    numbers = Numbering(program.gm.graph)
    by_name = {node.name: number for node, number in numbers.number.items()}
    assert by_name["rand_like"] != by_name["rand_like_1"]
    assert by_name["sin"] == by_name["sin_1"]


@pytest.mark.parametrize("name", ["canonicalize", "cancel-views", "remove-no-ops", "simplify-arithmetic", "merge-common-subexpressions"])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_attention_is_still_found_after_cleanup(name: str, mode: str) -> None:
    program = capture(small.ATTENTION, mode, "cpu").program
    cleaned = apply(program, snapshot(program), name, {})
    assert len(apply(cleaned.program, cleaned.snapshot, "fuse-attention", {}).step.matches) == 1


@pytest.mark.parametrize("name", ["canonicalize", "cancel-views", "remove-no-ops", "merge-casts", "remove-dead-branches"])
def test_a_second_application_finds_nothing_new_in_the_end(name: str) -> None:
    program = capture(small.NORMALIZED, "training", "cpu").program
    for _ in range(4):
        result = applied(program, name)
        program = result.program
    assert result.step.matches == ()


def long_graph(count: int) -> fx.GraphModule:
    """Operators in a row, most of them with something to clean up."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta.update(val=torch.empty(4, 4, device="meta"), role="parameter")
    node = x
    steps = [
        lambda n: (aten.mul.Tensor, (n, 2)), lambda n: (aten.t.default, (n,)), lambda n: (aten.add.Tensor, (n, x)), lambda n: (aten.clone.default, (n,)),
        lambda n: (aten.neg.default, (n,)), lambda n: (aten.view.default, (n, [4, 4])), lambda n: (aten.add.Tensor, (n, 3)), lambda n: (aten.add.Tensor, (n, 4)),
        lambda n: (aten.cat.default, ([n],)), lambda n: (aten.pow.Tensor_Scalar, (n, 2)),
    ]  # fmt: skip
    for number in range(count):
        target, args = steps[number % len(steps)](node)
        node = graph.call_function(target, args)
        node.meta.update(val=x.meta["val"], origin=Origin("forward", "", None, (node.name,)))
    graph.output((node,))
    return fx.GraphModule(nn.Module(), graph)


@pytest.mark.parametrize("optimization", CLEANUP, ids=lambda optimization: optimization.name)
def test_finding_takes_work_in_proportion_to_the_nodes(optimization: Optimization) -> None:
    graphs = {count: long_graph(count) for count in (200, 400)}
    assert grows_in_proportion(lambda count: lambda: list(optimization.find(graphs[count])), 200)
