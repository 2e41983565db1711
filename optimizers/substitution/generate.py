"""Makes rules: every pair of small terms that are equal, verified on other shapes and dtypes, without those that follow from others.

After TASO (Jia et al. 2019, sections 2 and 3): terms are told apart by their values at random points; equal ones are candidates; a candidate is dropped where
it follows from rules already kept. Following is decided by congruence closure over all enumerated terms (Downey, Sethi and Tarjan 1980): a kept
rule joins every instance of its sides, and terms whose operands are joined are joined too.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from optimizers.substitution.terms import (
    FIELD,
    PRIME,
    TORCH,
    VARIABLES,
    IllTyped,
    Term,
    all_terms,
    matched,
    parsed,
    replaced,
    shape_of,
    size,
    text,
    value,
    variables,
)

POINTS = 2  # random points by which terms are told apart
SIDE = 3  # of the square matrices at those points
TESTS = 8  # random shapes on which a candidate must hold
SAVED = Path(__file__).with_name("rules.txt")
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.2}


@dataclass(frozen=True)
class Rule:
    """Two terms that are equal wherever both have a shape; the first has no more operators than the second."""

    small: Term
    large: Term

    def __str__(self) -> str:
        return f"{text(self.small)} = {text(self.large)}"


@functools.cache
def saved_rules() -> tuple[Rule, ...]:
    """The rules that `generate(3)` gave."""
    lines = [line for line in SAVED.read_text().splitlines() if line and not line.startswith("#")]
    return tuple(Rule(*(parsed(side) for side in line.split("="))) for line in lines)


def generate(most: int) -> list[Rule]:
    """All rules between terms of up to `most` operators, none of which follows from those before it."""
    classes = _Classes(term for term in all_terms(most))
    kept: list[Rule] = []
    for small, large in _candidates(classes.terms):
        if classes.same(small, large) or not holds(Rule(small, large)):
            continue
        rule = _renamed(small, large)
        kept.append(rule)
        classes.learn(rule)
    return kept


def _candidates(terms: Iterable[Term]) -> list[tuple[Term, Term]]:
    """Pairs with equal values, the smallest term of each value with every other, small pairs first."""
    generator = torch.Generator().manual_seed(0)
    points = [{name: torch.randint(PRIME, (SIDE, SIDE), generator=generator) for name in VARIABLES} for _ in range(POINTS)]
    memo: list[dict[Term, Tensor]] = [{name: point[name] for name in VARIABLES} for point in points]
    by_value: dict[object, list[Term]] = defaultdict(list)
    for term in terms:
        try:
            known = [_once(term, seen) for seen in memo]
        except (IllTyped, KeyError):
            continue  # ill-typed, or an operand was
        by_value[tuple((tuple(one.shape), one.numpy().tobytes()) for one in known)].append(term)
    pairs = [(group[0], other) for group in by_value.values() for other in group[1:]]
    useful = [(one, other) for one, other in pairs if set(variables(one)) <= set(variables(other))]
    return sorted(useful, key=_simplest_and_most_general_first)


def _simplest_and_most_general_first(pair: tuple[Term, Term]) -> tuple[object, ...]:
    small, large = pair
    return size(small) + size(large), -len(variables(large)), text(small), text(large)


def _once(term: Term, seen: dict[Term, Tensor]) -> Tensor:
    """The value from those of the operands, which were computed before."""
    if isinstance(term, tuple):
        seen[term] = FIELD[term[0]](*(seen[operand] for operand in term[1:]))
    return seen[term]


def _renamed(small: Term, large: Term) -> Rule:
    """Variables named in the order in which they come."""
    names = dict(zip(variables(("", small, large)), VARIABLES, strict=False))
    return Rule(replaced(small, names), replaced(large, names))


def holds(rule: Rule, tests: int = TESTS, seed: int = 1) -> bool:
    """Are both sides equal at random points of random shapes, exactly in the field, and to rounding in float64, float32 and bfloat16?"""
    generator = torch.Generator().manual_seed(seed)
    shapes = _shapes(rule, tests)
    return bool(shapes) and all(_equal_at(rule, shape, generator) for shape in shapes)


def _equal_at(rule: Rule, shapes: dict[str, tuple[int, int]], generator: torch.Generator) -> bool:
    at = {name: torch.randint(PRIME, shape, generator=generator) for name, shape in shapes.items()}
    if not torch.equal(value(rule.small, at), value(rule.large, at)):
        return False
    exact = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    for dtype, tolerance in TOLERANCE.items():
        given = {name: one.to(dtype) for name, one in exact.items()}
        one, other = (value(side, given, TORCH).double() for side in (rule.small, rule.large))
        scale = max(1.0, float(one.abs().max())) if one.numel() else 1.0
        if one.numel() and float((one - other).abs().max()) > tolerance * scale:
            return False
    return True


def _shapes(rule: Rule, count: int) -> list[dict[str, tuple[int, int]]]:
    """Shapes on which both sides have a value, those with many different sizes first, some with a size of 1 or 0."""
    names = variables(("", rule.small, rule.large))
    sizes = (2, 3, 4, 1, 0)
    found: list[dict[str, tuple[int, int]]] = []
    for numbers in itertools.product(sizes, repeat=2 * len(names)):
        shapes = {name: (numbers[2 * at], numbers[2 * at + 1]) for at, name in enumerate(names)}
        try:
            if shape_of(rule.small, shapes) == shape_of(rule.large, shapes):
                found.append(shapes)
        except IllTyped:
            continue
    found.sort(key=lambda shapes: -len({number for shape in shapes.values() for number in shape}))
    step = max(1, len(found) // count)
    return found[::step][:count]


class _Classes:
    """Terms that are equal by the rules so far."""

    def __init__(self, terms: Iterable[Term]) -> None:
        self.terms = list(terms)
        self.parent: dict[Term, Term] = {term: term for term in self.terms}

    def find(self, term: Term) -> Term:
        while self.parent[term] != term:
            self.parent[term] = self.parent[self.parent[term]]
            term = self.parent[term]
        return term

    def same(self, one: Term, other: Term) -> bool:
        return self.find(one) == self.find(other)

    def learn(self, rule: Rule) -> None:
        """Joins every instance of the rule's sides, then whatever follows by congruence."""
        for pattern, other in ((rule.small, rule.large), (rule.large, rule.small)):
            for term in self.terms:
                found = matched(pattern, term)
                if found is not None and set(variables(other)) <= set(found):
                    self._join(term, replaced(other, found))
        while self._congruence():
            pass

    def _join(self, one: Term, other: Term) -> bool:
        if other not in self.parent:
            return False
        a, b = self.find(one), self.find(other)
        if a == b:
            return False
        self.parent[max(a, b, key=lambda term: (size(term), text(term)))] = min(a, b, key=lambda term: (size(term), text(term)))
        return True

    def _congruence(self) -> bool:
        known: dict[Term, Term] = {}
        changed = False
        for term in self.terms:
            if isinstance(term, tuple):
                key = (term[0], *(self.find(operand) for operand in term[1:]))
                changed |= self._join(term, known.setdefault(key, term))
        return changed


def write_rules() -> None:
    """Generates the rules of up to three operators and saves them."""
    rules = generate(3)
    head = "# Rules between terms of up to three operators: generated, verified, and none follows from those before it.\n"
    SAVED.write_text(head + "\n".join(map(str, rules)) + "\n")


if __name__ == "__main__":
    write_rules()
