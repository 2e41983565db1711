"""Activations as people write them become one kernel, forward and backward; what only resembles them does not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import config_source
from optimizers.base import Function
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge
from tests.test_library_norms import SMALL

Spelling = Callable[[Tensor], Tensor]
SLOPE = math.sqrt(2 / math.pi)


def program_of(spelling: Spelling, mode: str, dtype: torch.dtype = torch.float32) -> Program:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 12, dtype=dtype), Function(spelling), nn.Linear(12, 8, dtype=dtype))

    return capture(ModelSource("activation", model, lambda: (torch.randn(5, 8, dtype=dtype),), None, (__file__,)), mode, "cpu").program


def applied(program: Program, name: str) -> Applied:
    return apply(program, snapshot(program), name, {}, Judge(program))


GELU: dict[str, Spelling] = {
    "gpt2": lambda x: 0.5 * x * (1.0 + torch.tanh(SLOPE * (x + 0.044715 * torch.pow(x, 3.0)))),
    "factored": lambda x: x * 0.5 * (torch.tanh(SLOPE * x * (1 + 0.044715 * x * x)) + 1),
    "products": lambda x: (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) * x / 2,
    "exact": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "exact, other order": lambda x: (torch.erf(x * math.sqrt(0.5)) + 1.0) * 0.5 * x,
}
SILU: dict[str, Spelling] = {
    "swish": lambda x: x * x.sigmoid(),
    "swish, other order": lambda x: torch.sigmoid(x) * x,
    "mish": lambda x: x * torch.tanh(nn.functional.softplus(x)),
}
CASES = [*(("fuse-gelu", name) for name in GELU), *(("fuse-silu", name) for name in SILU)]
KERNELS = ("aten.gelu", "aten.silu", "aten.mish")


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize(("optimization", "spelling"), CASES)
def test_every_spelling_becomes_one_kernel_each_way(optimization: str, spelling: str, mode: str) -> None:
    for dtype in (torch.float32, torch.bfloat16) if mode == "training" else (torch.bfloat16,):
        result = applied(program_of((GELU | SILU)[spelling], mode, dtype), optimization)
        assert len(result.step.matches) == 1, (dtype, result.step.misses)
        assert result.step.verdict.kind in ("bitwise", "rounding"), (dtype, result.step.verdict)
        assert result.step.claim_broken == ()
        computing = [node.target for node in result.snapshot.nodes if node.cost.launches and "mm" not in node.target]
        assert sum(target.startswith(KERNELS) for target in computing) == (2 if mode == "training" else 1)
        assert not any(word in target for target in computing for word in ("tanh", "erf", "sigmoid", "softplus"))


REFUSED: list[tuple[str, Spelling, str]] = [
    ("fuse-gelu", lambda x: x * torch.sigmoid(1.702 * x), "no kernel"),
    ("fuse-gelu", lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.044715 * x**3))), "to the precision"),
    ("fuse-gelu", lambda x: x * (1 + torch.erf(x / math.sqrt(2))) * x, "another multiple"),
    ("fuse-gelu", lambda x: 0.5 * x.cos() * (1 + torch.erf(x / math.sqrt(2))), "between two values"),
    ("fuse-gelu", lambda x: 0.5 * (x + 1) * (1 + torch.erf(x / math.sqrt(2))), "another multiple"),
    ("fuse-silu", lambda x: x.cos() * x.sigmoid(), "between two values"),
    ("fuse-silu", lambda x: torch.log1p(x.exp()), "overflows"),
    ("fuse-silu", lambda x: x * torch.tanh(nn.functional.softplus(x, beta=2.0)), "another slope"),
]


@pytest.mark.parametrize(("optimization", "spelling", "reason"), REFUSED)
def test_what_only_resembles_it_is_refused(optimization: str, spelling: Spelling, reason: str) -> None:
    step = applied(program_of(spelling, "training"), optimization).step
    assert step.matches == ()
    assert any(reason in miss.reason for miss in step.misses), step.misses


def test_a_constant_of_ten_digits_is_exact_in_float32_only() -> None:
    def rounded(x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))

    assert len(applied(program_of(rounded, "training"), "fuse-gelu").step.matches) == 1
    step = applied(program_of(rounded, "training", torch.float64), "fuse-gelu").step
    assert step.matches == ()
    assert "torch.float64" in step.misses[0].reason


def test_a_saved_value_that_somebody_else_reads_stays() -> None:
    def leaking(x: Tensor) -> Tensor:
        tanh = torch.tanh(SLOPE * (x + 0.044715 * x**3))
        return 0.5 * x * (1 + tanh.relu() * 0 + tanh)

    assert applied(program_of(leaking, "training"), "fuse-gelu").step.matches == ()


# The GELUs of BERT and Gemma and the SiLU of Llama are whole kernels as captured, T5 has ReLU; GPT-2 writes its GELU out.
GELUS = {"gpt2": 2, "llama": 0, "gemma": 0, "t5": 0, "bert": 0}


@pytest.mark.parametrize("name", sorted(SMALL))
def test_every_gelu_of_known_models_is_found(name: str) -> None:
    program = capture(config_source(json.dumps(SMALL[name]), "config.json", {"seq": "6"}, "training"), "training", "cpu").program
    result = applied(program, "fuse-gelu")
    assert len(result.step.matches) == GELUS[name], result.step.misses
    assert result.step.verdict.kind in ("bitwise", "rounding")
    assert not applied(program, "fuse-silu").step.matches


def test_a_gelu_of_whole_numbers_is_refused() -> None:
    def spelled(x: Tensor) -> Tensor:
        return x + GELU["gpt2"](torch.arange(12)) + GELU["exact"](torch.arange(12))

    step = applied(program_of(spelled, "training"), "fuse-gelu").step
    assert not step.matches
    assert all("whole numbers" in miss.reason for miss in step.misses)


@pytest.mark.parametrize(("name", "spelling"), [("fuse-gelu", "gpt2"), ("fuse-gelu", "exact"), ("fuse-silu", "swish")])
def test_an_activation_of_what_is_detached_has_no_backward_to_look_for(name: str, spelling: str) -> None:
    def spelled(x: Tensor) -> Tensor:
        return x.sin() + (GELU | SILU)[spelling](x.detach())

    step = applied(program_of(spelled, "training"), name).step
    assert len(step.matches) == 1
    assert step.verdict.kind in ("bitwise", "rounding")
