"""Dropout that drops nothing: with a probability of 0, or outside of training.

A model's own run hands its operand on, without a copy and without a launch. torch's decomposition, which the tracer runs, makes a copy of it, which
training would keep for backward beside the operand. Here the exported graph, which still has one node for dropout, loses those that are idle.
"""

from __future__ import annotations

import torch
from torch import fx

aten = torch.ops.aten


def drop_idle_dropout(exported: fx.GraphModule) -> None:
    """Who reads an idle dropout reads its operand. One of an input or a parameter stays, so that no result of the graph is an input of it."""
    for node in exported.graph.find_nodes(op="call_function", target=aten.dropout.default):
        operand, probability, training = node.args
        if isinstance(operand, fx.Node) and operand.op == "call_function" and (probability == 0 or not training):
            node.replace_all_uses_with(operand)
            exported.graph.erase_node(node)
    exported.recompile()
