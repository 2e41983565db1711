"""Symbolic dimensions: which are kept open in the export, and what the graph's sizes are called.

Shapes are shown with the symbols `b` and `s`; everything that is counted takes the sizes that the inputs were given with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._guards import detect_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from graphs.bodies import all_graphs
from graphs.errors import RequestError

NAMES = ("b", "s")
SMALLEST = 2  # sizes 0 and 1 are always taken as fixed


def dynamic_shapes(args: tuple[Any, ...], dynamic: str) -> Any:
    """What torch.export is told of each input: the first dimension is `b`, with `batch+seq` the second is `s`; None for fixed sizes.

    Raises:
        RequestError: a size of 1, or too few dimensions.
    """
    if dynamic == "none":
        return None
    wanted = NAMES[: dynamic.count("+") + 1]
    dims = [Dim(name, min=SMALLEST) for name in wanted]

    def of_input(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return None
        for name, size in zip(wanted, value.shape, strict=False):
            if size < SMALLEST:
                word = {"b": "batch", "s": "seq"}[name]
                raise RequestError(
                    f"a dynamic {word} cannot be 1", where="dynamic", help=f"Write {word}=2 or more: torch takes 1 as fixed."
                )
        return dict(enumerate(dims[: value.dim()]))

    return {"args": pytree.tree_map(of_input, args)}


def symbolic_arguments(program: ExportedProgram, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as the export saw them: fake tensors whose sizes are symbols."""
    values = {node.name: node.meta.get("val") for node in program.graph.find_nodes(op="placeholder")}
    leaves, structure = pytree.tree_flatten(args)
    seen = iter(program.graph_signature.user_inputs)
    fresh = []
    for leaf in leaves:
        name = next(seen)
        fresh.append(values.get(str(name), leaf) if isinstance(leaf, Tensor) else leaf)
    return pytree.tree_unflatten(fresh, structure)


def into_mode_of(args: tuple[Any, ...], exported: nn.Module) -> None:
    """Parameters and buffers become fake tensors of the mode that knows the symbols; two modes cannot meet in one trace."""
    mode = detect_fake_mode(args)
    assert mode is not None
    made: dict[int, Tensor] = {}
    for module in exported.modules():
        for name, value in (*module._parameters.items(), *module._buffers.items()):
            if value is None or (isinstance(value, FakeTensor) and value.fake_mode is mode):
                continue
            if id(value) not in made:
                with mode:
                    fresh = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)
                made[id(value)] = nn.Parameter(fresh, value.requires_grad) if isinstance(value, nn.Parameter) else fresh
            kept: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
            kept[name] = made[id(value)]


def make_concrete(gm: fx.GraphModule) -> None:
    """Puts given sizes in the place of symbols in every `meta["val"]`, and keeps the symbols as text in `meta["symbols"]`."""
    words: dict[str, str] = {}
    for node in [node for graph in all_graphs(gm) for node in graph.graph.nodes]:
        value = node.meta.get("val")
        leaves = [leaf for leaf in pytree.tree_leaves(value) if _is_symbolic(leaf)]
        if not leaves:
            continue
        if isinstance(value, Tensor):
            node.meta["symbols"] = tuple(_text(size, words) for size in value.shape), tuple(_text(size, words) for size in value.stride())
        node.meta["val"] = pytree.tree_map(_concrete, value)


def _is_symbolic(value: Any) -> bool:
    if isinstance(value, Tensor):
        return any(not isinstance(size, int) for size in (*value.shape, *value.stride()))
    return isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool)


def _text(size: Any, words: dict[str, str]) -> int | str:
    """`s77` -> `b`: symbols get their names in the order in which they appear."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    for symbol in sorted(expression.free_symbols, key=str):
        words.setdefault(str(symbol), _word(str(symbol), words))
    return str(expression.xreplace({symbol: type(symbol)(words[str(symbol)]) for symbol in expression.free_symbols}))


def _word(symbol: str, words: dict[str, str]) -> str:
    """`b`, `s`, then as torch calls it; a size that nobody knows is the rounds of a loop."""
    if symbol.startswith("u"):
        loops = sum(word.startswith("rounds") for word in words.values())
        return f"rounds_{loops}" if loops else "rounds"
    known = sum(word in NAMES for word in words.values())
    return NAMES[known] if known < len(NAMES) else symbol


def _concrete(value: Any) -> Any:
    if isinstance(value, Tensor):
        mode = detect_fake_mode(value)
        assert mode is not None
        with mode:
            return torch.empty_strided(
                [_hint(s) for s in value.shape], [_hint(s) for s in value.stride()], dtype=value.dtype, device=value.device
            )
    if isinstance(value, torch.SymInt):
        return _hint(value)
    return value.node.hint if isinstance(value, torch.SymFloat | torch.SymBool) else value


def _hint(size: Any) -> int:
    """The size that was given; 1 for the unknown number of rounds of a while_loop, of which one is counted."""
    if isinstance(size, int):
        return size
    return 1 if size.node.hint is None else int(size.node.hint)
