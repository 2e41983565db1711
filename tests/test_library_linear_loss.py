"""The last linear layer and the loss in chunks: the same loss and gradients, a lower peak, and work counted as it runs."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from graphs.capture import capture
from graphs.cost import GATHERS, is_view
from graphs.linear_cross_entropy import linear_cross_entropy, linear_cross_entropy_with_gradients, sizes, work
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import config_source
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge
from tests.test_library_norms import SMALL

DTYPES = [(torch.float32, torch.float32), (torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16), (torch.float64, torch.float64)]


def operands(dtype: torch.dtype, bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    torch.manual_seed(0)
    target = torch.randint(0, 30, (10,))
    target[3] = -100
    return torch.randn(10, 8, dtype=dtype), torch.randn(30, 8, dtype=dtype), torch.randn(30, dtype=dtype) if bias else None, target


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "wide"), DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 64])
def test_chunks_give_torch_s_loss_and_gradients(reduction: str, bias: bool, dtype: torch.dtype, wide: torch.dtype, rows: int) -> None:
    x, weight, shift, target = operands(dtype, bias)
    leaves = [each.requires_grad_() for each in (x, weight, shift) if each is not None]
    expected = functional.cross_entropy(functional.linear(x, weight, shift).to(wide), target, reduction=reduction)
    grad = torch.rand_like(expected) + 0.5
    gradients = torch.autograd.grad(expected, leaves, grad)
    code = ("none", "mean", "sum").index(reduction)
    with torch.no_grad():
        loss, *found, _ = linear_cross_entropy_with_gradients(grad, x, weight, shift, target, code, -100, rows, wide)
        alone, _ = linear_cross_entropy(x, weight, shift, target, code, -100, rows, wide)
    loose = {"rtol": 2e-2, "atol": 3e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    for one, other in zip((loss, alone, *found), (expected, expected, *gradients), strict=False):
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other.detach(), **loose)


def test_rows_that_are_all_ignored_give_what_torch_gives() -> None:
    x, weight, _, _ = operands(torch.float32, False)
    loss, _ = linear_cross_entropy(x, weight, None, torch.full((10,), -100), 1, -100, 4, torch.float32)
    assert loss.isnan()


class Moving(TorchDispatchMode):
    """Counts operators that compute, and the bytes of what they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.launches, self.read, self.written = 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        value = func(*args, **(kwargs or {}))
        name = str(func)
        if is_view(func) and "out" not in name and not name.split(".")[1].endswith("_") or "empty" in name or not isinstance(value, Tensor):
            return value
        self.launches += 1
        sizes = [each.numel() * each.element_size() for each in args if isinstance(each, Tensor) and 0 not in each.stride()]
        size = value.numel() * value.element_size()
        if func.overloadpacket in GATHERS or "scatter" in name:
            rows = args[2].numel()
            sizes, size = [rows * args[0].element_size(), *sizes[1:]], rows * args[0].element_size()
        elif name in ("aten.copy_.default", "aten.zero_.default"):
            sizes = sizes[1:]
        self.read, self.written = self.read + sum(sizes), self.written + size
        return value


@pytest.mark.parametrize("reduction", [0, 1, 2])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "wide"), DTYPES)
@pytest.mark.parametrize(("width", "rows"), [(32, 24), (32, 4), (4, 2)])
def test_work_is_counted_as_it_runs(reduction: int, bias: bool, dtype: torch.dtype, wide: torch.dtype, width: int, rows: int) -> None:
    """The narrow gradient of the weight is added for each chunk, for several chunks at once, and to a sum in float32."""
    torch.manual_seed(0)
    x, weight, target = torch.randn(100, width, dtype=dtype), torch.randn(500, width, dtype=dtype), torch.randint(0, 500, (100,))
    shift = torch.randn(500, dtype=dtype) if bias else None
    grad = torch.ones(100 if reduction == 0 else (), dtype=wide)
    for gradient in (False, True):
        with Moving() as moving:
            if gradient:
                linear_cross_entropy_with_gradients._init_fn(grad, x, weight, shift, target, reduction, -100, rows, wide)
            else:
                linear_cross_entropy._init_fn(x, weight, shift, target, reduction, -100, rows, wide)
        counted = work(sizes(x, weight, shift, rows, wide, gradient), reduction)
        assert counted.launches == moving.launches
        assert counted.matmul_flops == 2 * 100 * 500 * width * (3 if gradient else 1)
        assert counted.bytes_read == pytest.approx(moving.read, rel=0.01)
        assert counted.bytes_written == pytest.approx(moving.written, rel=0.01)


class LossAlone(nn.Module):
    """A model of transformers that returns its loss and nothing else."""

    def __init__(self, name: str, dtype: str) -> None:
        super().__init__()
        self.inner = config_source(json.dumps(SMALL[name]), "config.json", {"seq": "12", "dtype": dtype}, "training").build()

    def forward(self, tokens: Tensor) -> Tensor:
        return self.inner(input_ids=tokens, labels=tokens).loss


def loss_alone(name: str, dtype: str) -> Program:
    source = ModelSource(name, lambda: LossAlone(name, dtype), lambda: (torch.randint(0, 64, (3, 12)),), lambda loss: loss, (__file__,))
    return capture(source, "training", "cpu").program


def applied(program: Program, rows: int) -> Applied:
    return apply(program, snapshot(program), "chunk-linear-cross-entropy", {"rows": str(rows)}, Judge(program))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_language_model_that_returns_its_loss_alone_never_holds_logits(name: str, dtype: str) -> None:
    """GPT-2's head is its embedding, whose gradient has two terms; both shift their labels by padding and slicing."""
    result = applied(loss_alone(name, dtype), 9)
    assert len(result.step.matches) == 1, result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding"), result.step.verdict
    assert result.step.after.matmul_flops == result.step.before.matmul_flops
    assert result.step.after.launches > result.step.before.launches
    left = [
        node.target
        for node in result.snapshot.nodes
        if "softmax" in node.target and "scaled" not in node.target or "cross_entropy" in node.target
    ]
    assert left == ["fxscope.linear_cross_entropy_with_gradients.default"]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_logits_that_are_an_output_must_exist(name: str) -> None:
    program = capture(config_source(json.dumps(SMALL[name]), "config.json", {"seq": "12"}, "training"), "training", "cpu").program
    step = applied(program, 4).step
    assert step.matches == ()
    assert any("output of the graph" in miss.reason for miss in step.misses), step.misses


class Head(nn.Module):
    """Hidden states to a loss, in the ways people shift."""

    def __init__(self, how: str, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 16, dtype=dtype), nn.Linear(16, 200, dtype=dtype, bias=how == "bias")
        self.how = how

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        logits = self.head(self.layer(x).relu())
        if self.how == "slice":
            return functional.cross_entropy(logits[:, :-1].reshape(-1, 200), target[:, 1:].reshape(-1))
        if self.how == "sum":
            return (
                functional.cross_entropy(
                    logits.view(-1, 200).to(torch.promote_types(x.dtype, torch.float32)), target.view(-1), reduction="sum"
                )
                / 7
            )
        if self.how == "rows":
            losses = functional.cross_entropy(logits.view(-1, 200), target.view(-1), reduction="none")
            return (losses * torch.linspace(0, 1, losses.numel())).mean()
        if self.how == "hardest":
            return functional.cross_entropy(logits.view(-1, 200), target.view(-1), reduction="none").square().mean()
        loss = functional.cross_entropy(logits.view(-1, 200), target.view(-1), ignore_index=3)
        return loss if self.how != "z" else loss + 1e-3 * logits.logsumexp(-1).square().mean()


def head(how: str, dtype: torch.dtype = torch.float32) -> Program:
    def inputs() -> tuple[Tensor, Tensor]:
        return torch.randn(4, 16, 8, dtype=dtype), torch.randint(0, 200, (4, 16))

    return capture(ModelSource("head", lambda: Head(how, dtype), inputs, lambda loss: loss, (__file__,)), "training", "cpu").program


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("how", ["plain", "bias", "slice", "sum", "rows"])
def test_shifts_and_reductions_keep_loss_and_gradients(how: str, dtype: torch.dtype) -> None:
    step = applied(head(how, dtype), 8).step
    assert len(step.matches) == 1, step.misses
    assert step.verdict.kind in ("bitwise", "rounding"), step.verdict
    assert step.after.peak_bytes < step.before.peak_bytes


@pytest.mark.parametrize(("how", "reason"), [("z", "is also read by"), ("hardest", "depends on the forward pass")])
def test_other_readers_of_logits_and_late_gradients_are_refused(how: str, reason: str) -> None:
    step = applied(head(how), 8).step
    assert step.matches == ()
    assert any(reason in miss.reason for miss in step.misses), step.misses
