"""Search substitutions: go beyond greedy, through graphs that are worse now and pay later.

## Why it is slow
Each rewrite alone is judged by what it gains at once. Some pay only together: a 1×1 convolution enlarged to 3×3 does more work, but then it can be merged
with the 3×3 convolution beside it, and what is left of the block becomes one convolution (Jia et al. 2019, *TASO*, figure 2). Greedy stops before the first step.

## What changes
A beam search tries every single rewrite of the catalogue (cleanup, algebra, generated rules) at every place, prices each graph by predicted time (launches,
bytes, operations), and keeps the cheapest few graphs of every length, even when they are dearer than the start. The cheapest graph of all wins. Its path is a list of
ordinary steps, which you can take over into the pipeline one by one; greedy's dead end is shown beside it.
Rules come from a generator, as TASO's do: from 66 million graphs of up to four operators that found 28,744 substitutions and kept 743; here
122,000 terms of up to three operators give 303. Its networks became 1.0 times (ResNet-50) to 3.1 times (ResNeXt-50) as fast on a V100.

## When it does not apply
When no path of the allowed length is cheaper. The graph must be small, since every rewrite at every place is a graph of its own. The price is a
prediction for a machine of this class: measure to know.

## Try it
On `zoo/branches` set `depth` to 1: no single rewrite pays, and greedy would stop. Then let it look 4 steps ahead.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx, nn

from graphs.errors import FxscopeError
from graphs.program import Program
from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.record import Claim, Parameter, SearchRecord
from optimizers.substitution.beam import Moves, Searched, search
from optimizers.substitution.generate import saved_rules
from optimizers.substitution.terms import variables

LARGEST = 150  # nodes
KINDS = ("cleanup", "algebra")


def find(gm: fx.GraphModule, width: int = 6, depth: int = 6) -> Iterator[Match | Miss]:
    """One match: the whole path, where there is a cheaper graph."""
    nodes = [node for node in gm.graph.nodes if node.op == "call_function"]
    if not nodes:
        return
    if len(nodes) > LARGEST:
        yield Miss(
            nodes[0],
            f"The graph has {len(nodes):,} operators; up to {LARGEST} are searched, for every rewrite at every place is a graph of its own.",
        )
        return
    found = search(gm, width, depth, _Catalogue())
    if found.found.price >= found.start:
        yield Miss(
            nodes[0],
            f"No path of up to {_count(depth, 'step')} is cheaper; {_count(found.priced, 'graph')} priced. A larger depth or width looks further.",
        )
        return
    yield Match(nodes[-1], tuple(nodes), _record(found), _told(found))


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"


def _record(found: Searched) -> SearchRecord:
    return SearchRecord(found.start, found.greedy.path, found.found.path, found.priced)


def _told(found: Searched) -> str:
    gain = 1 - found.found.price / found.start
    greedys = 1 - found.greedy.price / found.start
    steps = " → ".join(move.words for move in found.found.path)
    return f"{steps}: predicted {gain:.0%} less time; greedy stops at {greedys:.0%} after {len(found.greedy.path)}; {found.priced} graphs priced"


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Replays the path as ordinary steps."""
    from optimizers.catalog import named, parse_settings
    from optimizers.pipeline import rewrite_here

    for move in match.data.found:
        name, settings = _parts(move.words)
        optimization = named(name)
        rewrite_here(gm, optimization, *parse_settings(optimization, settings))


def _parts(words: str) -> tuple[str, dict[str, str]]:
    name, _, inner = words.rstrip(")").partition("(")
    return name, dict(one.split("=") for one in inner.split(",") if one)


class _Catalogue(Moves):
    """Every optimization of the kinds that rewrite, at every place, and every generated rule in both directions."""

    def of(self, program: Program) -> Iterator[tuple[str, Program]]:
        """(the step's words, the graph after it)."""
        from optimizers.catalog import catalog, parse_settings
        from optimizers.pipeline import rewrite_here, sites

        for name, optimization in catalog().items():
            if optimization.record.kind not in KINDS or program.mode not in optimization.applies_to:
                continue
            parameters, _ = parse_settings(optimization, {})
            for anchor in sites(program, optimization, parameters):
                changed = program.clone()
                if _done(lambda: rewrite_here(changed.gm, optimization, parameters, anchor)):  # noqa: B023
                    yield f"{name}(only={anchor})", changed
        yield from self._rules(program)

    def _rules(self, program: Program) -> Iterator[tuple[str, Program]]:
        from optimizers.catalog import named
        from optimizers.pipeline import rewrite_here, sites

        apply_rule = named("apply-rule")
        for number, rule in enumerate(saved_rules(), 1):
            both = {*variables(rule.small)} == {*variables(rule.large)} and not isinstance(rule.small, str)
            for reverse in (0, 1) if both else (0,):
                parameters: dict[str, int | str] = {"rule": number, "reverse": reverse}
                for anchor in sites(program, apply_rule, parameters):
                    changed = program.clone()
                    if _done(lambda: rewrite_here(changed.gm, apply_rule, parameters, anchor)):  # noqa: B023
                        yield f"apply-rule(only={anchor},reverse={reverse},rule={number})", changed


def _done(act: object) -> bool:
    """A move that cannot be made is no move."""
    try:
        act()  # type: ignore[operator]
    except (FxscopeError, RuntimeError, ValueError):
        return False
    return True


class _Sum(nn.Module):
    """x·A·y + x·A·z, where only two steps together save a product."""

    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return x @ y + x @ z


def _three() -> tuple[Tensor, ...]:
    return torch.randn(64, 64), torch.randn(64, 64), torch.randn(64, 64)


OPTIMIZATION = Optimization(
    name="search-substitutions",
    summary="A path of rewrites that may get worse before it gets better.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="any", flops="any", bytes_moved="any", peak_bytes="any"),
    examples=(Example(_Sum, _three, matches=1, settings={"depth": "1", "width": "1"}),),
    refusals=(
        Example(lambda: Function(lambda x, y: x @ y), lambda: _three()[:2], reason="No path", settings={"depth": "1", "width": "1"}),
    ),
    parameters=(
        Parameter("width", 6, 1, 64, "graphs kept at every length"),
        Parameter("depth", 6, 1, 12, "rewrites in a row"),
    ),
    exactness="rounding",
    costly=True,
)
