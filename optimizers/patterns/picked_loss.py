"""Recognizes negative log-likelihoods by hand: what targets pick from log-probabilities, averaged; with one-hot targets, smoothed labels, masks, weights.

All of these are linear in the log-probabilities: every step between them and the loss holds `pick` times the target's log-probability plus `uniform` times
that of every class, for each element, summed for each row, or summed over all. So a walk from the rows to the loss that keeps the two numbers knows what
the loss is, however it is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from optimizers.patterns.expressions import (
    ADDITIONS,
    PRODUCTS,
    QUOTIENTS,
    forward_readers,
    number,
    operands,
    plus_number,
    times_number,
    value,
)
from optimizers.patterns.gradients import NotWhole, Part, part
from optimizers.patterns.numbering import Numbering, through

aten = torch.ops.aten
MEAN, SUM, IGNORED = 1, 2, -100  # how torch numbers reductions, and its own default of ignore_index
LONGEST = 16  # steps from what is picked to the loss
SPREADS = (aten.unsqueeze.default, aten.view.default, aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.select.int)
SUMS: dict[Any, bool] = {aten.sum.dim_IntList: False, aten.sum.default: False, aten.mean.dim: True, aten.mean.default: True}
ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
FILLS: dict[Any, int] = {aten.full.default: 1, aten.full_like.default: 1, aten.new_full.default: 2}
CLASSES, ELEMENTS, ROWS, LOSS = "a number for each class", "elements", "rows", "loss"


@dataclass(frozen=True)
class Form:
    """What a value is: for CLASSES `uniform + pick · [class is the target]`, else log-probabilities times that, summed as far as the level says.

    Attributes:
        ignored: rows with this target count for nothing.
        weight: each row is multiplied with the weight of its target.
        shared: divided by how many rows count, or by the sum of their weights.
    """

    level: str
    pick: float
    uniform: float
    ignored: int | None = None
    weight: fx.Node | None = None
    shared: bool = False

    def times(self, factor: float) -> Form:
        return replace(self, pick=self.pick * factor, uniform=self.uniform * factor)


@dataclass(frozen=True)
class Loss:
    """`factor` · nll_loss(rows, targets) + `uniform` · the sum of all rows' log-probabilities.

    Attributes:
        part: reads the rows [.., C], the targets [..], and a weight for each class where there is one, and what targets are scattered into.
    """

    part: Part
    factor: float
    uniform: float
    reduction: int
    ignored: int
    weighted: bool


def read_losses(node: fx.Node, numbers: Numbering) -> list[Loss]:
    """The losses that start at a `gather`, an `index`, or a product with one-hot targets: where a part of one is one already, the whole comes first.

    Raises:
        NotWhole: with the reason why it is none.
    """
    if node.target is aten.index.Tensor:
        _refuse_index(node)
        return []
    found = _picked(node) if node.target is aten.gather.default else _multiplied(node)
    walk = _Walk(*found, numbers) if found else None
    return walk.losses(node) if walk and walk.form(node) else []


def _picked(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Rows and targets of `rows.gather(-1, targets[..., None])`."""
    rows, dim, chosen = node.args[:3]
    spread = through(chosen)  # type: ignore[arg-type]
    if not _is_table(rows) or not _is_last(dim, rows) or spread.target not in (aten.unsqueeze.default, aten.view.default):
        return None
    target = through(spread.args[0])  # type: ignore[arg-type]
    lead = value(rows).shape[:-1]  # type: ignore[arg-type]
    return (_unsigned(rows), target) if value(target).shape == lead and value(node).shape == (*lead, 1) else None


def _is_last(dim: Any, rows: Any) -> bool:
    return dim in (-1, value(rows).dim() - 1)


def _unsigned(rows: Any) -> fx.Node:
    """The log-probabilities, where their negatives are read."""
    rows = through(rows)
    return through(rows.args[0]) if rows.target is aten.neg.default else rows  # type: ignore[arg-type]


def _multiplied(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Rows and targets of a product with one-hot targets, smoothed or not."""
    pair = operands(node, PRODUCTS)
    if pair is None or not all(map(_is_table, pair)) or value(pair[0]).shape != value(pair[1]).shape:
        return None
    for rows, classes in (pair, pair[::-1]):
        target = _target_of(classes)
        if target is not None:
            return _unsigned(rows), target
    if any(each.target is aten._log_softmax.default for each in map(_unsigned, pair)) and _is_summed(node):
        raise NotWhole("Its targets are probabilities: every class counts, so nothing is picked, and it stays as it is.")
    return None


def _is_table(node: Any) -> bool:
    return isinstance(node, fx.Node) and isinstance(node.meta.get("val"), Tensor) and value(node).dim() > 1


def _is_summed(node: fx.Node) -> bool:
    return any(reader.target in SUMS or reader.target is aten.neg.default for reader in forward_readers(node))


def _target_of(classes: fx.Node) -> fx.Node | None:
    """The targets that a number for each class is made of, a few steps up."""
    queue = [classes]
    for _ in range(LONGEST):
        if not queue:
            return None
        node = through(queue.pop())
        if node.target is aten.eq.Tensor or node.target is aten.scatter.value:
            spreads = [each for each in node.all_input_nodes if each.target in (aten.unsqueeze.default, aten.view.default)]
            targets = [through(each.args[0]) for each in spreads if value(each).shape == (*value(classes).shape[:-1], 1)]  # type: ignore[arg-type]
            return targets[0] if targets and not value(targets[0]).is_floating_point() else None
        if node.target in (*PRODUCTS, *ADDITIONS, *QUOTIENTS, aten.neg.default, aten._to_copy.default):
            queue.extend(node.all_input_nodes)
    return None


def _refuse_index(node: fx.Node) -> None:
    indices = node.args[1]
    if not isinstance(indices, (list, tuple)) or len(indices) != 2 or not all(isinstance(each, fx.Node) for each in indices):
        return
    first = through(indices[0])  # type: ignore[arg-type]
    if value(node.args[0]).dim() == 2 and first.target is aten.arange.default and value(node.args[0]).is_floating_point():  # type: ignore[arg-type]
        raise NotWhole("Indexing counts negative targets from the end, and the loss ignores or refuses them: the values differ.")


@dataclass
class _Walk:
    """Forms of the values between rows and a loss."""

    rows: fx.Node
    target: fx.Node
    numbers: Numbering
    _known: dict[fx.Node, Form | None] = field(default_factory=dict)
    _filled: dict[fx.Node, None] = field(default_factory=dict)  # of which only shapes and numbers matter

    @property
    def count(self) -> int:
        return math.prod(value(self.rows).shape[:-1])

    @property
    def classes(self) -> int:
        return value(self.rows).shape[-1]

    def losses(self, start: fx.Node) -> list[Loss]:
        """Follows what is picked to where it is a mean of negatives, and further, since another term may come in."""
        output, found, reason = start, [], "What the targets pick is not averaged."
        for _ in range(LONGEST):
            form = self.form(output)
            if form is None:
                reason = f"What the targets pick goes into {output.name}, not into the mean of its negative."
                break
            if form.level == LOSS and form.pick < 0:
                found.append((output, form))
            readers = [reader for reader in forward_readers(output) if reader.op != "output"]
            if len(readers) != 1:
                reason = f"What the targets pick goes into {output.name}, not into the mean of its negative."
                if form.level != LOSS:
                    reason = f"{output.name} is read by {len(readers)} others, not by one mean."
                break
            output = readers[0]
        if not found:
            raise NotWhole(reason)
        means = [each for each in found if self._is_mean(each[1])]
        return [self._checked(*each) for each in (means[::-1] or found[:1])]

    def _is_mean(self, form: Form) -> bool:
        if form.ignored is not None or form.weight is not None:
            return form.shared
        return math.isclose((form.pick + form.uniform * self.classes) * self.count, -1, rel_tol=1e-6)

    def _checked(self, output: fx.Node, form: Form) -> Loss:
        if form.uniform and (form.ignored is not None or form.weight is not None):
            raise NotWhole("Its labels are smoothed and its rows masked or weighted: only one of the two is known.")
        if form.uniform and value(self.rows).dtype is torch.float16:
            raise NotWhole("Its labels are smoothed, and the sum over all classes may be more than float16 holds.")
        plain = form.ignored is None and form.weight is None
        mean = form.shared or (plain and not math.isclose(form.pick, -1))
        factor = -form.pick * (self.count if plain and mean else 1)
        inputs = [self.rows, self.target, *([form.weight] if form.weight else []), *self._filled]
        ignored = IGNORED if form.ignored is None else form.ignored
        return Loss(part(output, *inputs), factor, form.uniform, MEAN if mean else SUM, ignored, form.weight is not None)

    def form(self, node: Any) -> Form | None:
        if not isinstance(node, fx.Node):
            return None
        node = through(node)
        if node not in self._known:
            self._known[node] = None  # until it is known
            self._known[node] = self._read(node)
        return self._known[node]

    def _read(self, node: fx.Node) -> Form | None:
        if self.numbers.same(node, self.rows):
            return Form(ELEMENTS, 0.0, 1.0)
        if node.target is aten.neg.default:
            form = self.form(node.args[0])
            return form.times(-1) if form else None
        if node.target in SUMS:
            return self._summed(node)
        if node.target in SPREADS:
            form = self.form(node.args[0])
            kept = form and form.level in (ROWS, LOSS) and value(node).numel() == value(node.args[0]).numel()  # type: ignore[arg-type]
            return form if kept else None
        readings: dict[Any, Callable[[fx.Node], Form | None]] = {
            aten.gather.default: self._gathered,
            aten.eq.Tensor: self._one_hot,
            aten.scatter.value: self._scattered,
            aten._to_copy.default: self._cast,
            aten.masked_fill.Scalar: self._masked,
            aten.where.self: self._masked,
        }
        return readings.get(node.target, self._combined)(node)

    def _summed(self, node: fx.Node) -> Form | None:
        form = self.form(node.args[0])
        if form is None or form.level in (CLASSES, LOSS) or node.kwargs:
            return None
        shape = value(node.args[0]).shape  # type: ignore[arg-type]
        dims = node.args[1] if len(node.args) > 1 else list(range(len(shape)))
        dims = {dim % len(shape) for dim in dims}  # type: ignore[operator, union-attr]
        over = math.prod(shape[dim] for dim in dims)
        if not over:
            return None  # nothing is summed
        if over == math.prod(shape):
            level = LOSS
        elif form.level == ELEMENTS and dims == {len(shape) - 1}:
            level = ROWS
        else:
            return None
        return replace(form.times(1 / over if SUMS[node.target] else 1), level=level)

    def _gathered(self, node: fx.Node) -> Form | None:
        form = self.form(node.args[0])
        if (
            form is None
            or form.level != ELEMENTS
            or form.pick
            or not _is_last(node.args[1], self.rows)
            or not self._shows_target(node.args[2])
        ):
            return None
        return Form(ROWS, form.uniform, 0.0)

    def _shows_target(self, node: Any) -> bool:
        """Is it the targets as a column?"""
        node = through(node)
        if node.target not in (aten.unsqueeze.default, aten.view.default) or value(node).shape != (*value(self.rows).shape[:-1], 1):
            return False
        return self.numbers.same(through(node.args[0]), self.target)

    def _one_hot(self, node: fx.Node) -> Form | None:
        for column, numbers in (node.args, node.args[::-1]):
            numbers = through(numbers)  # type: ignore[arg-type]
            if numbers.target is aten.arange.default and numbers.args == (self.classes,) and self._shows_target(column):
                if not _is_guarded(self.target, self.classes):
                    raise NotWhole("Compared with all classes, a target that is none of them counts for nothing; the kernel refuses it.")
                return Form(CLASSES, 1.0, 0.0)
        return None

    def _scattered(self, node: fx.Node) -> Form | None:
        filled, put = through(node.args[0]), number(node.args[3])  # type: ignore[arg-type]
        base = 0.0 if filled.target in ZEROS else number(filled.args[FILLS[filled.target]]) if filled.target in FILLS else None
        if base is None or put is None or not _is_last(node.args[1], node) or not self._shows_target(node.args[2]):
            return None
        self._filled[filled] = None
        return Form(CLASSES, put - base, base) if value(node).shape == value(self.rows).shape else None

    def _cast(self, node: fx.Node) -> Form | None:
        form = self.form(node.args[0])
        return form if form and form.level == CLASSES and value(node).device == value(node.args[0]).device else None  # type: ignore[arg-type]

    def _masked(self, node: fx.Node) -> Form | None:
        """Rows set to 0 where the target is ignored."""
        if node.target is aten.where.self:
            condition, row, other = node.args
            ignored = self._ignored(condition, kept=True)
        else:
            row, condition, other = node.args
            ignored = self._ignored(condition, kept=False)
        return self._without(row, ignored) if number(other) == 0 or _is_zero(other) else None

    def _without(self, row: Any, ignored: int | None) -> Form | None:
        form = self.form(row)
        if form is None or form.level != ROWS or ignored is None or form.ignored not in (None, ignored):
            return None
        return replace(form, ignored=ignored)

    def _ignored(self, mask: Any, kept: bool) -> int | None:
        """The target that a mask of rows is about: true where rows are kept, or where they are not."""
        if not isinstance(mask, fx.Node):
            return None
        mask = through(mask)
        if mask.target in (aten._to_copy.default, *SPREADS):
            return self._ignored(mask.args[0], kept)
        if mask.target in (aten.bitwise_not.default, aten.logical_not.default):
            return self._ignored(mask.args[0], not kept)
        wanted = aten.ne.Scalar if kept else aten.eq.Scalar
        of_target = mask.target is wanted and self.numbers.same(through(mask.args[0]), self.target)  # type: ignore[arg-type]
        return mask.args[1] if of_target and isinstance(mask.args[1], int) else None  # type: ignore[return-value]

    def _weights(self, node: Any) -> fx.Node | None:
        """w of w[targets]."""
        node = through(node) if isinstance(node, fx.Node) else None
        if node is None or node.target not in (aten.index.Tensor, aten.gather.default, aten.index_select.default):
            return None
        held = through(node.args[0])  # type: ignore[arg-type]
        chosen = node.args[1][0] if node.target is aten.index.Tensor and len(node.args[1]) == 1 else node.args[-1]  # type: ignore[arg-type, index]
        if value(held).shape != (self.classes,) or not isinstance(chosen, fx.Node) or value(held).dtype != value(self.rows).dtype:
            return None
        return held if self.numbers.same(through(chosen), self.target) else None

    def _combined(self, node: fx.Node) -> Form | None:
        """Sums, differences, and products with numbers, masks, weights, or a number for each class."""
        scaled = times_number(node)
        if scaled:
            form = self.form(scaled[0])
            return form.times(scaled[1]) if form else None
        added = plus_number(node)
        if added:
            form = self.form(added[0])
            return replace(form, uniform=form.uniform + added[1]) if form and form.level == CLASSES else None
        for targets, sign in ((ADDITIONS, 1), ((aten.sub.Tensor,), -1)):
            pair = operands(node, targets)
            if pair:
                return self._added(node, self.form(pair[0]), self.form(pair[1]), sign)
        pair = operands(node, QUOTIENTS)
        if pair:
            return self._divided(*pair)
        pair = operands(node, PRODUCTS)
        return self._product(node, *pair) or self._product(node, *pair[::-1]) if pair else None

    def _added(self, node: fx.Node, one: Form | None, other: Form | None, sign: int) -> Form | None:
        if one is None or other is None or replace(one, pick=0.0, uniform=0.0) != replace(other, pick=0.0, uniform=0.0):
            return None
        if any(value(read).shape.numel() != value(node).numel() for read in node.all_input_nodes):
            return None  # a row of numbers and a column make a table
        return replace(one, pick=one.pick + sign * other.pick, uniform=one.uniform + sign * other.uniform)

    def _product(self, node: fx.Node, one: Any, other: Any) -> Form | None:
        form, second = self.form(one), self.form(other)
        if form is None or value(node).shape.numel() != value(one).numel():
            return None
        if form.level == ELEMENTS and not form.pick and second and second.level == CLASSES:
            return Form(ELEMENTS, form.uniform * second.pick, form.uniform * second.uniform)
        if form.level != ROWS or second is not None:
            return None
        ignored, weight = self._ignored(other, kept=True), self._weights(other)
        if ignored is not None:
            return self._without(one, ignored)
        return replace(form, weight=weight) if weight is not None and form.weight is None else None

    def _divided(self, one: Any, other: Any) -> Form | None:
        """A sum over rows, by how many of them count, or by their weights."""
        form = self.form(one)
        total = through(other) if isinstance(other, fx.Node) else None
        while total is not None and total.target is aten._to_copy.default:
            total = through(total.args[0])  # type: ignore[arg-type]
        if form is None or form.level != LOSS or form.shared or total is None or total.target is not aten.sum.default:
            return None
        counted = total.args[0]
        if form.weight is not None:
            same = form.ignored is None and self._weights(counted) is form.weight
        else:
            same = form.ignored is not None and self._ignored(counted, kept=True) == form.ignored
        return replace(form, shared=True) if same else None


def _is_zero(node: Any) -> bool:
    return isinstance(node, fx.Node) and through(node).target in ZEROS


def _is_guarded(target: fx.Node, classes: int) -> bool:
    """Does the graph assert that every target is one of the classes?"""
    asserted = set()
    for check in target.users:
        for every in check.users if check.target in (aten.ge.Scalar, aten.lt.Scalar) else ():
            if every.target is aten.all.default and any(user.target is aten._assert_async.msg for user in every.users):
                asserted.add((check.target, check.args[1]))
    return {(aten.ge.Scalar, 0), (aten.lt.Scalar, classes)} <= asserted
