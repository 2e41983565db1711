"""A training graph as a recomputation problem: operators in order, the storages that each reads and makes, and what running one again costs.

Views are not operators here: who reads a view reads its storage. Results of several parts are one operator that makes several storages.
Parameters, inputs and constants are there anyway, so they are no storages. What a forward operator made can be forgotten at the end
of the forward pass and made again when backward needs it, unless it is a random draw, an output of the graph, or made by what runs a
body of its own.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from graphs.bodies import bodies
from graphs.cost import cost, is_view, value_bytes
from graphs.host import is_on_host
from graphs.in_place import written_operand
from graphs.randomness import is_random
from graphs.record import Cost
from graphs.regions import Prepared
from graphs.unseen import unseen_bytes
from optimizers.planning.profit import MACHINES, Machine

FORWARD = ("forward", "loss")
NANOSECONDS = 1e9
RANDOM = "It draws random numbers: what it draws is kept, since a second draw would differ."
OUTPUT = "It is an output of the graph, so it is there anyway."
BODIES = "It runs a graph of its own, which is not run again here."
DROPOUT = torch.ops.aten.native_dropout.default


@dataclass(frozen=True)
class Operator:
    """One operator.

    Attributes:
        reads, writes: indices of storages.
        reads_again, writes_again: the same for running it again; `writes_again` is empty where it cannot.
        temporary, temporary_again: bytes that are there only while it runs, or runs again: results that nobody reads.
        cost: of running it again, in whatever unit the plan is to save: nanoseconds (predicted) or operations (counted).
        alike: operators of repeated blocks that stand for one another have the same text.
        heavy: it multiplies matrices, convolves or attends.
        why_kept: where it cannot run again, one sentence for the reader.
    """

    name: str
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    cost: int
    temporary: int = 0
    temporary_again: int = 0
    reads_again: tuple[int, ...] = ()
    writes_again: tuple[int, ...] = ()
    alike: str = ""
    heavy: bool = False
    why_kept: str = ""


@dataclass(frozen=True, eq=False)
class Problem:
    """Operators in order; from `backward` on they are backward's.

    Attributes:
        sizes: bytes of each storage; kept: which live to the end.
        unit: of costs: time (predicted nanoseconds) or operations (counted).
        nodes: of the operators; storage: of the nodes that own memory, their storage. Both are empty for a problem without a graph.
    """

    operators: tuple[Operator, ...]
    sizes: tuple[int, ...]
    kept: tuple[bool, ...]
    backward: int
    unit: str = "operations"
    nodes: tuple[fx.Node, ...] = ()
    storage: Mapping[fx.Node, int] = field(default_factory=dict)

    @property
    def choices(self) -> list[int]:
        """Operators whose results can be forgotten."""
        return [index for index, one in enumerate(self.operators[: self.backward]) if one.writes_again]


def problem_of(gm: fx.GraphModule, device: str, unit: str = "time") -> Problem:
    """The problem of a joint graph.

    Args:
        unit: of costs: "time" (predicted nanoseconds on a machine of the device's class) or "operations" (counted, matmuls and all else).
    """
    return _Reader(MACHINES.get(device, MACHINES["cpu"]), unit).read(gm)


def in_copy(problem: Problem, original: fx.GraphModule, copy: fx.GraphModule) -> Problem:
    """The problem of a graph, of a copy of that graph with the same nodes in the same order."""
    twin = dict(zip(original.graph.nodes, copy.graph.nodes, strict=True))
    nodes = tuple(twin[node] for node in problem.nodes)
    return replace(problem, nodes=nodes, storage={twin[node]: at for node, at in problem.storage.items()})


def device_of(gm: fx.GraphModule) -> str:
    """cpu or cuda: where the graph's values are."""
    value = next((node.meta["val"] for node in gm.graph.nodes if isinstance(node.meta.get("val"), Tensor)), None)
    return "cpu" if value is None else value.device.type


@dataclass
class _Reader:
    machine: Machine
    unit: str
    index: dict[fx.Node, int] = field(default_factory=dict)  # of a storage, by the node that owns it
    owner: dict[fx.Node, fx.Node] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)

    def read(self, gm: fx.GraphModule) -> Problem:
        self.owner = owners(gm)
        computing = [node for node, owner in self.owner.items() if _computes(node, owner)]
        outputs = gm.graph.output_node().all_input_nodes
        kept = {self.owner[node] for node in outputs if node in self.owner}
        backward = next((at for at, node in enumerate(computing) if _phase(node) not in FORWARD), len(computing))
        labels = alike(computing)
        operators = [
            self._operator(node, at < backward, kept, label) for at, (node, label) in enumerate(zip(computing, labels, strict=True))
        ]
        ends = [False] * len(self.sizes)
        for node in kept:
            if node in self.index:
                ends[self.index[node]] = True
        return Problem(tuple(operators), tuple(self.sizes), tuple(ends), backward, self.unit, tuple(computing), self.index)

    def _operator(self, node: fx.Node, forward: bool, kept: set[fx.Node], label: str) -> Operator:
        reads = self._storages(node.all_input_nodes)
        parts = [user for user in node.users if user.target is operator.getitem]
        made = parts if isinstance(node.meta.get("val"), tuple | list) else [node]
        whole = value_bytes(node.meta.get("val")) + unseen_bytes(node)
        if is_on_host(node) or written_operand(node) is not None:
            return Operator(
                node.name, reads, (), self._price(cost(node)), alike=label
            )  # what it makes is in the host's memory, or an input's
        writes = tuple(self._new(one) for one in made if value_bytes(one.meta.get("val")))
        temporary = whole - sum(self.sizes[one] for one in writes)
        price = self._price(cost(node))
        stays = {self.index[one] for one in made if one in kept and one in self.index}  # an output of the graph lives on anyway
        again = tuple(one for one in writes if one not in stays)
        if not forward or not again or bodies(node):
            why = OUTPUT if stays else BODIES if bodies(node) else ""
            return Operator(node.name, reads, writes, price, temporary, alike=label, why_kept=why)
        if node.target is DROPOUT and not stays:
            return self._dropout(node, reads, writes, temporary, label)
        if is_random(node):
            return Operator(node.name, reads, writes, price, temporary, alike=label, why_kept=RANDOM)
        wasted = temporary + sum(self.sizes[one] for one in stays)
        return Operator(node.name, reads, writes, price, temporary, wasted, reads, again, label, cost(node).matmul_flops > 0)

    def _dropout(self, node: fx.Node, reads: tuple[int, ...], writes: tuple[int, ...], temporary: int, label: str) -> Operator:
        """Its mask is drawn once and kept; the result is made again from mask and operand."""
        parts = {user.args[1]: self.index[user] for user in node.users if user in self.index}
        size = value_bytes(node.all_input_nodes[0].meta["val"])
        price = self._price(Cost(2 * size // 4, 0, 2 * size + size // 4, 2 * size, 2))
        if set(parts) != {0, 1}:
            return Operator(node.name, reads, writes, price, temporary, alike=label, why_kept=RANDOM)
        again = ((*reads, parts[1]), (parts[0],))
        return Operator(node.name, reads, writes, price, temporary, size, *again, label, why_kept=RANDOM)

    def _storages(self, nodes: Sequence[fx.Node]) -> tuple[int, ...]:
        owners = (self.owner[node] for node in nodes if node in self.owner)
        found = (
            part
            for owner in owners
            for part in ([owner] if owner in self.index else [user for user in owner.users if user in self.index and _is_part(user)])
        )
        return tuple(dict.fromkeys(self.index[one] for one in found))

    def _new(self, node: fx.Node) -> int:
        self.index[node] = len(self.sizes)
        self.sizes.append(value_bytes(node.meta["val"]) + unseen_bytes(node))
        return self.index[node]

    def _price(self, one: Cost) -> int:
        return one.flops if self.unit == "operations" else round(NANOSECONDS * self.machine.seconds(one))


def _computes(node: fx.Node, owner: fx.Node) -> bool:
    return node is owner and not _is_part(node) or written_operand(node) is not None


def _is_part(node: fx.Node) -> bool:
    return node.target is operator.getitem


def owners(gm: fx.GraphModule) -> dict[fx.Node, fx.Node]:
    """Of every node that holds memory made by the graph, the node that owns it: itself, the part of a result, or what it is a view of or writes over."""
    found: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        if node.op != "call_function" or isinstance(node.target, Prepared):
            continue
        read = node.all_input_nodes[0] if node.all_input_nodes else None
        part = node.target is operator.getitem
        written = written_operand(node)
        if written is not None:
            known: fx.Node = found.get(written) or node
            found[node] = known
        elif read is not None and (is_view(node.target) or (part and (is_view(read.target) or isinstance(read.target, Prepared)))):
            if read in found:
                found[node] = found[read]
        else:
            found[node] = node
    return found


def _phase(node: fx.Node) -> str:
    return node.meta["origin"].phase


def alike(nodes: Sequence[fx.Node]) -> list[str]:
    """For each node a text that its counterparts in other blocks share: module path without numbers, target, and place among those of its module."""
    places: dict[Any, int] = {}
    found = []
    for node in nodes:
        key = (node.meta["origin"].module, str(node.target), _phase(node))
        places[key] = places.get(key, -1) + 1
        found.append(f"{re.sub(r'[0-9]+', '#', key[0])} {key[1]} {places[key]} {value_bytes(node.meta.get('val'))}")
    return found
