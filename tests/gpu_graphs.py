"""Graphs as a GPU would have them, on a machine without one: fake tensors say `cuda`, and nothing is run."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from graphs.program import Program


def as_if_on_gpu(program: Program) -> Program:
    """The same graph with every tensor on a GPU. (torch cannot trace a backward for a device that it was built without.)"""
    moved = program.clone()
    mode = next(node.meta["val"].fake_mode for node in moved.gm.graph.nodes if node.op == "placeholder")

    def on_gpu(value: Tensor) -> Tensor:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")

    with mode:
        for node in moved.gm.graph.nodes:
            node.meta["val"] = pytree.tree_map_only(Tensor, on_gpu, node.meta.get("val"))
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": torch.device("cuda")}
    return dataclasses.replace(moved, device="cuda")
