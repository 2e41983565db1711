"""Can a measurement be believed? The same graph against itself must come out as no difference, a graph that does everything twice as slower.

    python -m benchmarks.noise [--pairs 100] [--slower 20] [--seconds 1.5] [--pinned] [--device cuda]

Every pair is a measurement of its own, with its own clone of the graph, in the same process. The models take from a tenth of a millisecond to some
milliseconds, so that single runs are at the mercy of the machine. Printed: how often which verdict came out, how narrow the intervals were, how far the
ratio of equal graphs is from 1, and what other processes took meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.program import Program
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from profiler.blocks import Limits
from profiler.measure import Setup, measure
from profiler.record import Measurement

MODELS = (
    ("mlp", {}),
    ("attention", {"batch": "2", "seq": "64"}),
    ("chain", {}),
    ("lstm", {}),
)  # fmt: skip


class Times(nn.Module):
    """A stack of layers, run once or twice over: the second does the same work again."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(256, 256), nn.ReLU()) for _ in range(4)))
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.layers(x * number) for number in range(self.times)])


def twice(times: int, device: str) -> Program:
    source = ModelSource("stack", lambda: Times(times), lambda: (torch.randn(64, 256),), None, ())
    return capture(source, "inference", device).program


def equal_pairs(count: int, setup: Setup, device: str) -> list[Measurement]:
    programs = [capture(zoo_source(name, options), mode, device).program for name, options in MODELS for mode in ("inference", "training")]
    found = []
    for number in range(count):
        program = programs[number % len(programs)]
        found.append(measure([program, program.clone()], ["it", "its copy"], seed=number, setup=setup))
    return found


def told(title: str, found: Sequence[Measurement]) -> None:
    verdicts = Counter(one.verdict for one in found)
    halves = [(one.ratio_intervals[1][1] - one.ratio_intervals[1][0]) / 2 for one in found]
    others = [one.conditions.others or 0.0 for one in found]
    off = sorted(abs(one.ratios[1] - 1) for one in found)
    print(f"{title}: {dict(verdicts)}")
    print(f"  half of the 95 % interval: median {statistics.median(halves):.2%}, largest {max(halves):.2%}")
    print(f"  smallest detectable difference: median {statistics.median(one.detectable[1] or 9.9 for one in found):.2%}")
    print(f"  ratio off by: median {statistics.median(off):.2%}, 95th of 100 {off[int(0.95 * (len(off) - 1))]:.2%}, most {off[-1]:.2%}")
    print(
        f"  ended: {dict(Counter(one.stopped for one in found))}; others took {statistics.median(others):.0%} of the machine (most {max(others):.0%})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--slower", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=1.5)
    parser.add_argument("--pinned", action="store_true")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    setup = Setup(pinned=given.pinned, limits=Limits(given.seconds))
    told(f"{given.pairs} graphs against themselves", equal_pairs(given.pairs, setup, given.device))
    one, two = twice(1, given.device), twice(2, given.device)
    slower = [measure([one, two], ["once", "twice"], seed=number, setup=setup) for number in range(given.slower)]
    told(f"{given.slower} graphs against twice the work", slower)


if __name__ == "__main__":
    main()
