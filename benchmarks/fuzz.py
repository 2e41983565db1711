"""Random models against every optimization of the catalog: the long run of what the tests do for a few seeds.

python -m benchmarks.fuzz --models 500 --seed 0      seeds 0 to 499; ends with an error when a promise was broken
python -m benchmarks.fuzz --models 1 --seed 17 --show      one model, with its program
python -m benchmarks.fuzz --models 1 --seed 17 --shorten   and the shortest program that still shows its first violation
python -m benchmarks.fuzz --only NAME …              some optimizations
python -m benchmarks.fuzz --compile                  run fused kernels as compiled code, which takes minutes for each model
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext

import torch

from optimizers.base import Optimization
from optimizers.catalog import catalog, named
from tests.fuzzer.kernels import interpreted_kernels
from tests.fuzzer.minimize import minimized
from tests.fuzzer.models import RandomModel, random_model
from tests.fuzzer.trial import Outcome, Violation, tried


def main() -> None:
    options = _options()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    chosen = [named(name) for name in options.only] or [one for one in catalog().values() if not one.costly]
    start, matched, captured, refused, broken = time.perf_counter(), Counter[str](), 0, Counter[str](), Counter[str]()
    for seed in range(options.seed, options.seed + options.models):
        model = random_model(seed, options.length)
        if options.show:
            print(model.text)
        with nullcontext() if options.compile else interpreted_kernels():
            outcome = tried(model.source(), seed, chosen, rounds=options.rounds, special=model.special)
        matched.update(outcome.matched)
        captured += outcome.captured
        if outcome.not_captured:
            refused[outcome.not_captured[:100]] += 1
        _tell(model, outcome, broken, chosen, options.shorten)
        if (seed + 1 - options.seed) % 50 == 0:
            print(f"… {seed + 1 - options.seed} models, {broken.total()} violations, {time.perf_counter() - start:.0f} s", flush=True)
    _report(options.models, captured, refused, matched, broken, time.perf_counter() - start)
    sys.exit(1 if broken else 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--length", type=int, default=12, help="groups of lines in a model, about")
    parser.add_argument("--rounds", type=int, default=2, help="how often the whole catalog is applied in a row")
    parser.add_argument("--only", nargs="*", default=[], help="names of optimizations")
    parser.add_argument("--show", action="store_true", help="print the programs")
    parser.add_argument("--shorten", action="store_true", help="print the shortest program that shows the first violation of each model")
    parser.add_argument("--compile", action="store_true", help="compile fused kernels")
    return parser.parse_args()


def _tell(model: RandomModel, outcome: Outcome, broken: Counter[str], chosen: Sequence[Optimization], shorten: bool) -> None:
    for violation in outcome.violations:
        broken[violation.optimization] += 1
        print(f"VIOLATION seed {model.seed} {violation}", flush=True)
    if outcome.violations and shorten:
        print(shortest(model, outcome.violations[0], chosen).text, flush=True)


def shortest(model: RandomModel, violation: Violation, chosen: Sequence[Optimization]) -> RandomModel:
    """The shortest program in which the same optimization breaks a promise of the same kind."""

    def fails(candidate: RandomModel) -> bool:
        with interpreted_kernels():
            found = tried(candidate.source(), model.seed, chosen, (violation.mode,), special=candidate.special).violations
        return any(each.optimization == violation.optimization and each.promise[:8] == violation.promise[:8] for each in found)

    return minimized(model, fails)


def _report(models: int, captured: int, refused: Counter[str], matched: Counter[str], broken: Counter[str], seconds: float) -> None:
    print(f"{models} models, {captured} of {2 * models} graphs captured, {seconds:.0f} s")
    for reason, count in refused.most_common(10):
        print(f"  not captured {count:5}: {reason}")
    for name, count in matched.most_common():
        print(f"  applied {count:5}: {name}")
    print(f"{broken.total()} violations {dict(broken)}")


if __name__ == "__main__":
    main()
