"""Activation checkpoints of the model: what is inside `torch.utils.checkpoint` is computed again in backward, as the model asks.

torch does so with hooks on saved tensors, which leave no trace in an exported graph. So while a model is traced its checkpoints
only mark what runs inside of them, and the finished joint graph is rewritten by the mechanism of `recompute`. Of nested
checkpoints the outermost counts. What differs from an eager run: random draws are kept instead of drawn again from the saved
state of the generator (the same numbers, some more memory), a result that leaves the region is kept where backward reads it, and
a batch norm inside updates its running statistics once, where eager PyTorch updates them in both passes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch.utils.checkpoint as torch_checkpoint
from torch import fx
from torch.fx import traceback as fx_traceback
from torch.utils.checkpoint import CheckpointPolicy, SelectiveCheckpointContext

from graphs.recompute import FORWARD, phase_of, run_again, to_run_again

REGION, CONTEXT = "checkpoint_region", "checkpoint_context"  # in meta["custom"], which every route of tracing passes on
BEGINS = "begins_checkpoint"  # in meta of the first node that a region computes again
FOLLOWED, NOT_FOLLOWED = "followed", "not followed"
SAVE = (CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE, True)


@contextmanager
def marking_checkpoints() -> Iterator[None]:
    """While this is active, checkpoints of torch compute as if they were not there, and mark the nodes that are traced inside."""
    numbers = itertools.count()

    @contextmanager
    def region(context_fn: Callable[[], Any] | None) -> Iterator[None]:
        if REGION in fx_traceback.current_meta.get("custom", {}):
            yield  # inside of another checkpoint
            return
        with fx_traceback.annotate({REGION: next(numbers), CONTEXT: context_fn}):
            yield

    def around(function: Any, preserve: bool, context_fn: Callable[[], Any], *_: Any, **__: Any) -> Iterator[None]:
        """In the place of torch's generator, which runs up to its `yield` before the function, and on after it."""
        with region(None if context_fn is torch_checkpoint.noop_context_fn else context_fn):
            yield

    class Reentrant:
        """In the place of torch's autograd function."""

        @staticmethod
        def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            with region(None):
                return function(*args)

    # Models have bound `checkpoint` itself already; what it calls is looked up at each call.
    with mock.patch.multiple(torch_checkpoint, _checkpoint_without_reentrant_generator=around, CheckpointFunction=Reentrant):
        yield


def honour_checkpoints(graph: fx.Graph) -> None:
    """Recomputes every marked region in backward."""
    if not any(phase_of(node) == "backward" for node in graph.nodes):
        return
    regions: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        mark = _custom(node).get(REGION)
        if mark is not None and node.op == "call_function" and phase_of(node) in FORWARD:
            regions.setdefault(mark, []).append(node)
    for nodes in regions.values():
        _recompute(graph, nodes)


def _recompute(graph: fx.Graph, nodes: list[fx.Node]) -> None:
    context_fn = _custom(nodes[0]).get(CONTEXT)
    policy = _policy(context_fn)
    saved = {node for node in nodes if policy and _is_saved(policy, node)}
    again = to_run_again(set(nodes), saved.__contains__)
    for copy in run_again(graph, again)[:1]:
        copy.meta[BEGINS] = "" if context_fn is None else FOLLOWED if policy else NOT_FOLLOWED
    for node in reversed(again):
        if not node.users:
            graph.erase_node(node)  # only backward read it


def _policy(context_fn: Callable[[], Any] | None) -> Callable[..., Any] | None:
    """The policy of a selective checkpoint; None for a plain one, and for contexts that have none."""
    return getattr(context_fn()[0], "policy_fn", None) if context_fn else None


def _is_saved(policy: Callable[..., Any], node: fx.Node) -> bool:
    """Does the policy save what this operator gives? It is asked as in an eager run, with tensors on shapes alone."""
    if node.target in torch_checkpoint.SAC_IGNORED_OPS:
        return False
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: read.meta.get("val"))  # type: ignore[misc]
    about = SelectiveCheckpointContext(is_recompute=False, op_output=node.meta.get("val"))
    return policy(about, node.target, *args, **kwargs) in SAVE


def _custom(node: fx.Node) -> dict[str, Any]:
    return node.meta.get("custom") or {}


def checkpoint_notes(graph: fx.Graph) -> tuple[str, ...]:
    """What to say of the checkpoints that a graph honours."""
    found = [node.meta[BEGINS] for node in graph.nodes if BEGINS in node.meta]
    if not found:
        return ()
    what = "1 region under torch.utils.checkpoint is" if len(found) == 1 else f"{len(found)} regions under torch.utils.checkpoint are"
    notes = [f"{what} recomputed in backward"]
    if FOLLOWED in found:
        notes.append(f"{found.count(FOLLOWED)} of them selectively: what the policy saves is kept")
    if NOT_FOLLOWED in found:
        notes.append(f"{found.count(NOT_FOLLOWED)} of them with a context_fn of their own, which is not followed: all is recomputed")
    return tuple(notes)
