"""Apply rule: one substitution of the generated list, at the places where it fits.

## Why it is slow
`x·y + x·z` multiplies twice where `x·(y + z)` multiplies once. Nobody has to think of such rules one by one: they can be *generated*. All expressions of
up to three operators are computed at random points of a finite field; those with equal values are candidates (Jia et al. 2019, *TASO*,
sections 2 and 3).

## What changes
The side of the rule that stands in the graph is replaced by the other. Each rule was verified on random shapes, exactly in the field and to rounding in
three dtypes, and none of the list follows from the others.

## When it does not apply
Rules speak of matrices: two dimensions, floating point, equal shapes for elementwise operators. A rule says that two expressions are equal, not that one
is faster: that depends on shapes, and is what *search-substitutions* decides. They hold for finite numbers: `x − x` is not 0 where x is infinite.

## Try it
Write `x @ y + x @ z` with matrices: one product goes. Apply the same rule with `reverse=1` after it, and there are two again. The setting `rule` lists all rules.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.record import Claim, Parameter
from optimizers.substitution.generate import Rule, saved_rules
from optimizers.substitution.matching import bindings, build
from optimizers.substitution.terms import Term, text, variables


def find(gm: fx.GraphModule, rule: int = 1, reverse: int = 0) -> Iterator[Match | Miss]:
    """Places where one side of the rule stands."""
    chosen = saved_rules()[rule - 1]
    source, target = _sides(chosen, reverse)
    if isinstance(source, str) or not set(variables(target)) <= set(variables(source)):
        yield Miss(gm.graph.output_node(), f"Read this way, {chosen} would invent an operand.")
        return
    found = False
    for node in gm.graph.nodes:
        for binding, nodes in bindings(source, node):
            if any(value_of(bound).dtype != value_of(node).dtype for bound in binding.values()):
                yield Miss(node, "Its operands differ in dtype.")
                found = True
                break
            touched = tuple(dict.fromkeys(nodes[::-1]))
            yield Match(node, touched, (target, binding), str(chosen) if not reverse else f"{chosen}, read from right to left")
            found = True
            break
    if not found:
        yield Miss(
            gm.graph.output_node(),
            f"Nowhere in this graph stands {text(source)}. Choose another rule; search-substitutions tries all of them.",
        )


def _sides(rule: Rule, reverse: int) -> tuple[Term, Term]:
    """(what is looked for, what takes its place): the larger side first, unless reversed."""
    return (rule.small, rule.large) if reverse else (rule.large, rule.small)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """The other side takes over the root's readers."""
    target, binding = match.data
    if any(bound._erased for bound in binding.values()):
        return
    with gm.graph.inserting_before(match.anchor):
        made = build(gm, target, binding)
    match.anchor.replace_all_uses_with(made)


def number_of(text: str) -> int:
    """The number of a rule by its text."""
    return [str(rule) for rule in saved_rules()].index(text) + 1


DISTRIBUTED = "matmul(x, add(y, z)) = add(matmul(x, y), matmul(x, z))"


def _twice(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    return x @ y + x @ z


def _three() -> tuple[Tensor, ...]:
    return tuple(torch.randn(8, 8) for _ in range(3))


OPTIMIZATION = Optimization(
    name="apply-rule",
    summary="One generated and verified substitution, where it fits.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="any", flops="any", bytes_moved="any", peak_bytes="any"),
    examples=(Example(lambda: Function(_twice), _three, matches=1, settings={"rule": str(number_of(DISTRIBUTED))}),),
    refusals=(
        Example(
            lambda: Function(_twice),
            _three,
            reason="invent an operand",
            settings={"rule": str(number_of("x = neg(neg(x))")), "reverse": "1"},
        ),
    ),
    parameters=(
        Parameter("rule", number_of(DISTRIBUTED), 1, len(saved_rules()), "which rule of the list", choices=tuple(map(str, saved_rules()))),
        Parameter("reverse", 0, 0, 1, "1: from the smaller side to the larger"),
    ),
    exactness="rounding",
    finite=True,
)
