"""Names of nodes: `mm`, `mm_1`, `mm_2` … in the order of the graph, without the gaps that tracing leaves.

A name then says which of its kind a node is, and two routes to the same graph give the same names.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import fx
from torch.fx.graph import _Namespace

from graphs.program import InputSpec

NUMBER = re.compile(r"_\d+$")


def rename_in_order(graph: fx.Graph, inputs: Sequence[InputSpec]) -> None:
    """Renames every node; placeholders are `primals_1` … and the seed of backward `tangents_1`, as AOTAutograd has it."""
    space = _Namespace()
    seeds = {spec.node for spec in inputs if spec.role == "seed"}
    number = 0
    for node in graph.nodes:
        if node.op == "placeholder":
            number += node.name not in seeds
            wish = "tangents_1" if node.name in seeds else f"primals_{number}"
        else:
            wish = node.name if node.op in ("get_attr", "output") else stem(node)
        node.name = space.create_name(wish, node)
    graph._graph_namespace = space


def stem(node: fx.Node) -> str:
    """The operator's short name: `aten.mm.default` -> `mm`."""
    packet = getattr(node.target, "overloadpacket", node.target)
    return NUMBER.sub("", getattr(packet, "__name__", None) or str(node.target))
