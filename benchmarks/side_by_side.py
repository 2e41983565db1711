"""Images side by side: a convolution of many small images before and after `convolve-side-by-side`.

    python -m benchmarks.side_by_side [--threads 1] [--seconds 4] [--only bfloat16]

For each batch, number of channels, width and dtype: the time of the convolution as captured, and as a share of it (median of rounds in random
order, and the interval of that median) the time of the rewritten graph; of its wide convolution alone, without copies and correction, which is
the best that could be hoped for; and of a seam of zeros, the same wide convolution with the padding between the images, which needs no correction.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.pipeline import apply
from profiler.measure import measure

STEP = "convolve-side-by-side"
SHAPES = (  # images, channels, height and width
    (16, 64, 7), (64, 64, 7), (16, 256, 7), (64, 256, 7), (16, 512, 7), (16, 64, 14), (64, 64, 14), (16, 256, 14), (16, 512, 14),
    (32, 64, 20), (16, 256, 20), (32, 64, 24), (16, 256, 24), (32, 64, 28), (32, 64, 32),
)  # fmt: skip


class SeamOfZeros(nn.Module):
    """Pairs of images with the convolution's own padding between them."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2)
        wide = self.layer(torch.cat([left, x.new_zeros(*left.shape[:-1], 1), right], -1))
        return torch.cat([wide[..., : x.shape[-1]], wide[..., x.shape[-1] + 1 :]])


def layer_of(channels: int, dtype: torch.dtype) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, dtype=dtype)


def program_of(layer: nn.Module, *shape: int, dtype: torch.dtype) -> Program:
    source = ModelSource("images", lambda: layer, lambda: (torch.randn(shape).to(dtype),), None, ())
    return capture(source, "inference", "cpu").program


def compare(images: int, channels: int, side: int, dtype: torch.dtype, seconds: float) -> None:
    """One line; of images that the step leaves alone, without it."""
    layer = layer_of(channels, dtype)
    narrow = program_of(layer, images, channels, side, side, dtype=dtype)
    step = apply(narrow, snapshot(narrow), STEP, {})
    programs = {"as captured": narrow, **({"side by side": step.program} if step.step.matches else {})}
    programs["wide alone"] = program_of(layer, images // 2, channels, side, 2 * side, dtype=dtype)
    programs["zeros between"] = program_of(SeamOfZeros(layer), images, channels, side, side, dtype=dtype)
    measured = measure(list(programs.values()), list(programs), budget_s=seconds)
    shares = (
        f"{label} {ratio:5.2f} ({low:.2f}-{high:.2f})"
        for label, ratio, (low, high) in list(zip(programs, measured.ratios, measured.ratio_intervals, strict=True))[1:]
    )
    work = step.step.after.matmul_flops / step.step.before.matmul_flops
    print(
        f"{images:3} × {channels:3} × {side:2}² {str(dtype).removeprefix('torch.'):9}{measured.timings[0].median_ms:9.3f} ms"
        f"  {step.step.before.launches} -> {step.step.after.launches} launches, {work:.2f} of the work  {'  '.join(shares)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for dtype in (torch.float32, torch.bfloat16):
        for images, channels, side in SHAPES if given.only in str(dtype) else ():
            compare(images, channels, side, dtype, given.seconds)


if __name__ == "__main__":
    main()
