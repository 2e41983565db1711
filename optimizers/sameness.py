"""Proof that a rewritten graph gives the same bits, without running it: value numbering over the graph before and the graph after.

Every node gets a number that stands for its operator, the numbers of its operands, its constants to the last bit, and the shape, strides, dtype and
device of its result. Nodes with equal numbers, of whichever graph, compute the same on the same: equal bits, where the operator gives the same bits each
time (`graphs/determinism`). A rewrite is proven where every node of the graph after has the number of a node before, and the outputs have the same
numbers, position by position. That is what recomputation and other orders leave behind; whatever computes a value another way is left to running.

What is not a function of its operands gets a number of its own:

- A *random draw* is its place in the order of draws as well. Both graphs must draw the same, in the same order, each draw once.
- An operator that gives *other bits each time* is the same value only once: a graph that runs it again is refused.
- *Writing into memory* is refused, for what a reader reads then depends on when it reads; so is what may write without saying so. Only an elementwise operator in place, into
  memory that the graph made and that nobody reads later but through its result, is read as its twin out of place (`sameness_memory`).

Aliases are looked through, for what they show never changes. Outputs must share memory with one another and with inputs where they did before.

One value is known in two forms. Dropout's result is made again from its mask as `x * mask * scale`; torch's kernel for CPUs draws the mask and then calls
these two multiplications itself, for every dtype, so the bits are equal. The kernel for CUDA multiplies in one go and rounds the scale another way: there the
rule does not hold, and running decides. The scale is the kernel's own (`dropout_scale`). Nothing here knows how any optimization rewrites, or why.
"""

from __future__ import annotations

import operator
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from graphs.bodies import bodies, held_graph, kind_of
from graphs.determinism import OWN, repeats
from graphs.program import Program
from graphs.randomness import dropout_scale, is_random
from graphs.regions import region_of
from optimizers.sameness_memory import Aliases, Owner, owner

aten = torch.ops.aten
DROPOUT = aten.native_dropout.default
COMMUTE = (aten.add.Tensor, aten.mul.Tensor)
ALIASES = (aten.detach.default, aten.alias.default)
ON_SIZES = (operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.mod, operator.neg)
BODIED = (
    "cond",
    "while_loop",
    "while_loop_stack_output",
    "scan",
    "map_impl",
    "associative_scan",
    "flex_attention",
    "flex_attention_backward",
)
SECRETLY = ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "batch_norm", "_batch_norm_impl_index", "instance_norm")
TYPES = (torch.dtype, torch.device, torch.layout, torch.memory_format)
PROVEN = "proven without running: each operator computes what one of the graph before computes, on the same values, and each draw is the same draw"


@dataclass(frozen=True)
class Sameness:
    """Are two programs equal to the bit? `reason` says why, or what keeps it from being proven; unproven is not refuted."""

    proven: bool
    reason: str


class _DoubtError(Exception):
    """Why nothing can be proven; told as a reason."""


def prove(before: Program, after: Program) -> Sameness:
    """Does the program after give the bits of the one before, whatever its inputs?"""
    return Prover(before).prove(after)


class Prover:
    """Proves any number of programs equal to one; that one is read once."""

    def __init__(self, before: Program) -> None:
        self._program, self._numbers = before, _Numbers(before.device)
        self._doubt = ""
        try:
            self._before = _read(before, self._numbers)
        except _DoubtError as doubt:
            self._doubt = f"the graph before: {doubt}"

    def prove(self, after: Program) -> Sameness:
        """Is it equal to the bit?"""
        if self._doubt:
            return Sameness(False, self._doubt)
        if (after.inputs, after.outputs, after.device) != (self._program.inputs, self._program.outputs, self._program.device):
            return Sameness(False, "inputs, outputs or device are not the same")
        try:
            _compare(self._before, _read(after, self._numbers))
        except _DoubtError as doubt:
            return Sameness(False, str(doubt))
        return Sameness(True, PROVEN)


@dataclass
class _Values:
    """What one graph computes.

    Attributes:
        number: of each node; `draws`: the numbers of random draws in their order.
        ran: how often each operator that gives other bits each time ran so far.
        masks: the number of a dropout's mask -> the dropout; `remade`: results of dropouts that were made again from a mask.
    """

    program: Program
    number: dict[fx.Node, int] = field(default_factory=dict)
    draws: list[int] = field(default_factory=list)
    ran: dict[Hashable, int] = field(default_factory=dict)
    masks: dict[int, fx.Node] = field(default_factory=dict)
    remade: set[fx.Node] = field(default_factory=set)


class _Numbers:
    """Numbers for keys, the same in all graphs that it reads."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._known: dict[Hashable, int] = {}
        self._objects: dict[int, object] = {}  # what is told apart by identity stays alive, else another object might get its identity

    def of(self, key: Hashable) -> int:
        return self._known.setdefault(key, len(self._known))

    def identity(self, held: object) -> int:
        self._objects[id(held)] = held
        return id(held)


def _read(program: Program, numbers: _Numbers) -> _Values:
    """Numbers for every node of a graph, in the order in which it runs.

    Raises:
        _DoubtError: an operator may do more than compute its result, or an argument cannot be compared.
    """
    found, inputs = _Values(program), 0
    aliases = Aliases(program.gm.graph)
    for node in program.gm.graph.nodes:
        if node.op == "placeholder":
            found.number[node] = numbers.of(("input", inputs, _form(node)))
            inputs += 1
        elif node.op == "get_attr":
            found.number[node] = numbers.of(("constant", _constant(node, numbers), _form(node)))
        elif node.op != "output":
            found.number[node] = _computed(node, _computes(node, aliases), found, numbers)
    return found


def _computes(node: fx.Node, aliases: Aliases) -> Any:
    """The operator that the node is to be read as: itself, or of one in place its twin out of place.

    Raises:
        _DoubtError: it may do more than compute its result.
    """
    if isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable:
        found, doubt = aliases.twin(node)
        if found is None:
            raise _DoubtError(f"`{node.name}` ({node.target}) {doubt}")
        return found
    _check_pure(node)
    return node.target


def _computed(node: fx.Node, target: Any, found: _Values, numbers: _Numbers) -> int:
    """The number of what an operator computes."""
    if node.target in ALIASES and _form(node) == _form(node.all_input_nodes[0]):
        return found.number[node.all_input_nodes[0]]
    drawn = _remade_dropout(node, found, numbers.device)
    if drawn is not None:
        found.remade.add(node)
        return numbers.of(_key(operator.getitem, (drawn, 0), {}, _form(node), found.number))
    key = _key(target, _in_order(target, node, found.number), node.kwargs, _form(node), found.number)
    if is_random(node):
        found.draws.append(numbers.of(("draw", len(found.draws), key)))
        return found.draws[-1]
    if not repeats(node, numbers.device):
        found.ran[key] = found.ran.get(key, 0) + 1
        return numbers.of(("run", found.ran[key], key))
    read = node.all_input_nodes
    if node.target is operator.getitem and read and read[0].target is DROPOUT and node.args[1] == 1:
        found.masks[numbers.of(key)] = read[0]
    return numbers.of(key)


def _in_order(target: Any, node: fx.Node, number: Mapping[fx.Node, int]) -> tuple[Any, ...]:
    """The arguments; of a sum or product of two tensors of one dtype in an order of ours, for a + b and b + a have the same bits (but for what a NaN carries)."""
    if target not in COMMUTE or node.kwargs or not all(isinstance(one, fx.Node) for one in node.args):
        return node.args
    values = [one.meta.get("val") for one in node.all_input_nodes]
    tensors = [one for one in values if isinstance(one, Tensor) and one.dim() > 0]
    alike = len(tensors) == len(values) and len({one.dtype for one in tensors}) == 1
    return tuple(sorted(node.args, key=lambda one: number[one])) if alike else node.args  # type: ignore[index]


def _remade_dropout(node: fx.Node, found: _Values, device: str) -> fx.Node | None:
    """The dropout that was drawn before and whose result this is once more: `(x * mask) * scale`."""
    kept: Any
    scale: Any
    if device != "cpu" or not _is_product(node) or not _is_product(node.args[0]):
        return None
    (kept, scale), values = node.args, found.number
    drawn = found.masks.get(values[kept.args[1]]) if isinstance(kept.args[1], fx.Node) else None
    if drawn is None or drawn.kwargs or len(drawn.args) != 3 or values.get(kept.args[0]) != values[drawn.all_input_nodes[0]]:
        return None
    p, train = drawn.args[1:]
    if not (isinstance(p, float) and 0 < p < 1 and (train is True or train is None) and type(scale) is float):
        return None
    by_kernel = scale == dropout_scale(p, node.meta["val"].dtype)
    return drawn if by_kernel and (_form(node), _form(kept.args[1])) == _form(drawn) else None


def _is_product(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is aten.mul.Tensor and not node.kwargs


def _check_pure(node: fx.Node) -> None:
    """Refuses what may do more than compute its result from its operands.

    Raises:
        _DoubtError: it may.
    """
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        name = target._schema.name.partition("::")[2]
        if target._schema.is_mutable or name in SECRETLY or torch.Tag.maybe_aliasing_or_mutating in target.tags:
            raise _DoubtError(f"`{node.name}` ({target}) may write into memory, so what others read depends on when they read it")
        if target.namespace not in OWN:
            raise _DoubtError(f"`{node.name}` ({target}) is not an operator of torch, so nobody knows what else it does")
        return
    inner = [each for body in bodies(node) for each in body.gm.graph.nodes]
    region = region_of(node)
    inner += region.inner if region is not None else []
    if not (target in ON_SIZES or region is not None or (kind_of(node) in BODIED and inner)):
        raise _DoubtError(f"`{node.name}` ({target}) is of a kind that is not known here")
    for each in inner:
        if each.op not in ("placeholder", "get_attr", "output"):
            _check_pure(each)


# ------------------------------------------------------------ keys


def _key(target: Any, args: Any, kwargs: Any, form: Hashable, number: Mapping[fx.Node, int]) -> Hashable:
    """An operator on values: two nodes with equal keys compute the same from the same."""
    return target, _frozen(args, number), tuple((name, _frozen(kwargs[name], number)) for name in sorted(kwargs)), form


def _frozen(value: Any, number: Mapping[fx.Node, int]) -> Hashable:
    """An argument to compare: nodes by number, numbers by type and every bit.

    Raises:
        _DoubtError: it is of a type that cannot be compared so.
    """
    if isinstance(value, fx.Node):
        return "node", number[value]
    if isinstance(value, list | tuple):
        return "list", tuple(_frozen(each, number) for each in value)
    if isinstance(value, float):
        return "float", value.hex()
    if isinstance(value, complex):
        return "complex", value.real.hex(), value.imag.hex()
    if value is None or isinstance(value, bool | int | str):
        return type(value).__name__, value
    if isinstance(value, TYPES):
        return type(value).__name__, str(value)
    raise _DoubtError(f"an argument of type {type(value).__name__} cannot be compared")


def _form(node: fx.Node) -> Hashable:
    """Shape, strides, dtype and device of a node's result; of a result with parts those of each."""
    return _form_of(node.meta.get("val"))


def _form_of(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return tuple(map(str, value.shape)), tuple(map(str, value.stride())), str(value.dtype), str(value.device)
    if isinstance(value, list | tuple):
        return tuple(map(_form_of, value))
    return type(value).__name__, str(value)


def _constant(node: fx.Node, numbers: _Numbers) -> Hashable:
    """What a node of the graph holds: a graph by what is in it, anything else by identity."""
    inner = held_graph(node)
    if inner is not None:
        return "graph", _body(inner, numbers)
    return "object", numbers.identity(operator.attrgetter(str(node.target))(node.graph.owning_module))


def _body(gm: fx.GraphModule, numbers: _Numbers) -> Hashable:
    """A graph inside of a graph, node by node in its order."""
    place = {node: at for at, node in enumerate(gm.graph.nodes)}
    nodes = []
    for node in gm.graph.nodes:
        what = _constant(node, numbers) if node.op == "get_attr" else "" if node.op in ("placeholder", "output") else node.target
        nodes.append((node.op, _key(what, node.args, node.kwargs, _form(node), place)))
    return tuple(nodes)


# ------------------------------------------------------------ comparing


def _compare(before: _Values, after: _Values) -> None:
    """Is every value of the graph after one of the graph before, and is what they give out the same?

    Raises:
        _DoubtError: it is not, or not seen to be.
    """
    known = set(before.number.values())
    for node, number in after.number.items():
        if number not in known and not (node.users and after.remade.issuperset(node.users)):
            raise _DoubtError(_why_new(node, after))
    if before.draws != after.draws:
        raise _DoubtError(f"the graph draws {len(after.draws)} times, the one before {len(before.draws)} times, or in another order")
    old, new = _outputs(before.program), _outputs(after.program)
    if len(old) != len(new):
        raise _DoubtError(f"{len(old)} outputs became {len(new)}")
    for at, (one, other) in enumerate(zip(old, new, strict=True)):
        if _frozen(one, before.number) != _frozen(other, after.number):
            raise _DoubtError(f"output {at} is another value: {other} for {one}")
    if _shared(old) != _shared(new):
        raise _DoubtError("outputs share memory with one another, or with inputs, that were apart, or the other way round")


def _why_new(node: fx.Node, values: _Values) -> str:
    if is_random(node):
        return f"`{node.name}` draws random numbers, and no draw of the graph before is the same one in the order of draws"
    if not repeats(node, values.program.device):
        return f"`{node.name}` ({node.target}) gives other bits each time, and the graph before does not run it so often on these values"
    return f"`{node.name}` ({node.target}) computes what no operator of the graph before computes"


def _outputs(program: Program) -> tuple[Any, ...]:
    given = program.gm.graph.output_node().args[0]
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def _shared(outputs: tuple[Any, ...]) -> list[Hashable]:
    """For each output the first that has its memory, or the input that has."""
    first: dict[Hashable, Hashable] = {}
    owners = [owner(output) if isinstance(output, fx.Node) else None for output in outputs]
    return [_name(made) or first.setdefault(made, at) for at, made in enumerate(owners)]


def _name(made: Owner | None) -> str:
    """What stands for memory that the graph does not make."""
    return str(made[0].target) if made is not None and made[0].op in ("placeholder", "get_attr") else ""
