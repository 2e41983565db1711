"""Dense experts are one batch: fewer launches, the same operations, weights stacked once, or in training once a step."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphs.capture import capture
from graphs.options import PLAIN, CaptureOptions
from graphs.program import Program
from graphs.regions import Prepared
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge


def applied(program: Program) -> Applied:
    return apply(program, snapshot(program), "group-experts", {}, Judge(program))


class Deep(nn.Module):
    """Experts of three layers, with or without biases."""

    def __init__(self, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()

        def expert() -> nn.Module:
            sizes = ((8, 12), (12, 12), (12, 8))
            layers = [nn.Linear(*size, bias=bias, dtype=dtype) for size in sizes]
            return nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.ReLU(), layers[2])

        self.experts, self.router = nn.ModuleList(expert() for _ in range(5)), nn.Linear(8, 5, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        return torch.stack([gates[:, at, None] * expert(x) for at, expert in enumerate(self.experts)]).sum(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_of_equal_experts_are_batched_products(bias: bool, dtype: torch.dtype) -> None:
    source = ModelSource("deep", lambda: Deep(bias, dtype), lambda: (torch.randn(6, 8, dtype=dtype),), None, (__file__,))
    result = applied(capture(source, "inference", "cpu").program)
    assert len(result.step.matches) == 1, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert result.step.claim_broken == ()
    assert result.step.before.launches - result.step.after.launches == 4 * 5, "of 5 operators of 5 experts, 5 are left"
    products = [node.target for node in result.snapshot.nodes if "bmm" in node.target]
    assert products == ["aten.baddbmm.default" if bias else "aten.bmm.default"] * 3


def test_weights_are_stacked_once() -> None:
    source = ModelSource("deep", lambda: Deep(True, torch.float32), lambda: (torch.randn(6, 8),), None, (__file__,))
    program = applied(capture(source, "inference", "cpu").program).program
    inputs = program.materialize()
    program.run(inputs)
    stacked = [node.target for node in program.gm.graph.nodes if isinstance(node.target, Prepared)]
    kept = [each._kept for each in stacked]
    program.run(inputs)
    assert len(kept) == 6
    assert all(each._kept is old for each, old in zip(stacked, kept, strict=True))


def test_the_mixture_of_the_zoo_is_grouped() -> None:
    program = capture(zoo_source("moe", {"width": "16", "seq": "6", "experts": "6"}), "inference", "cpu").program
    result = applied(program)
    assert len(result.step.matches) == 1, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding")
    assert result.step.after.flops == result.step.before.flops
    assert result.step.before.launches - result.step.after.launches == 3 * 6 - 3


def test_experts_whose_inside_is_read_or_differs_are_left_alone() -> None:
    class Two(nn.Module):
        def __init__(self, same: bool) -> None:
            super().__init__()
            self.one, self.two, self.same = nn.Linear(8, 8), nn.Linear(8, 8), same
            self.last = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8 if same else 4)])

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            one, two = self.one(x).relu(), self.two(x).relu()
            return self.last[0](one), self.last[1](two), *([one] if self.same else [])

    for same, reason in ((True, "is an output of the graph"), (False, "not followed by equal operators")):
        source = ModelSource("two", lambda same=same: Two(same), lambda: (torch.randn(6, 8),), None, (__file__,))
        step = applied(capture(source, "inference", "cpu").program).step
        assert step.matches == ()
        assert any(reason in miss.reason for miss in step.misses)


class Gated(nn.Module):
    """An expert as in Mixtral: down(silu(gate(x)) * up(x))."""

    def __init__(self, width: int, inner: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate, self.up = (nn.Linear(width, inner, bias=False, dtype=dtype) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Mixtral(nn.Module):
    """Two layers of experts that all run on all tokens; the two best weigh, and the residual goes around."""

    def __init__(self, dtype: torch.dtype = torch.float32, experts: int = 4, width: int = 12) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleList(Gated(width, 2 * width, dtype) for _ in range(experts)) for _ in range(2))
        self.routers = nn.ModuleList(nn.Linear(width, experts, bias=False, dtype=dtype) for _ in range(2))
        self.norm = nn.RMSNorm(width, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        for experts, router in zip(self.blocks, self.routers, strict=True):
            normed = self.norm(x)
            scores = router(normed).float().softmax(-1)
            best, chosen = scores.topk(2, -1)
            weights = torch.zeros_like(scores).scatter(-1, chosen, best / best.sum(-1, keepdim=True)).to(x.dtype)
            for at, expert in enumerate(experts):
                x = x + weights[..., at, None] * expert(normed)
        return x


def mixtral(mode: str, dtype: torch.dtype = torch.float32, options: CaptureOptions = PLAIN) -> Program:
    source = ModelSource("mixtral", lambda: Mixtral(dtype), lambda: (torch.randn(2, 5, 12, dtype=dtype),), None, (__file__,))
    return capture(source, mode, "cpu", options).program


def targets(result: Applied, word: str) -> list[str]:
    return [node.target for node in result.snapshot.nodes if word in node.target]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mode", ["inference", "training"])
def test_gated_experts_are_batched_in_every_layer(mode: str, dtype: torch.dtype) -> None:
    result = applied(mixtral(mode, dtype))
    assert len(result.step.matches) == 2, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert result.step.claim_broken == ()
    assert len(targets(result, "bmm")) == 2 * (3 if mode == "inference" else 9)
    assert len(targets(result, "mm")) - len(targets(result, "bmm")) == 2 * (1 if mode == "inference" else 3), "routers stay"
    saved = result.step.before.launches - result.step.after.launches
    # Of 5 operators of 4 experts 5 are left. In training each has 6 products, a silu backward, two products of the gate, an addition for x: 10
    # more; one addition is left for all, and 3 others become one sum. Three stacks of weights and one of gradients come in.
    assert saved == 2 * (5 * 3 if mode == "inference" else 5 * 3 + 10 * 3 + 2 - 4)


def test_the_mixture_of_the_zoo_is_grouped_in_training() -> None:
    program = capture(zoo_source("moe", {"width": "16", "seq": "6", "experts": "6"}), "training", "cpu").program
    result = applied(program)
    assert len(result.step.matches) == 1, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert result.step.before.launches - result.step.after.launches == 9 * 5 - 5
    assert len(targets(result, "baddbmm")) == 2
    assert len(targets(result, "bmm")) == 5, "tokens are an input: nobody wants their gradient"
    assert targets(result, "stack.default") == ["aten.stack.default"] * 5


def test_stacking_large_experts_in_every_step_does_not_pay() -> None:
    program = capture(zoo_source("moe", {"width": "256", "seq": "6"}), "training", "cpu").program
    step = applied(program).step
    assert step.matches == ()
    assert any("Stacking weights and gradients in every step moves" in miss.reason for miss in step.misses), step.misses


def small(model: Callable[[], nn.Module], mode: str, *shape: int) -> Program:
    return capture(ModelSource("small", model, lambda: (torch.randn(*shape),), None, (__file__,)), mode, "cpu").program


class Capacity(nn.Module):
    """Tokens sorted by expert before; how each expert gets its own is what differs."""

    def __init__(self, how: str = "select") -> None:
        super().__init__()
        self.first, self.experts, self.how = nn.Linear(8, 8), nn.ModuleList(Gated(8, 12, torch.float32) for _ in range(3)), how

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).sin()
        if self.how == "select":
            own = [x[at] for at in range(3)]
        elif self.how == "back to front":
            own = [x[2 - at] for at in range(3)]
        elif self.how == "unbind":
            own = list(x.unbind())
        elif self.how == "chunk":
            own = list(x.chunk(3))
        else:
            own = [x[0], x[1], x[1]]
        return torch.cat([expert(each).cos() for expert, each in zip(self.experts, own, strict=True)])


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("inference", CaptureOptions(autocast="bfloat16")),
        ("training", CaptureOptions(autocast="bfloat16")),
        ("training", CaptureOptions(update="adamw")),
        ("inference", CaptureOptions(dynamic="batch")),
    ],
)
def test_casts_updates_and_symbolic_sizes_around_experts_are_no_obstacle(mode: str, options: CaptureOptions) -> None:
    result = applied(mixtral(mode, options=options))
    assert len(result.step.matches) == 2, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert result.step.claim_broken == ()
    assert len(targets(result, "bmm")) == 2 * (3 if mode == "inference" else 9)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("how", ["select", "back to front", "unbind", "chunk"])
def test_experts_with_tokens_of_their_own_are_a_batch_without_a_copy(how: str, mode: str) -> None:
    shape = (12, 8) if how == "chunk" else (3, 4, 8)
    result = applied(small(lambda: Capacity(how), mode, *shape))
    assert len(result.step.matches) == 1, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert len(targets(result, "bmm")) == (3 if mode == "inference" else 9)
    assert len(targets(result, "stack.default")) <= 4 + (how == "unbind"), "weights, and gradients of the results; not the tokens"


def test_slices_that_are_not_one_for_each_expert_are_left_alone() -> None:
    step = applied(small(lambda: Capacity("twice"), "inference", 3, 4, 8)).step
    assert step.matches == ()
    assert any("not its slices, one for each" in miss.reason for miss in step.misses), step.misses


class Strange(nn.Module):
    """Experts with an activation by hand, whose results are added without gates, and one that is something else."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.widen, self.narrow = (nn.ModuleList(nn.Linear(8, 8) for _ in range(4)) for _ in range(2))

    def expert(self, at: int, x: Tensor) -> Tensor:
        wide = self.widen[at](x)
        return self.narrow[at](wide * torch.sigmoid((1.702 if at < 3 else 2.0) * wide))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return sum(self.expert(at, x) for at in range(4))  # type: ignore[return-value]


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_those_experts_that_are_equal_are_grouped_whatever_stands_between_their_layers(mode: str) -> None:
    result = applied(small(Strange, mode, 6, 8))
    assert len(result.step.matches) == 1, result.step.misses
    assert "3 experts of 2 layers" in result.step.matches[0].note
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert len(targets(result, "stack.default")) == (0 if mode == "inference" else 4), "one gradient for all results is not stacked"


def test_weights_that_are_computed_are_left_alone() -> None:
    class Modulated(Strange):
        def expert(self, at: int, x: Tensor) -> Tensor:
            wide = functional.linear(x, self.widen[at].weight * x.mean())
            return functional.linear(wide.relu(), self.narrow[at].weight)

    step = applied(small(Modulated, "inference", 6, 8)).step
    assert step.matches == ()
    assert any("is computed" in miss.reason for miss in step.misses), step.misses
