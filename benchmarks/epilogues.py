"""Epilogues: networks with an activation or a sum behind every convolution or matmul, before and after they share a kernel.

    python -m benchmarks.epilogues [--threads 1] [--seconds 20] [--only resnet50]

For each network: launches, the time of the graph as captured, and the time with its batch norms folded, and then with the epilogues fused,
as a share of it (median of rounds in random order, and the interval of that median). MobileNetV2 is here since the zoo has none.

Below that, products with what follows them (`--only template` for these alone): the time of one generated kernel as a share of that of the
library's matmul and a fused loop behind it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from optimizers.base import Function
from optimizers.pipeline import apply
from profiler.measure import measure

STEPS = ("remove-no-ops", "fold-batch-norm", "fuse-convolution-epilogue", "fuse-matmul-epilogue")


class Inverted(nn.Module):
    """Widen, filter each channel by itself, narrow; a sum around it where the shape allows (Sandler et al. 2018, *MobileNetV2*, section 3.3)."""

    def __init__(self, inside: int, outside: int, stride: int, factor: int) -> None:
        super().__init__()
        wide = inside * factor
        widen = [unit(inside, wide, 1)] if factor > 1 else []
        self.body = nn.Sequential(
            *widen, unit(wide, wide, 3, stride, wide), nn.Conv2d(wide, outside, 1, bias=False), nn.BatchNorm2d(outside)
        )
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def unit(inside: int, outside: int, side: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU6."""
    filters = nn.Conv2d(inside, outside, side, stride, side // 2, groups=groups, bias=False)
    return nn.Sequential(filters, nn.BatchNorm2d(outside), nn.ReLU6())


class MobileNetV2(nn.Module):
    """Seventeen inverted residual blocks (table 2 of the paper)."""

    ROWS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [unit(3, 32, 3, 2)]
        inside = 32
        for factor, outside, repeats, stride in self.ROWS:
            for place in range(repeats):
                layers.append(Inverted(inside, outside, 1 if place else stride, factor))
                inside = outside
        self.features = nn.Sequential(*layers, unit(inside, 1280, 1))
        self.head = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


def mobilenet(batch: int, side: int = 224) -> ModelSource:
    return ModelSource("mobilenet-v2", MobileNetV2, lambda: (torch.randn(batch, 3, side, side),), None, (__file__,))


NETWORKS: dict[str, Callable[[], ModelSource]] = {  # those that train say so
    "resnet50, 2 images": lambda: zoo_source("resnet50", {"batch": "2", "image": "224"}),
    "resnet50, 8 images": lambda: zoo_source("resnet50", {"batch": "8", "image": "224"}),
    "mobilenet-v2, 1 image": lambda: mobilenet(1),
    "mobilenet-v2, 8 images": lambda: mobilenet(8),
    "bert, 2 × 128": lambda: zoo_source("bert", {"batch": "2", "seq": "128"}),
    "bert, 2 × 128, training": lambda: zoo_source("bert", {"batch": "2", "seq": "128"}),
    "gpt2, 2 × 128": lambda: zoo_source("gpt2", {"batch": "2", "seq": "128"}),
}


def report(name: str, source: ModelSource, seconds: float) -> None:
    """One line for each stage."""
    program = capture(source, "training" if "training" in name else "inference", "cpu").program
    graph = snapshot(program)
    stages, launches, labels = [program], [graph.totals.launches], ["as captured"]
    for step in STEPS:
        applied = apply(program, graph, step, {})
        if applied.step.matches:
            program, graph = applied.program, applied.snapshot
            stages.append(program)
            launches.append(graph.totals.launches)
            labels.append(step)
    measured = measure(stages, labels, budget_s=seconds)
    for label, count, timing, ratio, interval in zip(
        labels, launches, measured.timings, measured.ratios, measured.ratio_intervals, strict=True
    ):
        low, high = interval
        print(f"{name:24} {label:28} {count:4} launches {timing.median_ms:9.1f} ms  {ratio:5.2f} ({low:.2f}-{high:.2f})", flush=True)


def relu_of_sum(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.relu(a @ b + c)


def widened(x: Tensor, weight: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    return nn.functional.gelu(nn.functional.linear(x, weight, bias)) + other


def scores(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    return query @ key.transpose(1, 2) * 0.125 + mask


PRODUCTS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "relu(a @ b + c), 128": (relu_of_sum, ((128, 128),) * 3),
    "relu(a @ b + c), 512": (relu_of_sum, ((512, 512),) * 3),
    "relu(a @ b + c), 1024": (relu_of_sum, ((1024, 1024),) * 3),
    "gelu(linear) + r, 256 rows": (widened, ((256, 768), (3072, 768), (3072,), (256, 3072))),
    "gelu(linear) + r, 1 row": (widened, ((1, 768), (3072, 768), (3072,), (1, 3072))),
    "scores, 24 × 128 × 64": (scores, ((24, 128, 64), (24, 128, 64), (128, 128))),
}


def compare(name: str, dtype: torch.dtype, seconds: float) -> None:
    """One line: the generated kernel beside the library's matmul and the loop behind it."""
    function, shapes = PRODUCTS[name]
    source = ModelSource(name, lambda: Function(function), lambda: tuple(torch.randn(shape).to(dtype) for shape in shapes), None, ())
    program = capture(source, "inference", "cpu").program
    graph = snapshot(program)
    stages = [apply(program, graph, step, {}) for step in ("fuse-loops", "generate-matmul-kernel")]
    measured = measure([stage.program for stage in stages], ["library and loop", "template"], budget_s=seconds)
    library, template = (timing.median_ms for timing in measured.timings)
    (low, high), launches = measured.ratio_intervals[1], [stage.snapshot.totals.launches for stage in stages]
    print(
        f"{name:28} {str(dtype).removeprefix('torch.'):9} {launches[0]} -> {launches[1]} launches  library and loop {library:8.3f} ms"
        f"  template {template:8.3f} ms  {measured.ratios[1]:5.2f} ({low:.2f}-{high:.2f})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--only", default="")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    for name, source in NETWORKS.items():
        if given.only in name:
            report(name, source(), given.seconds)
    for name in PRODUCTS if given.only in ("", "template") else ():
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            compare(name, dtype, given.seconds / 4)


if __name__ == "__main__":
    main()
