"""What PyTorch makes of a joint graph: its partitioner's graphs for a budget, and a checkpoint around every block, counted by our counting.

`activation_memory_budget` needs networkx, its solver `ilp` scipy too; neither is installed with the app.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence

import torch._functorch.config as functorch
from torch import fx
from torch._functorch.partitioners import min_cut_rematerialization_partition

from graphs.origin import Origin
from graphs.program import Program
from graphs.record import GraphSnapshot
from graphs.snapshot import snapshot
from optimizers.recomputation.problem import Problem

NEEDED = {"ilp": ("networkx", "scipy")}  # by solver; all others need networkx alone
NUMBERED = r"(?:.*?\.)??\d+{}(?=\.|$)"


def usable(solvers: Sequence[str]) -> list[str]:
    """The solvers that can run here; says which cannot, and why."""
    found = []
    for solver in solvers:
        missing = [name for name in NEEDED.get(solver, ("networkx",)) if importlib.util.find_spec(name) is None]
        if missing:
            print(
                f"PyTorch's solver {solver} is left out: it needs {' and '.join(missing)}. `pip install {' '.join(missing)}` adds its rows."
            )
        else:
            found.append(solver)
    return found


def partitioned(program: Program, budget: float, solver: str = "dp") -> GraphSnapshot:
    """Forward and then backward, as PyTorch's partitioner divides the graph at `activation_memory_budget`."""
    joint = program.clone().gm
    results = _results_in_order(joint, program)
    for node in joint.graph.nodes:
        if node.op == "call_function" and node.meta["origin"].phase == "backward":
            node.meta["partitioner_tag"] = "must_be_in_backward"
        else:
            node.meta.pop("partitioner_tag", None)
    with functorch.patch(activation_memory_budget=budget, activation_memory_budget_solver=solver):
        forward, backward = min_cut_rematerialization_partition(joint, None, num_fwd_outputs=results)
    whole = _one_after_the_other(forward, backward, results)
    return snapshot(Program(whole, program.inputs, (), program.tensors, program.mode, program.device))


def _results_in_order(joint: fx.GraphModule, program: Program) -> int:
    """Puts the gradients last, as the partitioner wants it; says how many outputs stand before them."""
    output = joint.graph.output_node()
    values: list[fx.Node] = list(output.args[0])  # type: ignore[arg-type]
    pairs = list(zip(values, program.outputs, strict=True))
    first = [value for value, spec in pairs if spec.role != "gradient"]
    output.args = ((*first, *(value for value, spec in pairs if spec.role == "gradient")),)
    output.meta.pop("desc", None)  # speaks of the layers that were traced
    joint.recompile()
    return len(first)


def _one_after_the_other(forward: fx.GraphModule, backward: fx.GraphModule, results: int) -> fx.GraphModule:
    """One graph that runs both; the backward's inputs are what forward gives out under their names."""
    graph, made = fx.Graph(), {}
    for node in [*forward.graph.find_nodes(op="placeholder"), *backward.graph.find_nodes(op="placeholder")]:
        if node.name not in made and (node.graph is forward.graph or node.name.startswith("tangents")):
            made[node.name] = graph.node_copy(node)
    for node in forward.graph.nodes:
        if node.op not in ("placeholder", "output"):
            made[node.name] = graph.node_copy(node, lambda read: made[read.name])
    outputs = list(forward.graph.output_node().args[0])[:results]  # type: ignore[arg-type]
    given = [made[value.name] for value in outputs if isinstance(value, fx.Node)]
    late: dict[str, fx.Node] = {}
    for node in backward.graph.nodes:
        if node.op == "placeholder":
            late[node.name] = made[node.name]
        elif node.op != "output":
            late[node.name] = graph.node_copy(node, lambda read: late[read.name])
    gradients = [late[value.name] for value in backward.graph.output_node().args[0] if isinstance(value, fx.Node)]  # type: ignore[union-attr]
    graph.output((*given, *gradients))
    for node in graph.nodes:
        node.meta.setdefault("origin", Origin("forward", "", None, (node.name,)))
    return fx.GraphModule(forward, graph)


def block_of(module: str, numbers: int) -> str:
    """The path up to its first numbers: `h.3.attn` -> `h.3`, with two `stages.0.2.conv` -> `stages.0.2`; empty outside of blocks."""
    found = re.match(NUMBERED.format(r"\.\d+" * (numbers - 1)), module)
    return found[0] if found else ""


def checkpointed_blocks(problem: Problem, numbers: int) -> Sequence[int]:
    """Levels of a checkpoint around every block: what is made and read inside of a block only is forgotten."""
    block = [block_of(node.meta["origin"].module, numbers) for node in problem.nodes]
    maker = {storage: at for at, one in enumerate(problem.operators) for storage in one.writes}
    leaves = {
        storage
        for at, one in enumerate(problem.operators[: problem.backward])
        for storage in one.reads
        if block[maker[storage]] != block[at]
    }
    return [
        int(at < problem.backward and bool(one.writes_again) and bool(block[at]) and not leaves.intersection(one.writes_again))
        for at, one in enumerate(problem.operators)
    ]
