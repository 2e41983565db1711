"""Norms, factors and additions that become a part of a convolution: exact in float64, in every layout and form of convolution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.snapshot import snapshot
from optimizers.base import Example
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge


def applied(model: nn.Module, *inputs: Tensor, name: str) -> tuple[Applied, float]:
    """The step, held to its claim, and the largest difference that it makes on the model's own inputs."""
    program = capture(Example(lambda: model, lambda: inputs).source(), "inference", "cpu").program
    done = apply(program, snapshot(program), name, {}, Judge(program))
    assert done.step.verdict.kind in ("bitwise", "rounding"), done.step.verdict
    assert done.step.claim_broken == ()
    given = program.materialize()
    before, after = (each.run(given)[0] for each in (program, done.program))
    assert before is not None
    assert after is not None
    return done, float((before - after).abs().max())


def with_statistics(norm: nn.Module) -> nn.Module:
    """A batch norm as training leaves it."""
    for _, value in [*norm.named_parameters(), *norm.named_buffers()]:
        if value.is_floating_point():
            value.data.uniform_(0.5, 2.0)
    return norm


FORMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(4, 6, 3), lambda: nn.BatchNorm1d(6), (2, 4, 9)),
    "2d": (lambda: nn.Conv2d(4, 6, 3, padding=1, bias=False), lambda: nn.BatchNorm2d(6), (2, 4, 8, 8)),
    "3d": (lambda: nn.Conv3d(2, 6, 2, stride=2), lambda: nn.BatchNorm3d(6, affine=False), (1, 2, 4, 4, 4)),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=4), lambda: nn.BatchNorm2d(8), (2, 4, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), lambda: nn.BatchNorm2d(6), (2, 4, 5, 5)),
    "transposed in groups": (lambda: nn.ConvTranspose1d(4, 6, 3, groups=2), lambda: nn.BatchNorm1d(6), (2, 4, 5)),
    "linear": (lambda: nn.Linear(4, 6, bias=False), lambda: nn.BatchNorm1d(6), (5, 4)),
    "one image": (lambda: nn.Conv2d(4, 6, 1), lambda: nn.BatchNorm2d(6), (1, 4, 1, 1)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_norm_behind_a_layer_folds_to_the_last_bits_of_float64(form: str) -> None:
    """W₂(c) = W(c)·R(c), B₂ = B·R + P: two operators become one, with an error of about 1e-15."""
    layer, norm, shape = FORMS[form]
    model = nn.Sequential(layer(), with_statistics(norm())).double()
    done, error = applied(model, torch.randn(shape, dtype=torch.float64), name="fold-batch-norm")
    assert [len(match.nodes) for match in done.step.matches] == [3]
    assert done.step.before.launches - done.step.after.launches == 1
    assert error < 2e-14


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_norm_in_front_and_one_behind_fold_into_the_same_layer(dtype: torch.dtype) -> None:
    norms = [with_statistics(nn.BatchNorm2d(4)) for _ in range(2)]
    model = nn.Sequential(norms[0], nn.Conv2d(4, 4, 3, groups=2), norms[1]).to(dtype)
    done, _ = applied(model, torch.randn(2, 4, 8, 8, dtype=dtype), name="fold-batch-norm")
    assert len(done.step.matches) == 2
    assert done.step.after.launches == 1


def test_images_with_channels_last_keep_their_layout() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, padding=1), with_statistics(nn.BatchNorm2d(6))).to(memory_format=torch.channels_last)
    image = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    done, _ = applied(model, image, name="fold-batch-norm")
    assert done.step.after.launches == 1
    (output,) = done.snapshot.outputs
    assert done.snapshot.by_name()[output].strides == (384, 1, 48, 6)


class Branches(nn.Module):
    """Two convolutions of one image whose parts are flattened: a slice of channels can be, without a copy, if the image is contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x).flatten(1).sum(1) + self.two(x).flatten(2).sum((1, 2))


@pytest.mark.parametrize("batch", [1, 3])
def test_parts_of_merged_convolutions_are_flattened_without_a_copy(batch: int) -> None:
    done, _ = applied(Branches(), torch.randn(batch, 4, 8, 8), name="merge-parallel-convolutions")
    assert len(done.step.matches) == 1
    assert not [node for node in done.snapshot.nodes if "clone" in node.target]


class Frozen(nn.Module):
    """A norm made of arithmetic, as detection models write it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(4, 6, 3, bias=False)
        self.factor, self.shift = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        factor = self.factor * torch.rsqrt(self.shift.abs() + 1e-5)
        return torch.relu(self.layer(x) * factor.reshape(1, -1, 1, 1) + self.shift.reshape(1, -1, 1, 1))


def test_a_frozen_norm_of_arithmetic_folds_with_the_arithmetic_on_its_weights() -> None:
    done, error = applied(Frozen().double(), torch.randn(2, 4, 8, 8).double(), name="fold-scale-into-convolution")
    assert [node.target.split(".")[1] for node in done.snapshot.nodes if node.cost.launches] == ["convolution", "relu"]
    assert error < 2e-14
