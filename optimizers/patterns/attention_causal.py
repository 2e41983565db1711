"""Proves that a mask is the causal one, by computing it: it must come from constants of the graph alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphs.randomness import is_random
from optimizers.patterns.attention_axes import whole
from optimizers.patterns.attention_scores import Masking, Scores

NODES = 200  # of the computation of a mask
ELEMENTS = 1 << 22  # of any tensor in it
HIDES = -1e30  # a number this low beside any score leaves nothing of it


def is_causal(scores: Scores) -> bool:
    """Does every query see exactly the keys up to its own place, with nothing added to their scores?"""
    rows, columns = scores.sizes[scores.queries], scores.sizes[scores.keys]
    if not scores.maskings or rows != columns or rows * columns > ELEMENTS:
        return False
    return _remembered("causal", scores.maskings, scores, lambda: _shows_the_past(scores, rows, columns))


def _remembered(question: str, maskings: Sequence[Masking], scores: Scores, answer: Callable[[], bool]) -> bool:
    """The answer, computed once for all layers that make their masks alike."""
    written = [_written(masking.mask) for masking in maskings]
    if None in written:
        return False
    done = [(masking.axes, masking.factor, masking.fill, masking.when) for masking in maskings]
    key = (question, tuple(written), tuple(done), scores.queries, tuple(sorted(scores.sizes.items())))
    if key not in _answers:
        if len(_answers) >= NODES:
            _answers.clear()
        _answers[key] = answer()
    return _answers[key]


_answers: dict[Hashable, bool] = {}


def _written(node: fx.Node) -> Hashable:
    """How the node is computed, without names; None when it is not computed from constants."""
    order = _sources(node)
    if order is None:
        return None
    number = {each: at for at, each in enumerate(order)}

    def frozen(value: Any) -> Hashable:
        if isinstance(value, fx.Node):
            return ("node", number[value])
        return tuple(map(frozen, value)) if isinstance(value, (list, tuple)) else (type(value).__name__, str(value))

    return tuple((str(each.target), frozen(each.args), frozen(tuple(sorted(each.kwargs.items()))), _held(each)) for each in order)


def _held(node: fx.Node) -> Hashable:
    """What a constant holds."""
    if node.op != "get_attr":
        return None
    held = getattr(node.graph.owning_module, str(node.target)).detach().cpu()
    content = held.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return tuple(held.shape), str(held.dtype), hashlib.sha256(content).digest()


def _shows_the_past(scores: Scores, rows: int, columns: int) -> bool:
    hidden = torch.zeros(rows, columns, dtype=torch.bool)
    future = torch.ones(rows, columns, dtype=torch.bool).triu(1)
    for masking in scores.maskings:
        if masking.axes[-2:] != (whole(scores.queries, rows), whole(scores.keys, columns)):
            return False
        found = _hides(masking, rows, columns)
        if found is None or bool((found & ~future).any()):
            return False
        hidden |= found
    return bool((hidden == future).all())


def shows_a_key(masking: Masking, scores: Scores) -> bool:
    """Do constants of the graph prove that the mask leaves every query a key?"""
    return _remembered("shows", (masking,), scores, lambda: _shows(masking, scores))


def _shows(masking: Masking, scores: Scores) -> bool:
    value = _computed(masking.mask)
    keys = whole(scores.keys, scores.sizes[scores.keys])
    if (
        value is None
        or value.dtype is not torch.bool
        or keys not in masking.axes
        or value.dim() < len(masking.axes) - masking.axes.index(keys)
    ):
        return False
    hidden = value if masking.when else ~value
    return not bool(hidden.all(masking.axes.index(keys) - len(masking.axes)).any())


def _hides(masking: Masking, rows: int, columns: int) -> Tensor | None:
    """Which keys it hides from each query; None when that is not known, differs by head, or is not all that it does."""
    value = _computed(masking.mask)
    if value is None or value.dim() > 4:
        return None
    each = value.broadcast_to(torch.broadcast_shapes(value.shape, (rows, columns))).reshape(-1, rows, columns)
    if bool((each != each[:1]).any()):
        return None
    if masking.fill is not None:
        return (each[0] if masking.when else ~each[0]) if value.dtype is torch.bool else None
    added = each[0].double() * masking.factor
    hidden = added < HIDES
    return hidden if bool((hidden | (added == 0)).all()) else None


def _computed(node: fx.Node) -> Tensor | None:
    """The value of a node that depends on no input and draws nothing."""
    order = _sources(node)
    if order is None:
        return None
    values: dict[fx.Node, Any] = {}
    with torch.no_grad():
        for each in order:
            if each.op == "get_attr":
                values[each] = getattr(each.graph.owning_module, str(each.target)).detach().cpu()
                continue
            args, kwargs = fx.map_arg((each.args, each.kwargs), values.__getitem__)  # type: ignore[misc]
            if "device" in kwargs:
                kwargs = {**kwargs, "device": torch.device("cpu")}
            values[each] = each.target(*args, **kwargs)  # type: ignore[operator]
    found = values[node]
    return found if isinstance(found, Tensor) else None


def _sources(node: fx.Node) -> list[fx.Node] | None:
    """All that the node is computed from, in order; None when an input, a draw or too much is among it."""
    seen, queue = {node}, [node]
    while queue:
        each = queue.pop()
        if len(seen) > NODES or not _is_small_constant(each):
            return None
        for read in each.all_input_nodes:
            if read not in seen:
                seen.add(read)
                queue.append(read)
    return sorted(seen)


def _is_small_constant(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, Tensor) and any(not isinstance(size, int) for size in value.shape):
        return False
    if isinstance(value, Tensor) and value.numel() > ELEMENTS:
        return False
    if node.op == "get_attr":
        held = getattr(node.graph.owning_module, str(node.target), None)
        return type(held) is Tensor and held.device.type != "meta"
    return node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload) and not is_random(node)
