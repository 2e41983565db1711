"""Simplify arithmetic: what school algebra knows, where the machine's numbers agree.

## Why it is slow
Every operator reads and writes whole tensors, also `x * 1`, `-(-x)`, or `(n + 3) + 4`. Models hardly ever say so on purpose: a scale that
is 1 in this configuration, a gradient rule with an exponent of 1, a mask that is all ones.

## What changes
A table of equations is tried at every operator. Each leaves the value as it is, bit for bit, the sign of zero included: neutral elements
(`x · 1`, `x / 1`, `x − 0`, `x ** 1`), what undoes or repeats itself (`-(-x)`, `relu(relu(x))`, `max(x, x)`), signs (`x − (−y) = x + y`),
powers that have an operator of their own (`x ** 0.5 = sqrt(x)`), division by a power of two, limits within limits, and, for whole numbers
only, `x − x = 0`, `x · 0 = 0` and constants in a row.

## When it does not apply
- `x + 0` is not `x` when `x` is -0.0: the sum is +0.0, and `1 / x` tells them apart. (`x − 0` is.) reassociate-constants, which rounds,
  removes it.
- `x − x` and `x · 0` are not 0 when `x` is infinite or not a number.
- `(x + 3) + 4` rounds twice, `x + 7` once. `exp(log(x))` is no number for `x < 0`, `log(exp(x))` is infinite for `x > 89`.
- `x ** 3` is one launch, `x * x * x` two. `x / 3` is not `x · (1 / 3)`: a third has no exact binary form.
- `(−y) + (−y)` reads one tensor, `(−y) − y` would read two.
- An integer tensor times 1.0 is a float tensor: dropping the multiplication would change the dtype. So would dropping `x · ones(3, 1)`
  change a shape.

## Try it
Write a squared error by hand, `((y - target) ** 2).mean()`, and train: the gradient of `x ** 2` is `2 · x ** 1.0`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.base import Example, Function, Match, Miss, Optimization
from optimizers.patterns.chains import ADD, DIV, MUL, RSUB, SUB, dtype_of, one_dtype, products, sums, tensor_and_number
from optimizers.patterns.constants import is_power_of_two, uniform
from optimizers.patterns.rules import Answer, Call, No, Reading, Same, by_operator, find_by, rewrite_by
from optimizers.record import Claim

aten = torch.ops.aten
NEG, ABS, RELU = aten.neg.default, aten.abs.default, aten.relu.default
IDEMPOTENT = (ABS, RELU, aten.floor.default, aten.ceil.default, aten.trunc.default, aten.round.default, aten.sign.default)
INVOLUTIONS = (NEG, aten.logical_not.default, aten.bitwise_not.default)
CHOOSE_ONE = (aten.maximum.default, aten.minimum.default, aten.bitwise_and.Tensor, aten.bitwise_or.Tensor)
NEVER_NEGATIVE = (aten.exp.default, aten.sigmoid.default, ABS, aten._softmax.default, aten.exp2.default)
POW = aten.pow.Tensor_Scalar
CLAMPS = (aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default)
POWERS: dict[float, Any] = {0.5: aten.sqrt.default, -0.5: aten.rsqrt.default, -1: aten.reciprocal.default}


def neutral(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x · 1`, `x / 1`, `x − 0`, `x + 0`: the number may also be a tensor that is the same everywhere, and stand on the left."""
    if call.kwargs or len(call.args) != 2:
        return None
    sides = [call.args] if call.target in (*SUB, *DIV) else [call.args, call.args[::-1]]
    wanted = 1 if call.target in (*MUL, *DIV) else 0
    for x, other in sides:
        number = uniform(other, reading)
        if number is None or number != wanted or not isinstance(x, fx.Node):
            continue
        if wanted == 0 and _turns_zero(call, number, node):
            return No("x + 0 is +0.0 where x is -0.0, so it is not x; reassociate-constants, which rounds, removes it.")
        if (dtype := dtype_of(node)) is not None and dtype.is_complex:
            return No("A complex product with 1 is no number where x is infinite.")
        return Same(x)
    return None


def _turns_zero(call: Call, number: float, node: fx.Node) -> bool:
    """-0.0 + 0.0 and -0.0 − -0.0 are +0.0."""
    dtype = dtype_of(node)
    negative = str(float(number)).startswith("-")
    return dtype is not None and dtype.is_floating_point and negative == (call.target in SUB)


def annihilated(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x − x` and `x · 0`."""
    if call.kwargs or len(call.args) != 2:
        return None
    numbers = [uniform(arg, reading) for arg in call.args]
    same = call.target in SUB and isinstance(call.args[0], fx.Node) and call.args[0] is call.args[1]
    if not same and not (call.target in MUL and any(number is not None and number == 0 for number in numbers)):
        return None
    dtype = dtype_of(node)
    if dtype is None or dtype.is_floating_point or dtype.is_complex:
        return No(f"{'x - x' if same else 'x * 0'} is not 0 where x is infinite or not a number.")
    return _filled(node, 0)


def _filled(node: fx.Node, number: float) -> Answer:
    value = node.meta["val"]
    if not value.is_contiguous():
        return No("The result lies in memory in another order than a new tensor would.")
    return Call(aten.full.default, (list(value.shape), number), {"dtype": value.dtype, "device": value.device})


def undone(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`-(-x)`, `not not x`."""
    inner = reading.inner(call.args[0], call.target)
    if inner is None:
        return None
    if call.target is aten.logical_not.default and dtype_of(inner.args[0]) is not torch.bool:
        return No("logical_not makes truth values of numbers: twice is not the number again.")
    return Same(inner.args[0])


def repeated(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`relu(relu(x))`, and `relu` or `abs` of what is never negative."""
    inner = reading.call(call.args[0])
    if inner is None:
        return None
    again = inner.target is call.target and call.args[1:] == inner.args[1:] and dict(call.kwargs) == dict(inner.kwargs)
    positive = call.target in (ABS, RELU) and inner.target in NEVER_NEGATIVE
    return Same(call.args[0]) if again or positive else None


def unsigned(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`|-x|`."""
    inner = reading.inner(call.args[0], NEG)
    return Call(ABS, (inner.args[0],)) if inner is not None else None


def chosen(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`max(x, x)`."""
    return Same(call.args[0]) if call.args[0] is call.args[1] else None


def negated(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x · -1` and `x / -1`."""
    found = tensor_and_number(call)
    if found is None or found[1] != -1 or one_dtype(node, found[0]) is None or dtype_of(node).is_complex:  # type: ignore[union-attr]
        return None
    return Call(NEG, (found[0],))


def added_negative(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x − (−y)` and `x + (−y)`: the sign goes into the operator."""
    if call.kwargs or len(call.args) != 2:
        return None
    x, y = call.args
    inner = reading.inner(y, NEG)
    if inner is None or not isinstance(x, fx.Node) or one_dtype(node, x, y) is None:
        return None
    if x is y:
        return No("(-y) + (-y) reads one tensor, (-y) - y two.")
    return Call(aten.add.Tensor if call.target in SUB else aten.sub.Tensor, (x, inner.args[0]))


def signed_factor(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`(−x) · c` and `(−x) / c`: the constant takes the sign."""
    found = tensor_and_number(call)
    inner = reading.inner(found[0], NEG) if found else None
    if found is None or inner is None or not (dtype := one_dtype(node, found[0])) or not dtype.is_floating_point:
        return None
    return Call(call.target, (inner.args[0], -found[1]))


def powers(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x ** c` for the exponents that torch's own kernel computes by another operator."""
    x, exponent = call.args
    dtype = one_dtype(node, x)
    if dtype is None or dtype.is_complex or isinstance(exponent, bool):
        return None
    if exponent == 1:
        return Same(x)
    if exponent == 0:
        return _filled(node, 1)  # also of what is not a number
    if exponent == 2:
        return Call(aten.mul.Tensor, (x, x))
    if exponent == 3:
        return No("x ** 3 is one launch, x * x * x is two.")
    if exponent not in POWERS or not dtype.is_floating_point:
        return None
    if dtype is torch.float16 and exponent != -1:
        return No("The kernel for powers of float16 rounds otherwise than the root does.")
    return Call(POWERS[exponent], (x,))


def power_of_two(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`x / 4` is `x · 0.25`: both move the exponent only, and a multiplication is the faster one."""
    found = tensor_and_number(call)
    if found is None or (dtype := one_dtype(node, found[0])) is None or not dtype.is_floating_point or found[1] in (0, 1, -1):
        return None
    if not is_power_of_two(found[1]):
        return No(f"1 / {found[1]:g} has no exact binary form, so a multiplication by it would round otherwise.")
    limits = torch.finfo(dtype)
    if not limits.tiny <= abs(1 / found[1]) <= limits.max:
        return No(f"1 / {found[1]:g} is outside of what the dtype holds in full precision.")
    return Call(aten.mul.Tensor, (found[0], 1 / found[1]))


def limits(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`clamp(clamp(x, a, b), c, d)`: the limits of the limits."""
    inner = reading.inner(call.args[0], *CLAMPS)
    bounds, within = _bounds(call), _bounds(inner)
    if inner is None or bounds is None or within is None or one_dtype(node, call.args[0], inner.args[0]) is None:
        return None
    if not reading.read_once(call.args[0]):
        return No(reading.shared(call.args[0]))
    (low, high), (a, b) = bounds, within
    if low > high or a > b:
        return No("A lower limit is above the upper one: every element becomes the upper.")
    ends = [None if end in (float("inf"), float("-inf")) else end for end in (min(max(a, low), high), min(max(b, low), high))]
    return Call(aten.clamp.default, (inner.args[0], *ends))


def _bounds(call: Call | None) -> tuple[float, float] | None:
    if call is None or call.kwargs:
        return None
    given = (*call.args[1:], None)[:2]
    low, high = (None, given[0]) if call.target is aten.clamp_max.default else given
    if any(end is not None and not isinstance(end, (int, float)) or end != end for end in (low, high)):
        return None
    return (float("-inf") if low is None else low, float("inf") if high is None else high)


def inverse(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """`exp(log(x))`, `log(exp(x))`, the root of a square: only nearly."""
    wrong = {
        (aten.exp.default, aten.log.default): "exp(log(x)) is not x where x is negative, and both round.",
        (aten.log.default, aten.exp.default): "log(exp(x)) is not x where exp overflows, and both round.",
        (POW, aten.sqrt.default): "The square of a root is not x where x is negative, and both round.",
    }
    inner = reading.call(call.args[0])
    reason = wrong.get((call.target, inner.target)) if inner is not None else None
    return No(reason) if reason and call.args[1:] in ((), (2,)) else None


def whole_sums(call: Call, node: fx.Node, reading: Reading) -> Answer:
    """Constants in a row, for whole numbers, whose arithmetic goes round and never rounds."""
    return _whole(sums(call, node, reading), node)


def whole_products(call: Call, node: fx.Node, reading: Reading) -> Answer:
    return _whole(products(call, node, reading), node) if call.target in MUL else None


def _whole(answer: Answer, node: fx.Node) -> Answer:
    dtype = dtype_of(node)
    if isinstance(answer, Call) and dtype is not None and dtype.is_floating_point:
        return No("Two operations round twice, one rounds once; reassociate-constants, which rounds, does it.")
    return answer


RULES = by_operator({
    "x * 1, x / 1, x + 0, x - 0 = x": ((*MUL, *DIV, *ADD, *SUB), neutral),
    "x - x, x * 0 = 0": ((*SUB, *MUL), annihilated),
    "f(f(x)) = x for -, not": (INVOLUTIONS, undone),
    "f(f(x)) = f(x) for abs, relu, round": (IDEMPOTENT, repeated),
    "|-x| = |x|": ((ABS,), unsigned),
    "max(x, x) = x": (CHOOSE_ONE, chosen),
    "x * -1 = -x": ((*MUL, *DIV), negated),
    "x - (-y) = x + y": ((*ADD, *SUB), added_negative),
    "(-x) * c = x * (-c)": ((*MUL, *DIV), signed_factor),
    "square of a root": ((POW,), inverse),
    "x ** c by its own operator": ((POW,), powers),
    "x / 2**k = x * 2**-k": (DIV, power_of_two),
    "clamp(clamp(x))": (CLAMPS, limits),
    "exp and log": ((aten.exp.default, aten.log.default), inverse),
    "(n + a) + b = n + (a + b)": ((*ADD, *SUB, *RSUB), whole_sums),
    "(n * a) * b = n * (a * b)": (MUL, whole_products),
})  # fmt: skip


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Operators for which an equation of the table holds."""
    return find_by(gm, RULES)


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """Puts the shorter side of the equation in the place of the longer one."""
    rewrite_by(gm, match, RULES)


def _neutral(x: Tensor) -> Tensor:
    return torch.sin(torch.sin(x) * 1 - 0) / 1 * torch.ones(8)


def _signs(x: Tensor) -> Tensor:
    return torch.relu(torch.relu(torch.neg(-torch.sin(x)))) * -1


def _whole_numbers(n: Tensor) -> Tensor:
    return ((n + 3) + 4) * (n - n)


def _powers(x: Tensor) -> Tensor:
    return (x.abs() ** 0.5 + x**2 + x.exp().abs() ** 1) / 4


def _twice_negative(x: Tensor) -> Tensor:
    negative = -x.sin()
    return negative + negative


def _numbers() -> tuple[Tensor]:
    return (torch.randn(4, 8),)


OPTIMIZATION = Optimization(
    name="simplify-arithmetic",
    summary="Replaces arithmetic by simpler arithmetic that gives the same bits.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_neutral), _numbers, matches=4),
        Example(lambda: Function(_signs), _numbers, matches=3),
        Example(lambda: Function(_whole_numbers), lambda: (torch.arange(32).reshape(4, 8),), matches=3),
        Example(lambda: Function(_powers), _numbers, matches=5),
        Example(lambda: Function(lambda x: x.clamp(-1, 1).clamp_min(0)), _numbers, matches=1),
    ),
    refusals=(
        Example(lambda: Function(lambda x: torch.sin(x) + 0), _numbers, reason="-0.0"),
        Example(lambda: Function(lambda x: torch.sin(x) * 0), _numbers, reason="infinite"),
        Example(lambda: Function(lambda x: x - x), _numbers, reason="not a number"),
        Example(lambda: Function(_twice_negative), _numbers, reason="reads one tensor"),
        Example(lambda: Function(lambda n: (n + 1) * 1.0), lambda: (torch.arange(4),), reason="The result is float32"),
        Example(lambda: Function(lambda x: torch.sin(x) * torch.ones(3, 1, 1)), _numbers, reason="has the shape"),
        Example(lambda: Function(lambda x: x * 1), _numbers, reason="share memory"),
        Example(lambda: Function(lambda x: (x + 3) + 4), _numbers, reason="round twice"),
        Example(lambda: Function(lambda x: x.exp().log()), _numbers, reason="overflows"),
        Example(lambda: Function(lambda x: x**3), _numbers, reason="is two"),
        Example(lambda: Function(lambda x: x / 3), _numbers, reason="no exact binary form"),
        Example(lambda: Function(lambda x: torch.logical_not(torch.logical_not(x))), _numbers, reason="truth values"),
    ),
    exactness="bitwise",
)
