"""Operators that stay one node with a rule of their own, so that they can be seen, matched and exchanged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphs.ladder import climb, graph_only
from graphs.sources.base import ModelSource
from optimizers.verify import Judge

LEADING = (5, 3)


class Norm(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32, affine: bool = True, eps: float | None = 1e-5) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(8, eps=eps, elementwise_affine=affine, dtype=dtype)
        self.scale = nn.Parameter(torch.linspace(-1, 2, 8, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x * self.scale)


def source(dtype: torch.dtype, affine: bool, eps: float | None) -> ModelSource:
    return ModelSource("norm", lambda: Norm(dtype, affine, eps), lambda: (torch.randn(*LEADING, 8, dtype=dtype),), None, (__file__,))


CASES = [(torch.float32, True, 1e-5), (torch.float32, False, None), (torch.float64, True, None), (torch.bfloat16, True, 1e-5)]


@pytest.mark.parametrize(("dtype", "affine", "eps"), CASES)
def test_rms_norm_is_one_node_each_way_with_torch_s_answers(dtype: torch.dtype, affine: bool, eps: float | None) -> None:
    found = climb(source(dtype, affine, eps), "training", "cpu")
    assert found.report.rung == 1
    assert found.report.with_module == found.report.with_source == 1.0
    norms = [node for node in found.graph.nodes if "rms_norm" in node.target]
    assert [(node.target, node.phase, node.module) for node in norms] == [
        ("fxscope.rms_norm.default", "forward", "norm"),
        ("fxscope.rms_norm_backward.default", "backward", "norm"),
    ]
    assert [node.cost.flops for node in norms] == [5 * 120, 10 * 120]
    narrow = dtype is torch.bfloat16
    assert [node.cost.launches for node in norms] == [5 + affine + 2 * narrow, 9 + 3 * narrow + affine * (3 + narrow)]
    assert not any("rsqrt" in node.target for node in found.graph.nodes)
    program = graph_only(found, "run")
    inputs = program.materialize(seed=3)
    given = {(spec.role, spec.target): value for spec, value in zip(program.inputs, inputs, strict=True)}
    made = dict(zip(((spec.role, spec.target) for spec in program.outputs), program.run(inputs), strict=True))
    model = Norm(dtype, affine, eps)
    model.load_state_dict({name: value for (role, name), value in given.items() if role == "parameter"})
    output = model(given["input", "0"])
    assert torch.equal(made["output", "1"], output.detach())
    (output.square().mean() * given["seed", "loss"]).backward()
    loose = {"rtol": 2e-2, "atol": 2e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-6}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(made["gradient", name], parameter.grad, **loose)


def test_gradients_of_rms_norm_are_those_of_differences() -> None:
    from graphs.rms_norm import rms_norm

    x, weight = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: rms_norm(a, [2, 3], b, 1e-3), (x, weight))
    assert torch.autograd.gradcheck(lambda a: rms_norm(a, [3], None, 1e-3), (x,))


def test_a_graph_with_rms_norm_is_judged_like_any_other() -> None:
    program = graph_only(climb(source(torch.float32, True, 1e-5), "training", "cpu"), "verified")
    judge = Judge(program)
    assert judge.verdict(program, program.clone(), "rounding").kind == "bitwise"
    # against the run in float64, as a step is that changes bits
    outputs = judge._outputs(program)
    assert judge._against_reference(outputs, outputs, "rounding").kind == "rounding"


def test_inference_keeps_the_norm_too() -> None:
    found = climb(source(torch.float32, True, 1e-5), "inference", "cpu")
    assert [node.target for node in found.graph.nodes if node.cost.launches] == ["aten.mul.Tensor", "fxscope.rms_norm.default"]


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 16, 8, dtype=torch.bfloat16))

    def forward(self, x: Tensor, ends: Tensor) -> Tensor:
        return torch._grouped_mm(x, self.experts, offs=ends)  # pyright: ignore[reportPrivateImportUsage]


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_a_grouped_matmul_is_one_node_priced_by_its_rows(mode: str) -> None:
    def inputs() -> tuple[Tensor, Tensor]:
        return torch.randn(24, 16, dtype=torch.bfloat16), torch.tensor([8, 16, 24], dtype=torch.int32)

    found = climb(ModelSource("grouped", Grouped, inputs, None, (__file__,)), mode, "cpu")
    products = [node for node in found.graph.nodes if node.target == "aten._grouped_mm.default"]
    assert products
    assert all(node.cost.known and node.cost.matmul_flops == 2 * 24 * 16 * 8 for node in products)
    assert {node.phase for node in products} == ({"forward"} if mode == "inference" else {"forward", "backward"})
    assert found.graph.totals.unknown == 0
