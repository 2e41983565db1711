"""Rules: generated, verified, pruned; and a search that goes through worse graphs to better ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.program import Program
from graphs.snapshot import snapshot
from optimizers.base import Example, Function
from optimizers.catalog import catalog
from optimizers.pipeline import apply
from optimizers.substitution.generate import Rule, generate, holds, saved_rules
from optimizers.substitution.terms import PRIME, all_terms, matched, parsed, replaced, shape_of, size, text, value, variables
from optimizers.verify import Judge

RULES = saved_rules()


def program_of(model: nn.Module, *inputs: Tensor) -> Program:
    return capture(Example(lambda: model, lambda: inputs).source(), "inference", "cpu").program


def rule(source: str) -> Rule:
    return Rule(*map(parsed, source.split("=")))


def test_a_term_is_read_as_it_is_written() -> None:
    term = parsed("matmul(x, add(y, t(z)))")
    assert text(term) == "matmul(x, add(y, t(z)))"
    assert size(term) == 3
    assert variables(term) == ("x", "y", "z")
    assert shape_of(term, {"x": (2, 3), "y": (3, 4), "z": (4, 3)}) == (2, 4)
    assert replaced(term, {"x": "y", "y": "x", "z": "z"}) == parsed("matmul(y, add(x, t(z)))")
    assert matched(parsed("matmul(x, y)"), term) == {"x": "x", "y": parsed("add(y, t(z))")}
    assert matched(parsed("matmul(x, x)"), term) is None


def test_products_in_the_field_do_not_overflow() -> None:
    large = torch.full((3, 3), PRIME - 1)
    assert value(parsed("matmul(x, x)"), {"x": large}).unique().tolist() == [3]  # (-1)·(-1) three times


@pytest.mark.parametrize(
    ("source", "true"),
    [
        ("matmul(x, add(y, z)) = add(matmul(x, y), matmul(x, z))", True),
        ("matmul(add(x, y), z) = matmul(columns(x, y), rows(z, z))", True),
        ("t(matmul(x, y)) = matmul(t(y), t(x))", True),
        ("relu(t(x)) = t(relu(x))", True),
        ("matmul(x, y) = matmul(y, x)", False),
        ("relu(add(x, y)) = add(relu(x), relu(y))", False),
        ("t(matmul(x, y)) = matmul(t(x), t(y))", False),
        ("sub(x, y) = sub(y, x)", False),
        ("mul(x, x) = add(x, x)", False),
    ],
)
def test_random_testing_tells_rules_from_what_only_looks_like_one(source: str, true: bool) -> None:
    assert holds(rule(source)) is true


def test_generated_rules_of_two_operators_are_found_again_and_none_follows_from_the_others() -> None:
    found = {str(one) for one in generate(2)}
    assert {"matmul(x, matmul(y, z)) = matmul(matmul(x, y), z)", "x = t(t(x))", "relu(t(x)) = t(relu(x))", "add(x, y) = add(y, x)"} <= found
    assert "matmul(x, matmul(x, y)) = matmul(matmul(x, x), y)" not in found  # an instance of associativity
    assert "add(x, y) = add(y, x)" in {str(one) for one in RULES}
    assert len(found) < 60


def test_every_saved_rule_holds_on_other_points_than_those_it_was_found_by() -> None:
    assert len(RULES) > 200
    assert len({str(one) for one in RULES}) == len(RULES)
    for number, one in enumerate(RULES):
        assert size(one.small) <= size(one.large) <= 3
        if number % 7 == 0:  # a seventh each time keeps this quick
            assert holds(one, tests=3, seed=99), one


def test_the_number_of_terms_grows_as_it_should() -> None:
    assert [sum(1 for _ in all_terms(most)) for most in (0, 1, 2)] == [3, 66, 2523]


@pytest.mark.parametrize(
    ("source", "function"),
    [
        ("matmul(x, add(y, z)) = add(matmul(x, y), matmul(x, z))", lambda x, y, z: x @ y + x @ z),
        ("mul(x, add(y, z)) = add(mul(x, y), mul(x, z))", lambda x, y, z: x * y + z * x),
        ("sub(mul(x, x), mul(y, y)) = mul(add(x, y), sub(x, y))", lambda x, y, z: (x + y) * (x - y) + z),
        ("matmul(x, columns(y, z)) = columns(matmul(x, y), matmul(x, z))", lambda x, y, z: torch.cat([x @ y, x @ z], 1)),
        ("relu(t(x)) = t(relu(x))", lambda x, y, z: x.relu().t() + y),
    ],
)
def test_a_rule_is_applied_in_a_graph_and_the_answers_stay(source: str, function: object) -> None:
    program = program_of(Function(function), *(torch.randn(6, 6) for _ in range(3)))  # type: ignore[arg-type]
    number = [str(one) for one in RULES].index(source) + 1
    step = apply(program, snapshot(program), "apply-rule", {"rule": str(number)}, Judge(program)).step
    assert len(step.matches) == 1
    assert step.verdict.kind in ("bitwise", "rounding")


class Block(nn.Module):
    """A residual block in which greedy sees no gain, and four steps save a quarter of the launches."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.short = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + torch.relu(self.short(x)))


def test_the_search_goes_uphill_where_greedy_stops_and_its_path_is_ordinary_steps() -> None:
    program = program_of(Block(), torch.randn(1, 8, 8, 8))
    graph, judge = snapshot(program), Judge(program)
    result = apply(program, graph, "search-substitutions", {"width": "4", "depth": "4"}, judge)
    found = result.step.search
    assert found is not None
    assert [move.words.partition("(")[0] for move in found.found] == [
        "enlarge-convolution",
        "merge-parallel-convolutions",
        "commute-split",
        "absorb-add-into-convolution",
    ]
    assert found.found[0].seconds > found.seconds  # the first step is worse
    assert found.found[-1].seconds < found.seconds
    assert not found.greedy or found.greedy[-1].seconds > found.found[-1].seconds
    assert result.step.verdict.kind in ("bitwise", "rounding")
    for move in found.found:
        name, _, inner = move.words.rstrip(")").partition("(")
        step = apply(program, graph, name, dict(one.split("=") for one in inner.split(",")), judge)
        assert len(step.step.matches) == 1
        program, graph = step.program, step.snapshot
    assert graph.totals == result.step.after


def test_the_search_is_not_started_unasked() -> None:
    assert catalog()["search-substitutions"].costly
