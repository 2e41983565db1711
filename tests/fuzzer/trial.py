"""What must hold when a model is optimized, and every case in which it did not."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphs.capture import capture
from graphs.errors import CaptureError
from graphs.program import Program
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from optimizers.base import Match, Miss, Optimization
from optimizers.catalog import catalog, parse_settings
from optimizers.in_place import make_functional
from optimizers.pipeline import Applied, apply_optimization, matches_and_misses
from optimizers.record import Exactness, StepRecord
from optimizers.verify import Judge

RANKS: tuple[Exactness, ...] = ("bitwise", "rounding", "approximate")
MODES = ("inference", "training")


@dataclass(frozen=True)
class Violation:
    """A broken promise: the optimization's name, which promise, and the steps applied before it."""

    mode: str
    optimization: str
    promise: str
    before: tuple[str, ...] = ()

    def __str__(self) -> str:
        after = f" after {', '.join(self.before)}" if self.before else ""
        return f"{self.mode}: {self.optimization}{after}: {self.promise}"


@dataclass(frozen=True)
class Outcome:
    """What came of one model: the violations, how often optimizations were applied with at least one match, and why it was not captured."""

    violations: tuple[Violation, ...] = ()
    matched: Mapping[str, int] = ()  # type: ignore[assignment]
    not_captured: str = ""
    captured: int = 0


def tried(
    source: ModelSource,
    seed: int,
    optimizations: Sequence[Optimization] | None = None,
    modes: Sequence[str] = MODES,
    rounds: int = 2,
    special: bool = False,
) -> Outcome:
    """Every optimization alone, and all of them in random order `rounds` times over, in each mode.

    Args:
        special: the inputs hold infinities: what holds for finite values only is left out.
    """
    chosen = [one for one in catalog().values() if not one.costly] if optimizations is None else list(optimizations)
    chosen = [one for one in chosen if not (special and one.finite)]
    found, matched, captured = [], {optimization.name: 0 for optimization in chosen}, 0
    reason = ""
    for mode in modes:
        try:
            program = capture(source, mode, "cpu").program
        except CaptureError as error:
            reason = f"{mode}: {error.what}"
            continue
        captured += 1
        found += alone(program, chosen, seed, matched)
        found += in_a_row(program, chosen, seed, rounds, matched)
    return Outcome(tuple(found), matched, reason, captured)


def alone(program: Program, optimizations: Sequence[Optimization], seed: int, matched: dict[str, int]) -> list[Violation]:
    """Each optimization on the program as captured: at every place it finds, and then at one of them."""
    chance, judge, start = random.Random(seed), Judge(program), snapshot(program)
    found: list[Violation] = []
    for optimization in _fitting(program, optimizations):
        settings = _settings(optimization, chance)
        result, broken = _step(program, start, optimization, settings, judge, start)
        found += [Violation(program.mode, optimization.name, promise) for promise in broken]
        if result is None or not result.step.matches:
            continue
        matched[optimization.name] += 1
        if len(result.step.sites) > 1:
            only = {**settings, "only": chance.choice(result.step.sites)}
            _, broken = _step(program, start, optimization, only, judge, start)
            found += [Violation(program.mode, optimization.name, f"at one place: {promise}") for promise in broken]
    return found


def in_a_row(
    program: Program,
    optimizations: Sequence[Optimization],
    seed: int,
    rounds: int,
    matched: dict[str, int],
    settings: Mapping[str, str] | None = None,
) -> list[Violation]:
    """All optimizations one after another in random order, `rounds` times over, approximations and what writes in place last; the end is judged against the start.

    Args:
        settings: for each optimization; by default, random ones.
    """
    chance, judge, start = random.Random(seed), Judge(program), snapshot(program)
    current, graph, done, weakest = program, start, [], 0
    found: list[Violation] = []
    fitting = _fitting(program, optimizations)

    def chosen(optimization: Optimization) -> dict[str, str]:
        return _settings(optimization, chance) if settings is None else dict(settings)

    order = [each for _ in range(rounds) for each in chance.sample(fitting, len(fitting))]
    # Behind an approximation others are judged less strictly.
    for optimization in sorted(order, key=lambda each: each.exactness == "approximate"):
        result, broken = _step(current, graph, optimization, chosen(optimization), judge, start)
        found += [Violation(program.mode, optimization.name, promise, tuple(done)) for promise in broken]
        if broken:
            continue  # go on from the graph before, which is still right
        if result is not None and result.step.verdict.kind == "refuted":
            continue  # an approximation that this model makes large
        if result is not None and result.step.matches:
            matched[optimization.name] += 1
            current, graph = result.program, result.snapshot
            weakest = max(weakest, RANKS.index(optimization.exactness))
            done.append(result.step.words)
    verdict = judge.verdict(program, current, RANKS[weakest])
    if verdict.kind not in RANKS[: weakest + 1]:
        found.append(Violation(program.mode, "all together", f"{verdict.kind}: {verdict.reason} {verdict.worst}", tuple(done)))
    return found


def _fitting(program: Program, optimizations: Sequence[Optimization]) -> list[Optimization]:
    return [each for each in optimizations if program.mode in each.applies_to]


def _settings(optimization: Optimization, chance: random.Random) -> dict[str, str]:
    """The default of each parameter, or a small value that its limits allow."""
    numbers = [each for each in optimization.parameters if each.kind == "number"]
    return {each.name: str(chance.choice((each.default, each.minimum, min(each.maximum, each.minimum + 1)))) for each in numbers}


def _step(
    program: Program, graph: GraphSnapshot, optimization: Optimization, settings: dict[str, str], judge: Judge, start: GraphSnapshot
) -> tuple[Applied | None, list[str]]:
    """One step, and the promises that it broke."""
    before = _written(program.gm)
    try:
        parameters, _ = parse_settings(optimization, settings)
        looked_at = program.clone()
        if not optimization.in_place:
            make_functional(looked_at.gm)
        seen = _written(looked_at.gm)
        matches, misses = matches_and_misses(looked_at, optimization, parameters)
        finds = [*matches, *misses]
        if _written(looked_at.gm) != seen:
            return None, ["find changed the graph"]
        if not any(isinstance(each, Match) for each in finds):
            return None, _without_reason(finds)
        result = apply_optimization(program, graph, optimization, settings, judge)
    except Exception as error:
        return None, [f"{type(error).__name__}: {error}"[:1000]]
    broken = [] if _written(program.gm) == before else ["the graph before the step changed"]
    return result, [*broken, *_broken(result, optimization, finds, start, program)]


def _broken(result: Applied, optimization: Optimization, finds: list[Match | Miss], start: GraphSnapshot, before: Program) -> Iterator[str]:
    step, allowed = result.step, RANKS[: RANKS.index(optimization.exactness) + 1]
    if step.verdict.kind not in allowed and not _amplified(step, optimization):
        yield f"{step.verdict.kind}: {step.verdict.reason} {step.verdict.worst}"
    for sentence in step.claim_broken:
        yield f"claim: {sentence}"
    yield from _without_reason(finds)
    if not step.matches or step.verdict.kind == "refuted":  # what is refuted may not run at all
        return
    names = set(start.by_name())
    for node in result.snapshot.nodes:
        if not node.origins or not set(node.origins) <= names:
            yield f"provenance: {node.name} comes from {node.origins}"
    known = {node.name for node in before.gm.graph.nodes}
    yield from untrue(result.program, {node.name for node in result.program.gm.graph.nodes if node.name not in known})


def _amplified(step: StepRecord, optimization: Optimization) -> bool:
    """Is it the error of an approximation, which a random model may make as large as it likes? Then the verdict says so, and that is all it promises."""
    worst = step.verdict.worst
    return optimization.exactness == "approximate" and worst is not None and math.isfinite(worst.error)


def _without_reason(finds: list[Match | Miss]) -> list[str]:
    return [f"the miss at {each.node.name} has no reason" for each in finds if isinstance(each, Miss) and not each.reason.strip()]


def _written(gm: fx.GraphModule) -> str:
    """The graph as text, with the shape of every value."""
    return "\n".join(f"{node.format_node()} {node.args} {node.kwargs} {_kind(node.meta.get('val'))}" for node in gm.graph.nodes)


def _kind(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape), value.dtype, tuple(value.stride())
    return tuple(map(_kind, value)) if isinstance(value, (tuple, list)) else None


class _Checked(fx.Interpreter):
    """Runs a graph and compares each value's shape, dtype and strides with what the node says.

    A node is not blamed for what torch's own rules say wrongly of its operands (they give logaddexp other strides than it has).
    """

    def __init__(self, gm: fx.GraphModule, names: set[str]) -> None:
        super().__init__(gm)
        self.names, self.found, self.differing = names, list[str](), set[fx.Node]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        said, real = n.meta.get("val"), value
        if n.op == "call_function" and isinstance(real, Tensor) and isinstance(said, Tensor) and _differs(said, real):
            self.differing.add(n)
            if n.name in self.names and not self.differing.intersection(n.all_input_nodes):
                self.found.append(f"{n.name} = {n.target} is {_kind(real)} and says {_kind(said)}")
        return value


def _differs(said: Tensor, real: Tensor) -> bool:
    if said.shape != real.shape or said.dtype != real.dtype:
        return True
    if real.layout is not torch.strided:
        return False  # packed for one kernel, which alone knows the order of its memory
    strides = [(a, b) for a, b, size in zip(said.stride(), real.stride(), said.shape, strict=True) if size > 1]
    return real.numel() > 0 and any(a != b for a, b in strides)


def untrue(program: Program, names: set[str]) -> list[str]:
    """New nodes whose shape, dtype or strides are not what they say: costs and later steps would go by them."""
    if not names:
        return []
    checked = _Checked(program.gm, names)
    torch.manual_seed(0)
    with torch.no_grad():
        checked.run(*program.materialize(0))
    return checked.found
