"""Ten deliberately wrong rewrites are refuted ten times out of ten, and a right one is not."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, fx, nn

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from optimizers.base import Match, Optimization
from optimizers.pipeline import apply_optimization
from optimizers.record import Claim
from optimizers.verify import Judge, _error, _same_bits
from tests import small_models as small

aten = torch.ops.aten
ANY = Claim("any", "any", "any", "any")


class Zoo(nn.Module):
    """One of everything that can be got wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = small.Attention(), nn.BatchNorm1d(16)
        self.head = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.attention(x))
        low = x.to(torch.bfloat16).float()
        x = nn.functional.dropout(self.head(x), 0.3, self.training) - torch.cat([low[..., 1:], low[..., :1]], -1)
        return x.cumsum(1) / 4


SOURCE = small.source(Zoo, 4, 16, 32)


def first(gm: fx.GraphModule, *targets: object) -> fx.Node:
    return next(node for node in gm.graph.nodes if node.target in targets)


def wrong_dim(gm: fx.GraphModule) -> None:
    first(gm, aten._softmax.default).update_arg(1, 2)


def dropped_cast(gm: fx.GraphModule) -> None:
    cast = first(gm, aten._to_copy.default)
    back = next(user for user in cast.users if user.target is aten._to_copy.default)
    back.replace_all_uses_with(cast.args[0])


def swapped_operands(gm: fx.GraphModule) -> None:
    node = first(gm, aten.sub.Tensor)
    node.args = (node.args[1], node.args[0])


def dropped_mask(gm: fx.GraphModule) -> None:
    node = first(gm, aten.masked_fill.Scalar)
    node.replace_all_uses_with(node.args[0])


def stale_buffer(gm: fx.GraphModule) -> None:
    norm = first(gm, aten._native_batch_norm_legit_functional.default)
    part = next(user for user in norm.users if user.target is operator.getitem and user.args[1] == 3)
    part.replace_all_uses_with(norm.args[3], delete_user_cb=lambda user: user.op == "output")


def wrong_scale(gm: fx.GraphModule) -> None:
    node = first(gm, aten.div.Tensor)
    node.update_arg(1, node.args[1] * 1.01)


def off_by_one_slice(gm: fx.GraphModule) -> None:
    node = next(n for n in gm.graph.nodes if n.target is aten.slice.Tensor and n.args[2] == 1)
    node.args = (node.args[0], node.args[1], 0, node.meta["val"].shape[node.args[1]])


def wrong_reduction(gm: fx.GraphModule) -> None:
    node = first(gm, aten.mean.default)
    with gm.graph.inserting_before(node):
        total = gm.graph.call_function(aten.sum.default, node.args)
    node.replace_all_uses_with(total)


def lost_gradient(gm: fx.GraphModule) -> None:
    """Of the three gradients that meet at the attention's input or at a residual, one is forgotten."""
    node = next(n for n in gm.graph.nodes if n.target is aten.add.Tensor and n.meta["origin"].phase == "backward")
    node.replace_all_uses_with(node.args[0])


def wrong_dropout_seed(gm: fx.GraphModule) -> None:
    """A second draw: forward and backward of dropout see another mask than the unoptimized program."""
    node = first(gm, aten.native_dropout.default)
    with gm.graph.inserting_before(node):
        gm.graph.call_function(aten.rand_like.default, (node.args[0],)).name = "extra_draw"


WRONG = [
    wrong_dim,
    dropped_cast,
    swapped_operands,
    dropped_mask,
    stale_buffer,
    wrong_scale,
    off_by_one_slice,
    wrong_reduction,
    lost_gradient,
    wrong_dropout_seed,
]


def optimization(change: Callable[[fx.GraphModule], None], exactness: str = "rounding") -> Optimization:
    """The change as an optimization with one match, at the output."""

    def find(gm: fx.GraphModule) -> Iterator[Match]:
        node = next(node for node in gm.graph.nodes if node.op == "call_function")
        yield Match(node, (node,))

    def rewrite(gm: fx.GraphModule, match: Match) -> None:
        change(gm)

    return Optimization(change.__name__.replace("_", "-"), "wrong on purpose", find, rewrite, ANY, (), (), exactness)  # type: ignore[arg-type]


@pytest.mark.parametrize("exactness", ["bitwise", "rounding"])
@pytest.mark.parametrize("change", WRONG, ids=lambda change: change.__name__)
def test_wrong_rewrite_is_refuted_and_names_a_tensor(change: Callable[[fx.GraphModule], None], exactness: str) -> None:
    program = capture(SOURCE, "training", "cpu").program
    step = apply_optimization(program, snapshot(program), optimization(change, exactness), {}, Judge(program)).step
    assert step.verdict.kind == "refuted", step.verdict
    assert step.verdict.worst is not None
    assert step.verdict.worst.tensor


def test_doing_nothing_is_bitwise() -> None:
    program = capture(SOURCE, "training", "cpu").program
    step = apply_optimization(program, snapshot(program), optimization(lambda gm: None), {}, Judge(program)).step
    assert step.verdict.kind == "bitwise"
    assert step.verdict.tensors == len(program.outputs)


def test_a_judge_that_proves_first_runs_only_what_is_not_proven(monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(small.TWO_LAYERS, "training", "cpu").program
    judge, summed = Judge(program, prove_first=True), program.clone()
    node = first(summed.gm, aten.mean.default)
    node.target = aten.sum.default
    with monkeypatch.context() as patch:
        patch.setattr(Program, "materialize", lambda *_: pytest.fail("it made inputs"))
        verdict = judge.verdict(program, program.clone(), "bitwise")
    assert (verdict.kind, verdict.how, verdict.tensors) == ("bitwise", "proven", len(program.outputs))
    assert "proven" in verdict.reason
    assert (judge.by_running(program, program.clone(), "bitwise").how, judge.verdict(program, summed, "bitwise").kind) == ("run", "refuted")


def test_another_order_of_summation_is_rounding() -> None:
    def reordered(gm: fx.GraphModule) -> None:
        node = first(gm, aten.mean.default)
        with gm.graph.inserting_before(node):
            rows = gm.graph.call_function(aten.mean.dim, (node.args[0], [0]))
            total = gm.graph.call_function(aten.mean.default, (rows,))
        node.replace_all_uses_with(total)

    program = capture(small.STACK, "training", "cpu").program
    step = apply_optimization(program, snapshot(program), optimization(reordered), {}, Judge(program)).step
    assert step.verdict.kind in ("rounding", "bitwise")


def test_too_large_for_this_machine_is_not_run_and_says_how_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optimizers.verify._available_bytes", lambda: 1000)
    program = capture(small.TWO_LAYERS, "training", "cpu").program
    verdict = Judge(program).verdict(program, program.clone(), "bitwise")
    assert verdict.kind == "not run"
    assert "GiB" in verdict.reason


NAN, INF = float("nan"), float("inf")


def test_bits_are_the_same_but_for_what_a_not_a_number_carries() -> None:
    assert _same_bits(torch.tensor([1.0, NAN]), torch.tensor([1.0, -NAN]))
    assert not _same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not _same_bits(torch.tensor([1 + 2j]), torch.tensor([1 + 3j]))
    assert _same_bits(torch.empty(0, 3), torch.empty(0, 3))


@pytest.mark.parametrize(
    ("value", "own", "reference"),
    [
        ([1.0, INF], [1.0, NAN], [1.0, NAN]),
        ([1.0, -INF], [1.0, INF], [1.0, INF]),
        ([1.0, 0.0], [1.0, NAN], [1.0, NAN]),
        ([1.0, NAN], [1.0, INF], [1.0, 2e38]),  # neither the overflow of float32 nor the number
        ([7, 4], [7, 3], [7, 3]),
        ([True, False], [True, True], [True, True]),
    ],
)
def test_what_is_not_finite_or_whole_must_be_that_of_one_of_the_two_runs(value: list, own: list, reference: list) -> None:
    exact = torch.tensor(reference, dtype=torch.float64) if isinstance(reference[0], float) else torch.tensor(reference)
    assert _error(torch.tensor(value), torch.tensor(own), exact, 0.0) == INF
    assert _error(torch.tensor(own), torch.tensor(own), exact, 0.0) < INF


def test_a_fifth_too_much_is_seen_in_bfloat16() -> None:
    def larger(gm: fx.GraphModule) -> None:
        first(gm, aten.sin.default).update_arg(0, first(gm, aten.mul.Tensor).args[0])

    source = small.ModelSource("sine", lambda: Sine(), lambda: (torch.randn(8, 8).bfloat16(),), None, ())
    program = capture(source, "inference", "cpu").program
    step = apply_optimization(program, snapshot(program), optimization(larger), {}, Judge(program)).step
    assert step.verdict.kind == "refuted"


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x * 0.8)


def test_equal_bits_that_are_no_numbers_are_not_taken_for_a_proof() -> None:
    """A row that hides everything makes softmax 0/0, before as after."""

    class Masked(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.masked_fill(x > -1e9, float("-inf")).softmax(-1), x * 2

    program = capture(small.source(Masked, 3, 4), "inference", "cpu").program
    verdict = Judge(program).verdict(program, program.clone(), "bitwise")
    assert verdict.kind == "bitwise"
    assert "1 of 2 outputs hold NaN" in verdict.reason


def test_writing_into_an_input_is_refuted() -> None:
    def in_place(gm: fx.GraphModule) -> None:
        first(gm, aten.mul.Tensor).target = aten.mul_.Tensor

    source = small.ModelSource("sine", lambda: Sine(), lambda: (torch.randn(8, 8),), None, ())
    program = capture(source, "inference", "cpu").program
    judge = Judge(program)
    step = apply_optimization(program, snapshot(program), optimization(in_place), {}, judge).step
    assert step.verdict.kind == "refuted"
    assert "writes into its input" in step.verdict.reason
    assert judge.verdict(program, program.clone(), "bitwise").kind == "bitwise"
