"""Kernels without a compiler: what a random model asks of an optimization is which nodes it joins, and compiling them takes minutes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor, fx

from graphs.inductor import Call, Lowered


@contextmanager
def interpreted_kernels() -> Iterator[None]:
    """Inside, a kernel is one launch and runs its body operator by operator. What Inductor makes of bodies is tested elsewhere."""
    with (
        mock.patch("graphs.kernels.lower", _lowered),
        mock.patch("graphs.kernels.compiled", _called),
        mock.patch.dict("graphs.kernels._lowered", clear=True),
        mock.patch.dict("graphs.kernels._calls", clear=True),
    ):
        yield


def _lowered(body: fx.GraphModule) -> Lowered:
    return Lowered(1, "", "", (tuple(node.name for node in body.graph.nodes if node.op == "call_function"),))


def _laid_out(value: Tensor, said: Tensor) -> Tensor:
    """As compiled code gives it: with the strides that the body says, which some operators of torch do not keep on real tensors."""
    return value if value.stride() == said.stride() else torch.empty_strided(said.shape, said.stride(), dtype=said.dtype).copy_(value)


def _called(body: fx.GraphModule, like: Sequence[Tensor]) -> Call:
    def call(args: list[Tensor]) -> Sequence[Tensor]:
        results = fx.Interpreter(body).run(*args)
        given = results if isinstance(results, (tuple, list)) else (results,)
        return [_laid_out(one, node.meta["val"]) for one, node in zip(given, body.graph.output_node().all_input_nodes, strict=True)]

    return call
