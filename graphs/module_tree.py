"""The lowest rung: no graph, only what the model is made of: its modules, their parameters and buffers, without edges between them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from graphs.record import Cost, GraphSnapshot, NodeRecord
from graphs.snapshot import totals

SIZES = {"float64": 8, "int64": 8, "complex64": 8, "float32": 4, "int32": 4, "float16": 2, "bfloat16": 2, "int16": 2, "complex128": 16}


def module_tree(model: nn.Module) -> GraphSnapshot:
    """One node for each tensor that the model holds, and one for each module without children, which reads its tensors."""
    nodes: list[NodeRecord] = []
    seen: dict[int, str] = {}
    for path, module in model.named_modules():
        read: list[str] = []
        held = [("parameter", module._parameters), ("buffer", module._buffers)]
        for role, name, value in ((role, name, value) for role, kept in held for name, value in kept.items()):
            if value is None:
                continue
            if id(value) not in seen:
                seen[id(value)] = f"tensor_{len(seen) + 1}"
                full = f"{path}.{name}" if path else name
                nodes.append(_tensor(seen[id(value)], role, full, path, tuple(value.shape), str(value.dtype).removeprefix("torch.")))
            read.append(seen[id(value)])
        if not list(module.children()):
            nodes.append(_module(f"module_{len(nodes)}", path, type(module).__name__, tuple(read), module.extra_repr()))
    return _snapshot(nodes)


def tensor_tree(tensors: Mapping[str, tuple[tuple[int, ...], str]]) -> GraphSnapshot:
    """One node for each tensor of a file that holds no code."""
    return _snapshot(
        _tensor(f"tensor_{index + 1}", "parameter", name, name.rpartition(".")[0], shape, dtype)
        for index, (name, (shape, dtype)) in enumerate(tensors.items())
    )


def _snapshot(nodes: Iterable[NodeRecord]) -> GraphSnapshot:
    kept = tuple(nodes)
    return GraphSnapshot(kept, (), totals(kept, ()))


def _tensor(name: str, role: str, target: str, path: str, shape: tuple[int, ...], dtype: str) -> NodeRecord:
    count = 1
    for size in shape:
        count *= size
    return NodeRecord(
        name=name, op="placeholder", target=target, phase="forward", module=path, source=None, shape=shape, dtype=dtype, strides=None,
        bytes=count * SIZES.get(dtype, 1), storage=name, role=role, cost=Cost(), origins=(name,), inputs=(),
    )  # fmt: skip


def _module(name: str, path: str, kind: str, inputs: tuple[str, ...], detail: str) -> NodeRecord:
    return NodeRecord(
        name=name, op="call_module", target=kind, phase="forward", module=path, source=None, shape=None, dtype="", strides=None,
        bytes=0, storage=name, role="activation", cost=Cost(known=False), origins=(name,), inputs=inputs, detail=detail,
    )  # fmt: skip
