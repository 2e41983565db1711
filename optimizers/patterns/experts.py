"""Recognizes experts: equal layers in equal order that read one value, or each its own slice of one.

Every value between the first layer and the last gets a form: what is done to the input to come there, whatever the weights. Last layers
of one form are experts. Forms are built once for each node from those of its operands, so a deep model costs no more than a walk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from graphs.cost import is_pointwise
from optimizers.base import phase_of, value_of
from optimizers.patterns.expressions import is_float_cast
from optimizers.patterns.gradients import NotWhole, Part, part
from optimizers.patterns.numbering import Numbering, through
from optimizers.patterns.slices import place, slices_of_one

aten = torch.ops.aten
PRODUCTS = (aten.mm.default, aten.addmm.default)
VIEWS = (aten.view.default, aten._unsafe_view.default)
Row = tuple[fx.Node, ...]


@dataclass(frozen=True)
class Experts:
    """Equal experts, in the order of the slices where each has its own.

    Attributes:
        rows: every operator of an expert, views aside, in execution order: one node of every expert in each row; the last row are the results.
        first: for each expert, the layers that read its input.
        own: does each expert see its own slice of one value?
        layers: how many layers stand behind one another.
    """

    rows: tuple[Row, ...]
    first: tuple[Row, ...]
    own: bool
    layers: int

    @property
    def ends(self) -> Row:
        return self.rows[-1]

    @property
    def operands(self) -> list[Row]:
        """For each expert, what its first layers multiply, as the graph is now."""
        return [tuple(map(operand, layers)) for layers in self.first]

    @property
    def products(self) -> list[Row]:
        return [row for row in self.rows if row[0].target in PRODUCTS]

    def parts(self, sources: Sequence[fx.Node]) -> list[Part]:
        """Each expert as a part: it reads its source, then weights, then biases, then symbolic sizes.

        Raises:
            NotWhole: with the reason why one is none.
        """
        found = []
        for at, (end, source) in enumerate(zip(self.ends, sources, strict=True)):
            layers = [row[at] for row in self.products]
            inputs = [source, *(held(layer)[0] for layer in layers), *(each for layer in layers for each in bias(layer))]
            if len(set(inputs)) < len(inputs):
                raise NotWhole("One weight serves two layers of an expert.")
            found.append(part(end, *inputs, *_sizes(end, inputs)))
        return found

    def sources(self) -> list[Row]:
        """What each expert reads, before views and casts of its own; the same node for all where they see the same. There may be several
        such nodes, one a view of another: the gradients of the experts are summed at one of them.

        Raises:
            NotWhole: an expert reads copies of its input.
        """
        chains = [[_chain(operand) for operand in operands] for operands in self.operands]
        everyone = [chain for each in chains for chain in each]
        common = [[node for node in each[0] if all(node in chain for chain in (each if self.own else everyone))] for each in chains]
        if not all(common):
            raise NotWhole("Experts read copies of their input, which are not views of one tensor.")
        return list(zip(*common, strict=False))


def _sizes(end: fx.Node, inputs: Sequence[fx.Node]) -> list[fx.Node]:
    """Numbers of the graph that views between inputs and the end read."""
    seen, queue, found = set(inputs), [end], []
    while queue:
        node = queue.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(node.meta.get("val"), int):
            found.append(node)
        else:
            queue.extend(node.all_input_nodes)
    return sorted(found)


def _chain(operand: fx.Node) -> list[fx.Node]:
    """The operand, what it is a view or a cast of, and so on."""
    found = [operand]
    while found[-1].target in VIEWS or is_float_cast(found[-1]):
        found.append(through(found[-1].args[0]))  # type: ignore[arg-type]
    return found


def operand(product: fx.Node) -> fx.Node:
    """What a layer multiplies its weight with."""
    return through(product.args[-2])  # type: ignore[arg-type]


def held(product: fx.Node) -> tuple[fx.Node, bool]:
    """The weight, and whether the layer reads it transposed."""
    node = through(product.args[-1])  # type: ignore[arg-type]
    return (through(node.args[0]), True) if node.target is aten.t.default else (node, False)  # type: ignore[arg-type]


def bias(product: fx.Node) -> list[fx.Node]:
    """The bias, where the layer has one."""
    return [through(each) for each in product.args[:-2]]  # type: ignore[arg-type]


def behind_views(node: fx.Node) -> fx.Node:
    """The value before views that keep the last dimension."""
    node = through(node)
    while _keeps_last(node):
        node = through(node.args[0])  # type: ignore[arg-type]
    return node


def is_layer(node: fx.Node) -> bool:
    """A product of rows with a matrix, with a vector added or none, in the forward pass."""
    if node.target not in PRODUCTS or node.kwargs or phase_of(node) not in ("forward", "loss"):
        return False
    return all(value_of(each).dim() == 1 for each in bias(node))


def _is_elementwise(node: fx.Node) -> bool:
    return is_pointwise(node.target) and bool(node.all_input_nodes) and not node.target._schema.is_mutable  # type: ignore[union-attr]


def _keeps_last(node: fx.Node) -> bool:
    return node.target in VIEWS and value_of(node).shape[-1:] == value_of(node.args[0]).shape[-1:]  # type: ignore[arg-type]


@dataclass
class Reader:
    """Reads the experts of one graph.

    Attributes:
        first: layers by what they read and their shape.
        forms: node -> input -> (form, layers so far).
    """

    numbers: Numbering
    first: dict[Hashable, list[fx.Node]] = field(default_factory=lambda: defaultdict(list))
    forms: dict[fx.Node, dict[Hashable, tuple[int, int]]] = field(default_factory=dict)
    _known: dict[Hashable, int] = field(default_factory=dict)

    def read(self, graph: fx.Graph) -> Iterator[Experts | tuple[fx.Node, str]]:
        """All experts, the deepest first; and where layers of equal shape read one value and are none, the first of them with the reason."""
        for node in graph.nodes:
            if is_layer(node):
                self.first[self._input(operand(node)), *_shape(node)].append(node)
        seen = {key[0] for key, nodes in self.first.items() if len(nodes) > 1}  # type: ignore[index]
        for node in graph.nodes:
            if node.op == "call_function" and phase_of(node) in ("forward", "loss"):
                self.forms[node] = self._forms_of(node, seen)
        taken: set[fx.Node] = set()
        for source, layers, ends in self._groups():
            members = self._apart(source, ends, taken)
            if len(members) > 1:
                taken.update(node for inside, _ in members for node in inside)
                yield self._experts(source, members, layers)
        for nodes in self.first.values():
            if len(nodes) > 1 and not taken.intersection(nodes):
                name = operand(nodes[0]).name
                yield (
                    nodes[0],
                    f"{len(nodes)} products read {name}, but they are not followed by equal operators up to a second product.",
                )

    def _input(self, node: fx.Node) -> Hashable:
        """What a layer reads: a value, or some slice of one; a view or a cast that every expert makes anew is one value."""
        found, shape = place(node), tuple(value_of(node).shape)
        if found is not None:
            return "a slice", self.numbers.of(found[0]), found[1], found[2], shape
        return "a value", self.numbers.of(behind_views(node)), shape

    def _forms_of(self, node: fx.Node, seen: set[Hashable]) -> dict[Hashable, tuple[int, int]]:
        if node.target in VIEWS:
            return self.forms.get(behind_views(node), {}) if _keeps_last(node) else {}
        if is_layer(node):
            source, above = self._input(operand(node)), self.forms.get(behind_views(operand(node)), {})
            found = {key: (self._number(_shape(node), form), layers + 1) for key, (form, layers) in above.items()}
            return found | ({source: (self._number(_shape(node), "the input"), 1)} if source in seen else {})
        if not _is_elementwise(node):
            return {}
        reads = [self.forms.get(through(read), {}) for read in node.all_input_nodes]
        alike = all(value_of(read).shape == value_of(node).shape for read in node.all_input_nodes)
        keys = set(reads[0]).intersection(*reads[1:]) if alike else ()
        return {key: (self._number(*self._written(node, key)), max(read[key][1] for read in reads)) for key in keys}

    def _written(self, node: fx.Node, key: Hashable) -> tuple[Hashable, ...]:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: f"form {self.forms[through(read)][key][0]}")  # type: ignore[misc]
        return node.target, str(args), str(kwargs), value_of(node).dtype  # type: ignore[return-value]

    def _number(self, *form: Hashable) -> int:
        return self._known.setdefault(form, len(self._known))

    def _groups(self) -> list[tuple[Hashable, int, list[fx.Node]]]:
        """(input, layers, last layers) of equal forms, the deepest first."""
        found: dict[Hashable, list[fx.Node]] = defaultdict(list)
        for node, forms in self.forms.items():
            for source, (form, layers) in forms.items() if node.target in PRODUCTS else ():
                if layers > 1:
                    found[source, layers, form].append(node)
        groups = [(key[0], key[1], ends) for key, ends in found.items()]  # type: ignore[index]
        return sorted(groups, key=lambda group: -group[1])

    def _apart(self, source: Hashable, ends: Sequence[fx.Node], taken: set[fx.Node]) -> list[tuple[set[fx.Node], fx.Node]]:
        """Those experts that share no node with one another."""
        found: list[tuple[set[fx.Node], fx.Node]] = []
        used = set(taken)
        for end in ends:
            inside = self._inside(source, end)
            if not inside & used:
                found.append((inside, end))
                used |= inside
        return found

    def _inside(self, source: Hashable, end: fx.Node) -> set[fx.Node]:
        """What stands between the input and a last layer, views aside."""
        inside, queue = set(), [end]
        while queue:
            node = queue.pop()
            if node not in inside:
                inside.add(node)
                queue.extend(self._reads(source, node))
        return inside

    def _reads(self, source: Hashable, node: fx.Node) -> list[fx.Node]:
        """The operands inside of the expert, behind views."""
        if node.target not in PRODUCTS:
            return [behind_views(read) for read in node.all_input_nodes]
        return [] if self._input(operand(node)) == source else [behind_views(operand(node))]

    def _experts(self, source: Hashable, members: Sequence[tuple[set[fx.Node], fx.Node]], layers: int) -> Experts | tuple[fx.Node, str]:
        first = [
            tuple(node for node in sorted(inside) if node.target in PRODUCTS and not self._reads(source, node)) for inside, _ in members
        ]
        places = [{found[3] for node in each if (found := place(operand(node)))} for each in first]
        own = len(set().union(*places)) > 1
        order = sorted(range(len(members)), key=lambda at: min(places[at], default=0))
        slices = slices_of_one([operand(first[at][0]) for at in order]) if own else None
        if own and (slices is None or any(len(each) > 1 for each in places)):
            return members[0][1], "Each expert reads a part of one tensor, but together they are not its slices, one for each."
        rows = self._rows(source, tuple(members[at][1] for at in order))
        return Experts(rows, tuple(first[at] for at in order), own, layers)

    def _rows(self, source: Hashable, ends: Row) -> tuple[Row, ...]:
        """The operators of all experts, walked up at once."""
        rows, queue = set(), [ends]
        while queue:
            row = queue.pop()
            if row not in rows:
                rows.add(row)
                queue.extend(zip(*(self._reads(source, node) for node in row), strict=True))
        return tuple(sorted(rows, key=lambda row: row[0]))


def _shape(layer: fx.Node) -> tuple[Any, ...]:
    read = (value_of(each) for each in (layer, operand(layer), layer.args[-1]))  # type: ignore[arg-type]
    return layer.target, held(layer)[1], *((tuple(value.shape), value.dtype) for value in read)
