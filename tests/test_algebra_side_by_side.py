"""Images side by side: wrong at the seam and nowhere else before the correction, right everywhere behind it."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor, fx, nn

from graphs.capture import capture
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.snapshot import snapshot
from optimizers.base import Example
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge

aten = torch.ops.aten
STEP = "convolve-side-by-side"
KERNELS = ((3, 3), (5, 5), (1, 3), (5, 3), (3, 5), (2, 2), (3, 4))
LAYERS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def program_of(model: nn.Module, *inputs: Tensor, mode: str = "inference") -> Program:
    return capture(Example(lambda: model, lambda: inputs).source(), mode, "cpu").program


def applied(program: Program) -> Applied:
    """The step, held to its claim and its exactness."""
    done = apply(program, snapshot(program), STEP, {}, Judge(program))
    assert done.step.verdict.kind in ("bitwise", "rounding"), done.step.verdict
    assert done.step.claim_broken == ()
    return done


def whole_numbers(program: Program, seed: int) -> list[Tensor]:
    """Small whole numbers for every input: sums of their products are exact in float64, in whatever order."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-9, 10, value.shape, generator=generator).to(value.dtype) for value in program.materialize()]


class Values(fx.Interpreter):
    """A run that keeps the value of every convolution, in order."""

    def __init__(self, gm: fx.GraphModule) -> None:
        super().__init__(gm)
        self.convolutions: list[Tensor] = []

    def run_node(self, n: fx.Node) -> object:
        value = super().run_node(n)
        if n.target is aten.convolution.default:
            self.convolutions.append(value)
        return value


def drawn(seed: int) -> tuple[nn.Module, Tensor]:
    """A convolution of any form that the step takes, and a batch for it."""
    draw = random.Random(seed)
    rank = draw.choice((1, 2, 2, 2, 2, 3))
    kernel = ((1,) * rank + draw.choice(KERNELS))[-rank:]
    dilation = [draw.choice((1, 1, 2)) if kernel[at] < 5 else 1 for at in range(rank)]
    reach = dilation[-1] * (kernel[-1] - 1)
    padding = [draw.choice((0, 1, 2)) for _ in range(rank - 1)] + [draw.choice((reach // 2, reach // 2, draw.randint(0, reach // 2)))]
    groups = draw.choice((1, 1, 2, 4))
    strides = [draw.choice((1, 2)) for _ in range(rank - 1)] + [1]
    layer = LAYERS[rank](
        4, 8, kernel, strides, padding, dilation, groups, bias=draw.random() < 0.5  # type: ignore[arg-type]
    )  # fmt: skip
    width = draw.randint(2 * reach + 1, 16)
    return layer, torch.randn(2 * draw.randint(1, 4), 4, *[draw.randint(9, 12)] * (rank - 1), width)


@pytest.mark.parametrize("seed", range(24))
def test_convolutions_of_any_form_come_out_exactly(seed: int) -> None:
    """On whole numbers float64 rounds nothing: an error of zero shows that every column is the right one."""
    layer, images = drawn(seed)
    program = program_of(layer.double(), images.double())
    done = applied(program)
    assert len(done.step.matches) == 1
    given = whole_numbers(program, seed)
    (before,), (after,) = program.run(given), done.program.run(given)
    assert before is not None
    assert after is not None
    assert torch.equal(before, after)
    assert before.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("width", [5, 8, 16])
def test_every_dtype_keeps_its_answers(dtype: torch.dtype, width: int) -> None:
    done = applied(program_of(nn.Conv2d(4, 6, 3, padding=1, dtype=dtype), torch.randn(6, 4, 7, width).to(dtype)))
    assert len(done.step.matches) == 1
    assert done.step.after.launches == 7


@pytest.mark.parametrize(("kernel", "dilation", "padding"), [(3, 1, 1), (5, 1, 2), (3, 2, 2), (5, 1, 1), (4, 1, 1), (3, 1, 0)])
def test_without_the_correction_the_columns_at_the_seam_are_wrong_and_no_others(kernel: int, dilation: int, padding: int) -> None:
    """PET's partial equivalence: the wide convolution of the rewritten graph, cut in two, beside the true result."""
    layer = nn.Conv2d(2, 3, (3, kernel), padding=(1, padding), dilation=(1, dilation)).double()
    width = 12
    program = program_of(layer, torch.randn(4, 2, 6, width).double())
    given = whole_numbers(program, 0)
    (truth,) = program.run(given)
    assert truth is not None
    values = Values(applied(program).program.gm)
    values.run(*given)
    wide, *corrections = values.convolutions
    columns = truth.shape[-1]
    uncorrected = torch.cat([wide[..., :columns], wide[..., width : width + columns]])
    differs = (uncorrected != truth).any(2).any(1)  # by image and column
    left, right = differs.chunk(2)
    assert left.any(0).nonzero().flatten().tolist() == list(range(columns - padding, columns))
    assert right.any(0).nonzero().flatten().tolist() == list(range(padding))
    assert len(corrections) == (1 if padding else 0)


def test_infinities_of_one_image_do_not_reach_its_neighbour() -> None:
    images = torch.randn(4, 2, 5, 8).double()
    images[0, :, :, -1], images[3, :, :, 0] = float("inf"), float("nan")
    program = program_of(nn.Conv2d(2, 3, 3, padding=1).double(), images)
    given = [images if value.shape == images.shape else value for value in program.materialize()]
    (before,), (after,) = program.run(given), applied(program).program.run(given)
    assert before is not None
    assert after is not None
    assert torch.equal(before.isfinite(), after.isfinite())
    assert before[1:3].isfinite().all()


def test_in_training_the_backward_is_left_as_it_is() -> None:
    program = program_of(
        nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 2, 3)), torch.randn(6, 3, 7, 9), mode="training"
    )
    done = applied(program)
    assert len(done.step.matches) == 2
    backward = [[node for node in each.nodes if "convolution_backward" in node.target] for each in (snapshot(program), done.snapshot)]
    assert len(backward[0]) == len(backward[1]) == 2


def test_a_convolution_of_a_convolution_reads_what_took_its_place() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1), nn.Conv2d(3, 2, 3))
    done = applied(program_of(model.double(), torch.randn(4, 2, 6, 8).double()))
    assert len(done.step.matches) == 3


def test_again_and_four_images_lie_side_by_side() -> None:
    program = program_of(nn.Conv2d(2, 3, 3, padding=1).double(), torch.randn(8, 2, 5, 7).double())
    twice = applied(applied(program).program)
    assert [(match.note, len(twice.step.matches)) for match in twice.step.matches] == [
        ("4 images 14 wide as 2 of 28, 1 columns on either side of the seam mended", 1)
    ]  # not the strip: it is as narrow as what it mends
    given = whole_numbers(program, 1)
    (before,), (after,) = program.run(given), twice.program.run(given)
    assert before is not None
    assert after is not None
    assert torch.equal(before, after)


def test_channels_last_stays_channels_last() -> None:
    images = torch.randn(4, 8, 7, 7).to(memory_format=torch.channels_last)
    done = applied(program_of(nn.Conv2d(8, 8, 3, padding=1).to(memory_format=torch.channels_last), images))
    (output,) = done.snapshot.outputs
    assert done.snapshot.by_name()[output].strides == (392, 1, 56, 8)
    assert not [node for node in done.snapshot.nodes if "clone" in node.target]


def test_a_batch_whose_size_is_a_symbol_is_left_alone() -> None:
    source = Example(lambda: nn.Conv2d(2, 3, 3, padding=1), lambda: (torch.randn(4, 2, 7, 7),)).source()
    program = capture(source, "inference", "cpu", CaptureOptions(dynamic="batch")).program
    step = apply(program, snapshot(program), STEP, {}).step
    assert step.matches == ()
    assert ["is a symbol" in miss.reason for miss in step.misses] == [True]
