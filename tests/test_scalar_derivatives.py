"""Derivatives of typed formulas: the worked numbers of an ML-systems course, and finite differences."""

from __future__ import annotations

import math

import pytest

from graphs.errors import RequestError
from lessons.formula import Worked, work_out
from lessons.scalar import evaluate

TEXTBOOK = "ln(x1) + x1*x2 - sin(x2) at x1=2, x2=5"


@pytest.fixture(scope="module")
def textbook() -> Worked:
    return work_out(TEXTBOOK)


def adjoint(worked: Worked, at: int) -> float:
    return worked.grown_values[worked.reverse.adjoints[at]]


def test_values_of_every_node(textbook: Worked) -> None:
    """Row A01."""
    assert [textbook.graph.nodes[at].op for at in range(7)] == ["variable", "variable", "ln", "mul", "sin", "add", "sub"]
    assert textbook.values == pytest.approx((2, 5, 0.693147, 10, -0.958924, 10.693147, 11.652071), abs=1e-6)


def test_forward_mode_carries_one_tangent_along(textbook: Worked) -> None:
    """Row A02."""
    assert textbook.tangents("x1") == pytest.approx((1, 0, 0.5, 5, 0, 5.5, 5.5))
    assert textbook.tangents("x2")[-1] == pytest.approx(1.7163378)


def test_reverse_mode_gives_every_adjoint(textbook: Worked) -> None:
    """Row A03."""
    assert [adjoint(textbook, at) for at in range(6, -1, -1)] == pytest.approx([1, 1, -1, 1, 1, 1.7163378, 5.5])
    assert [textbook.grown_values[one] for one in textbook.partials(1)] == pytest.approx([-0.2836622, 2])
    assert [one.node for one in textbook.reverse.rounds] == [6, 5, 4, 3, 2, 1, 0]
    assert (textbook.derivative("x1"), textbook.derivative("x2")) == pytest.approx((5.5, 1.7163378))


def test_the_loop_of_reverse_mode_leaves_the_partial_adjoints_of_the_course() -> None:
    """Row A04: f = (exp v1 + 1) · exp v1."""
    worked = work_out("(exp(x) + 1) * exp(x) at x=1")
    nodes = worked.reverse.graph.nodes
    assert [worked.graph.formula(at) for at in range(4)] == ["x", "exp v1", "v2 + 1", "v3 · v2"]
    ends = {nodes[at].name: [nodes[one].name for one in found] for at, found in worked.reverse.rounds[-1].node_to_grad.items()}
    assert ends == {"v1": ["v̄1"], "v2": ["v̄2→4", "v̄2→3"], "v3": ["v̄3"], "v4": ["v̄4"]}
    red = {node.name: node.op for node in nodes[worked.reverse.start :]}
    assert red == {"v̄4": "id", "v̄3": "mul", "v̄2→4": "mul", "v̄2→3": "id", "v̄2": "add", "v̄1": "mul"}
    sizes = [one.size for one in worked.reverse.rounds]
    assert sizes == sorted(sizes), "the graph grows"
    assert sizes[-1] == len(nodes)


def test_the_gradient_of_the_gradient() -> None:
    """Row P1-21: x1·x1 + x1·x2 has the second derivatives 2, 1, 1, 0."""
    worked = work_out("x1*x1 + x1*x2 at x1=-1, x2=2.8")
    assert worked.derivative("x1") == pytest.approx(0.8)
    assert (worked.second("x1"), worked.second("x2")) == (2, 1)
    other = work_out("b*b + b*a at b=-1, a=2.8")  # by the name that comes first, a
    assert (other.first, other.second("b"), other.second("a")) == ("a", 1, 0)


@pytest.mark.parametrize(
    "text",
    [
        "x / y + y / x",
        "tanh(x * y) - cos(x) * sqrt(y)",
        "x ** 3 + 2 ** y + x ** y",
        "x^2 - -y * 3 + x^1 + y^0",
        "exp(sin(x) / ln(y + 2)) * x",
        "sqrt(x*x + y*y) / tanh(x)",
    ],
)
def test_both_modes_and_finite_differences_agree(text: str) -> None:
    def at(x: float, y: float) -> Worked:
        return work_out(f"{text} at x={x!r}, y={y!r}")

    worked, step = at(1.3, 0.7), 1e-5
    for variable, (before, after) in {
        "x": (at(1.3 - step, 0.7), at(1.3 + step, 0.7)),
        "y": (at(1.3, 0.7 - step), at(1.3, 0.7 + step)),
    }.items():
        assert worked.tangents(variable)[worked.graph.output] == pytest.approx(worked.derivative(variable), rel=1e-12)
        assert worked.derivative(variable) == pytest.approx((after.value - before.value) / (2 * step), rel=1e-6)
        assert worked.second(variable) == pytest.approx((after.derivative("x") - before.derivative("x")) / (2 * step), rel=1e-5, abs=1e-9)


def test_a_node_can_read_the_same_node_twice_and_numbers_are_no_nodes() -> None:
    worked = work_out("x * x at x=3")
    assert [worked.reverse.graph.nodes[one].name for one in worked.partials(0)] == ["v̄1→2", "v̄1→2′"]
    assert worked.derivative("x") == 6
    different = work_out("(x + y) * (x + 1) at x=3, y=5")  # y is node 1, and 1 is a number
    assert different.value == 32
    assert work_out("x + 2 * 3 at x=1").operators == 1


def test_a_power_has_derivatives_at_zero() -> None:
    worked = work_out("x**2 + x at x=0")
    assert (worked.value, worked.derivative("x"), worked.second("x")) == (0, 1, 2)
    plain = work_out("x**1 + x**0 at x=0")
    assert (plain.value, plain.derivative("x"), plain.second("x")) == (1, 1, 0)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("", "no formula"),
        ("x + at x=1", "no formula"),
        ("1 + 2 at x=1", "no variable"),
        ("x + y at x=1", "`y` has no value"),
        ("x at x=one", "gives no variable a number"),
        ("x at x=1.2.3", "gives no variable a number"),
        ("ln(x) at x=-1", "v2 = ln v1 has no value"),
        ("1 / x at x=0", "has no value"),
        ("sqrt(x) at x=0", "has no value"),
        ("x ** 0.5 at x=-2", "has no value"),
        ("exp(exp(exp(x))) at x=9", "has no value"),
        ("9**9**9 * x at x=1", "no value"),
        ("__import__('os').system('true') at x=1", "nothing that this page can derive"),
        ("x.real at x=1", "nothing that this page can derive"),
        ("(lambda: x)() at x=1", "nothing that this page can derive"),
        ("abs(x) at x=1", "nothing that this page can derive"),
        ("sin(x, x) at x=1", "nothing that this page can derive"),
        ("x < 1 at x=1", "nothing that this page can derive"),
        ("True + x at x=1", "nothing that this page can derive"),
        ("+".join(["x"] * 90) + " at x=1", "more than"),
        ("(" * 150 + "x" + ")" * 20 + " at x=1", "no formula"),
        ("x" * 300 + " at x=1", "too long"),
        ("1e999 * x at x=1", "too large"),
        ("sin + 1 at sin=1", "no name of a variable"),
        ("a+b+c+d+e+f+g at a=1,b=1,c=1,d=1,e=1,f=1,g=1", "more than 6 variables"),
    ],
)
def test_what_cannot_be_derived_is_told(words: str, what: str) -> None:
    with pytest.raises(RequestError, match=what) as caught:
        work_out(words)
    assert caught.value.where
    assert caught.value.help


def test_a_factor_of_zero_takes_the_derivative_away() -> None:
    worked = work_out("x*0 + y at x=1, y=2")
    assert worked.derivative("x") == 0
    assert math.isclose(evaluate(worked.graph, {"x": 5.0, "y": 1.0})[worked.graph.output], 1)
