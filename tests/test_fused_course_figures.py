"""Fusion against worked figures of an ML-systems course: arithmetic intensity of elementwise chains, a matmul with what follows it,
and relu(a @ b + c).

The course counts operations per number moved, not per byte; both are checked. Its own fused tests normalize over the wrong width and feed
gradients for which every gradient is zero; the figures here are the corrected ones.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.fusion_pipeline import Optimized, improved
from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from optimizers.base import Example, Function
from optimizers.pipeline import apply
from optimizers.verify import Judge

KIB, MIB = 1 << 10, 1 << 20
n = 4096
A = torch.tensor([[1.0, 2, 3], [3, 4, 5], [5, 6, 7]])
B = torch.tensor([[7.0, 8, 9, 10], [10, 11, 12, 13], [13, 14, 15, 16]])
UPSTREAM = torch.tensor([[0.5, -0.3, 0.8, 0.1], [-0.2, 0.4, -0.1, 0.3], [1, 0, -1, 0.5]])
PERFORMANCE = [
    ((128, 64), (64, 128), 64 * KIB),
    ((512, 256), (256, 512), MIB),
    ((1024, 512), (512, 1024), 4 * MIB),
    ((32, 128, 64), (32, 64, 128), 2 * MIB),
    ((64, 256, 128), (64, 128, 256), 16 * MIB),
    ((128, 512, 256), (128, 256, 512), 128 * MIB),
]


def program_of(model: nn.Module, *inputs: Tensor, mode: str = "inference") -> Program:
    return capture(Example(lambda: model, lambda: inputs).source(), mode, "cpu").program


def pipeline(function: object, *inputs: Tensor) -> Optimized:
    return improved(program_of(function if isinstance(function, nn.Module) else Function(function), *inputs))  # type: ignore[arg-type]


def test_an_addition_is_one_operation_for_three_numbers_moved() -> None:
    found = pipeline(lambda a, b: a + b, torch.randn(n), torch.randn(n)).after
    assert (found.flops, found.bytes_moved // 4) == (n, 3 * n)
    assert found.flops / found.bytes_moved == 1 / 12


def test_three_elementwise_operators_move_nine_numbers_apart_and_five_as_one() -> None:
    """E = D + (A + B)·C: 3n operations; 9n numbers, 36n bytes, become 5n and 20n."""
    found = pipeline(lambda a, b, c, d: d + (a + b) * c, *(torch.randn(n) for _ in range(4)))
    assert (found.before.launches, found.after.launches) == (3, 1)
    assert found.before.flops == found.after.flops == 3 * n
    assert (found.before.bytes_moved, found.after.bytes_moved) == (36 * n, 20 * n)
    assert found.before.flops / (found.before.bytes_moved / 4) == pytest.approx(1 / 3)
    assert found.after.flops / (found.after.bytes_moved / 4) == pytest.approx(3 / 5)
    assert found.before.bytes_moved / found.after.bytes_moved == pytest.approx(1.8)


class Normed(nn.Module):
    """Matmul, then layer norm over the whole width of 4."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.layer_norm(a @ b, [b.shape[-1]])


class Weighted(nn.Module):
    """Matmul, then softmax."""

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return (a @ b).softmax(-1)


def run_fused(model: nn.Module, *inputs: Tensor) -> list[Tensor | None]:
    """Results of the program after every step of the pipeline."""
    return improved(program_of(model, *inputs)).program.run(list(inputs))


def test_the_matmul_of_the_assignment() -> None:
    expected = torch.tensor([[66.0, 72, 78, 84], [126, 138, 150, 162], [186, 204, 222, 240]])
    assert torch.equal(A @ B, expected)


def test_layer_norm_of_the_matmul_has_the_corrected_values() -> None:
    (result,) = run_fused(Normed(), A, B)
    assert result is not None
    torch.testing.assert_close(result, torch.tensor([[-1.341641, -0.447214, 0.447214, 1.341641]] * 3), atol=1e-4, rtol=1e-4)


def test_softmax_of_the_matmul_has_the_corrected_values() -> None:
    (result,) = run_fused(Weighted(), A, B)
    assert result is not None
    torch.testing.assert_close(result[:, -1], torch.tensor([0.9975212, 0.9999938, 1.0000000]), atol=1e-4, rtol=1e-4)


class Gradients(nn.Module):
    """A model of two operands that are weights; the loss is the sum of its result times what comes from upstream."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.a, self.b = model, nn.Parameter(A.clone()), nn.Parameter(B.clone())

    def forward(self, upstream: Tensor) -> Tensor:
        return (self.model(self.a, self.b) * upstream).sum()


def fused_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients of both operands from the joint graph after the pipeline."""
    example = Example(lambda: Gradients(model), lambda: (UPSTREAM.clone(),))
    source = example.source()
    program = capture(type(source)("gradients", source.build, source.inputs, lambda loss: loss, ()), "training", "cpu").program
    found = improved(program).program
    values = {("parameter", "a"): A, ("parameter", "b"): B}
    given = [values.get((spec.role, spec.target), torch.ones(()) if spec.role == "seed" else UPSTREAM) for spec in found.inputs]
    results = found.run(given)
    return {spec.target: value for spec, value in zip(found.outputs, results, strict=True) if spec.role == "gradient" and value is not None}


def test_gradients_through_layer_norm_are_the_corrected_ones_and_not_zero() -> None:
    found = fused_gradients(Normed())
    expected = [
        [0.121990, -0.070312, -0.225346, 0.173668],
        [0.166960, -0.143108, -0.214663, 0.190811],
        [0.211930, -0.215905, -0.203979, 0.207954],
    ]
    torch.testing.assert_close(found["b"], torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert float(found["a"].abs().max()) < 1e-4  # rows of B are affine in the column: the exact gradient is zero


def test_gradients_through_softmax_are_the_corrected_ones_and_not_zero() -> None:
    found = fused_gradients(Weighted())
    torch.testing.assert_close(found["a"][0], torch.tensor([-1.72163e-3, -1.72162e-3, -1.72161e-3]), atol=1e-6, rtol=1e-3)
    torch.testing.assert_close(found["b"][:, 3], torch.tensor([-1.716524e-3, -3.438115e-3, -5.159705e-3]), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("model", [Normed(), Weighted()], ids=["layer norm", "softmax"])
@pytest.mark.parametrize(("left", "right", "intermediate"), PERFORMANCE)
def test_the_intermediate_that_one_node_would_not_move(
    model: nn.Module, left: tuple[int, ...], right: tuple[int, ...], intermediate: int
) -> None:
    """One node saves a write and a read of the product, twice its size. A loop cannot take a library's matmul, so the fused node is only as good
    as its count: two launches, and the product still crosses memory."""
    program = program_of(model, torch.randn(left), torch.randn(right))
    before = snapshot(program)
    product = next(node for node in before.nodes if node.cost.matmul_flops)
    assert product.cost.bytes_written == intermediate
    follower = next(node for node in before.nodes if node.cost.launches and not node.cost.matmul_flops)
    assert 2 * intermediate == product.cost.bytes_written + intermediate <= product.cost.bytes_written + follower.cost.bytes_read
    after = apply(program, before, "fuse-loops", {})
    assert after.step.matches == ()
    assert any("library" in miss.reason for miss in after.step.misses)
    assert after.snapshot.totals.bytes_moved == before.totals.bytes_moved


class ReluOfSum(nn.Module):
    """The second assignment's kernel, D = relu(A·B + C)."""

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return torch.relu(a @ b + c)


def test_relu_of_a_product_and_a_sum_moves_64_mib_as_three_kernels() -> None:
    """2048³ in half precision: 8 MiB for each matrix, 17.18 GFLOP; 3 + 3 + 2 matrices."""
    program = program_of(ReluOfSum(), *(torch.randn(2048, 2048, dtype=torch.float16) for _ in range(3)))
    totals = snapshot(program).totals
    assert (totals.launches, totals.bytes_moved) == (3, 64 * MIB)
    assert totals.matmul_flops == 2 * 2048**3 == 17_179_869_184
    assert totals.matmul_flops / totals.bytes_moved == pytest.approx(256, abs=0.1)


def test_add_and_relu_become_one_kernel_beside_the_matmul() -> None:
    """Fused loops alone: 3 + 3 matrices, 48 MiB."""
    program = program_of(ReluOfSum(), *(torch.randn(2048, 2048, dtype=torch.float16) for _ in range(3)))
    totals = apply(program, snapshot(program), "fuse-loops", {}).snapshot.totals
    assert (totals.launches, totals.bytes_moved) == (2, 48 * MIB)


def test_the_matmul_takes_the_sum_in_float32_and_the_relu_stays_alone() -> None:
    """addmm reads three matrices and writes one, relu reads and writes one: six of 16 MiB instead of eight."""
    found = improved(program_of(ReluOfSum(), *(torch.randn(2048, 2048) for _ in range(3))))
    assert (found.before.bytes_moved, found.after.bytes_moved) == (128 * MIB, 96 * MIB)
    assert (found.before.launches, found.after.launches) == (3, 2)


@pytest.mark.parametrize(("dtype", "expected"), [(torch.float16, 32 * MIB), (torch.float32, 64 * MIB)], ids=str)
def test_relu_of_a_product_and_a_sum_moves_32_mib_as_one_kernel(dtype: torch.dtype, expected: int) -> None:
    """No library of a CPU has this kernel; it is generated."""
    program = program_of(ReluOfSum(), *(torch.randn(2048, 2048, dtype=dtype) for _ in range(3)))
    generated = apply(program, snapshot(program), "generate-matmul-kernel", {})
    found = improved(generated.program)
    assert (found.after.launches, found.after.bytes_moved) == (1, expected)
    assert (found.after.matmul_flops, found.after.flops) == (2 * 2048**3, 2 * 2048**3 + 2 * 2048**2)


def test_relu_of_a_product_and_a_sum_keeps_its_answer() -> None:
    """512 × 512, seed 0, against float64."""
    torch.manual_seed(0)
    program = program_of(ReluOfSum(), *(torch.randn(512, 512) for _ in range(3)))
    assert improved(program, judged=True).refuted == []
    assert apply(program, snapshot(program), "generate-matmul-kernel", {}, Judge(program)).step.verdict.kind == "rounding"
