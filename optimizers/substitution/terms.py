"""Terms: expressions of a few operators on matrices, as text, as trees, and as numbers.

A term is a variable (`x`) or an operator with its operands (`("matmul", "x", "y")`). Values are taken in the integers modulo the prime
2³¹ − 1, where nothing rounds: two terms that are the same polynomial agree everywhere, and two that are not agree at a random point with
probability of about 1/2³¹ (Schwartz 1980; the bound that PET, Wang et al. 2021, section 6, uses for verification).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

PRIME = 2**31 - 1
Term = str | tuple  # a variable, or (operator, operand, …)
VARIABLES = ("x", "y", "z")


class IllTyped(Exception):
    """The operands' shapes do not fit the operator."""


def _positive(value: Tensor) -> Tensor:
    """max(0, v), where the upper half of the field stands for negative numbers."""
    return torch.where(value > PRIME // 2, 0, value)


def _product(one: Tensor, other: Tensor) -> Tensor:
    """A matrix product; each term of a sum is reduced before it is added, so nothing overflows."""
    return ((one.unsqueeze(-1) * other.unsqueeze(-3)) % PRIME).sum(-2) % PRIME


def _alike(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        raise IllTyped


def _elementwise(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def run(one: Tensor, other: Tensor) -> Tensor:
        _alike(one, other)
        return function(one, other)

    return run


def _matmul(one: Tensor, other: Tensor, product: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    if one.shape[1] != other.shape[0]:
        raise IllTyped
    return product(one, other)


def _joined(one: Tensor, other: Tensor, dim: int) -> Tensor:
    if one.shape[1 - dim] != other.shape[1 - dim]:
        raise IllTyped
    return torch.cat([one, other], dim)


Table = Mapping[str, Callable[..., Tensor]]
SHAPED: Table = {
    "t": lambda one: one.t(),
    "rows": lambda one, other: _joined(one, other, 0),
    "columns": lambda one, other: _joined(one, other, 1),
}
# In the field, and in any dtype of torch.
FIELD: Table = {
    **SHAPED,
    "add": _elementwise(lambda one, other: (one + other) % PRIME),
    "sub": _elementwise(lambda one, other: (one - other) % PRIME),
    "mul": _elementwise(lambda one, other: one * other % PRIME),
    "neg": lambda one: -one % PRIME,
    "relu": _positive,
    "matmul": lambda one, other: _matmul(one, other, _product),
}
TORCH: Table = {
    **SHAPED,
    "add": _elementwise(torch.add),
    "sub": _elementwise(torch.sub),
    "mul": _elementwise(torch.mul),
    "neg": torch.neg,
    "relu": torch.relu,
    "matmul": lambda one, other: _matmul(one, other, torch.mm),
}
UNARY = ("neg", "relu", "t")
BINARY = ("add", "sub", "mul", "matmul", "rows", "columns")


def value(term: Term, at: Mapping[str, Tensor], table: Table = FIELD) -> Tensor:
    """The term's value.

    Raises:
        IllTyped: shapes do not fit.
    """
    if isinstance(term, str):
        return at[term]
    return table[term[0]](*(value(operand, at, table) for operand in term[1:]))


def shape_of(term: Term, at: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """The term's shape, rows and columns.

    Raises:
        IllTyped: shapes do not fit.
    """
    if isinstance(term, str):
        return at[term]
    one, *others = (shape_of(operand, at) for operand in term[1:])
    if term[0] == "t":
        return one[1], one[0]
    if not others:
        return one
    return _of_two(term[0], one, others[0])


def _of_two(op: str, one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    fits = {"matmul": one[1] == other[0], "rows": one[1] == other[1], "columns": one[0] == other[0]}.get(op, one == other)
    if not fits:
        raise IllTyped
    return {"matmul": (one[0], other[1]), "rows": (one[0] + other[0], one[1]), "columns": (one[0], one[1] + other[1])}.get(op, one)


def size(term: Term) -> int:
    """How many operators it has."""
    return 0 if isinstance(term, str) else 1 + sum(map(size, term[1:]))


def variables(term: Term) -> tuple[str, ...]:
    """The variables in the order in which they come, each once."""
    if isinstance(term, str):
        return (term,)
    return tuple(dict.fromkeys(name for operand in term[1:] for name in variables(operand)))


def replaced(term: Term, by: Mapping[str, Term]) -> Term:
    """The term with terms in the place of variables."""
    return by[term] if isinstance(term, str) else (term[0], *(replaced(operand, by) for operand in term[1:]))


def matched(pattern: Term, term: Term, found: dict[str, Term] | None = None) -> dict[str, Term] | None:
    """What each variable of the pattern stands for in the term; None where it does not fit."""
    found = {} if found is None else found
    if isinstance(pattern, str):
        return found if found.setdefault(pattern, term) == term else None
    if isinstance(term, str) or term[0] != pattern[0]:
        return None
    for one, other in zip(pattern[1:], term[1:], strict=True):
        if matched(one, other, found) is None:
            return None
    return found


def text(term: Term) -> str:
    """`matmul(x, add(y, z))`."""
    return term if isinstance(term, str) else f"{term[0]}({', '.join(map(text, term[1:]))})"


def parsed(source: str) -> Term:
    """Text -> term."""
    term, rest = _parsed(source.replace(" ", ""))
    if rest:
        raise ValueError(f"`{rest}` is left over in `{source}`")
    return term


def _parsed(source: str) -> tuple[Term, str]:
    end = next((at for at, letter in enumerate(source) if letter in "(),"), len(source))
    name, rest = source[:end], source[end:]
    if not rest.startswith("("):
        return name, rest
    operands: list[Term] = []
    while rest[0] != ")":
        operand, rest = _parsed(rest[1:])
        operands.append(operand)
    return (name, *operands), rest[1:]


def all_terms(most: int) -> Iterator[Term]:
    """Every term of up to `most` operators, smaller ones first."""
    levels: list[list[Term]] = [list(VARIABLES)]
    yield from levels[0]
    for count in range(1, most + 1):
        level: list[Term] = [(op, one) for op in UNARY for one in levels[count - 1]]
        for left in range(count):
            level += [(op, one, other) for op in BINARY for one in levels[left] for other in levels[count - 1 - left]]
        yield from level
        levels.append(level)
