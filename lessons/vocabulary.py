"""The words that lessons may use in what they compute: of graphs, of numbers, and how numbers are written."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from graphs.memory import memory_of
from graphs.record import GraphSnapshot, NodeRecord
from profiler.prediction_record import Ceilings
from profiler.sheets import sheet

DECIMAL, BINARY = ("B", "kB", "MB", "GB", "TB"), ("B", "KiB", "MiB", "GiB", "TiB")
COUNTS = ("", " thousand", " million", " billion", " trillion")


def launches(graph: GraphSnapshot) -> int:
    """Kernels that run (counted)."""
    return graph.totals.launches


def flops(graph: GraphSnapshot) -> int:
    """Floating-point operations of all kinds (counted)."""
    return graph.totals.flops


def moved(graph: GraphSnapshot) -> int:
    """Bytes read and written (counted)."""
    return graph.totals.bytes_moved


def peak(graph: GraphSnapshot) -> int:
    """Bytes at the worst moment, without parameters and inputs (counted)."""
    return graph.totals.peak_bytes


def intensity(graph: GraphSnapshot) -> float:
    """Operations for each byte moved."""
    return flops(graph) / moved(graph) if moved(graph) else 0.0


def per_element(graph: GraphSnapshot) -> float:
    """Operations for each element moved, where all elements are of one size."""
    size_of_one = next(node.bytes / math.prod(map(int, node.shape)) for node in graph.nodes if node.shape)
    return intensity(graph) * size_of_one


def ridge(ceilings: Ceilings, dtype: str = "float32") -> float:
    """Operations for each byte at which a machine's arithmetic and its memory take the same time (measured)."""
    return ceilings.flops[dtype].value / ceilings.bandwidth.value


def gpu_ridge(name: str, dtype: str = "float16") -> float:
    """The same of a GPU by its data sheet."""
    device = sheet(name)
    return device.flops[dtype] / device.bandwidth


def operators(graph: GraphSnapshot) -> list[NodeRecord]:
    """Nodes that are neither inputs nor the output."""
    return [node for node in graph.nodes if node.op == "call_function"]


def of_kind(graph: GraphSnapshot, *words: str) -> list[NodeRecord]:
    """Operators in whose target one of the words occurs."""
    return [node for node in operators(graph) if any(word in node.target for word in words)]


def in_phase(graph: GraphSnapshot, *phases: str) -> list[NodeRecord]:
    """Operators of these phases: forward, loss, backward, recompute, update."""
    return [node for node in operators(graph) if node.phase in phases]


def views(graph: GraphSnapshot) -> list[NodeRecord]:
    """Operators that move nothing: their result is the memory of what they read."""
    return [node for node in operators(graph) if node.cost.launches == 0]


def most_common(nodes: list[NodeRecord]) -> str:
    """The operator that occurs most often among nodes."""
    return Counter(node.target for node in nodes).most_common(1)[0][0] if nodes else ""


def size(count: float, binary: bool = True) -> str:
    """Bytes with a unit: GiB are 2³⁰, GB are 10⁹."""
    step, names = (1024, BINARY) if binary else (1000, DECIMAL)
    value, at = float(count), 0
    while abs(value) >= step and at < len(names) - 1:
        value, at = value / step, at + 1
    return f"{value:.0f} {names[at]}" if at == 0 else f"{value:,.1f} {names[at]}"


def number(count: float) -> str:
    """A whole number with commas, or a fraction with three digits."""
    return f"{count:,.0f}" if float(count).is_integer() else f"{count:,.3g}"


def decimals(value: float, digits: int = 3) -> str:
    """A number with so many decimals: 11.652."""
    return f"{value:,.{digits}f}"


def fraction(value: float) -> str:
    """As a fraction of small numbers: 3/5."""
    return str(Fraction(value).limit_denominator(1000))


def many(count: float) -> str:
    """A large number in words: 6.7 billion."""
    value, at = float(count), 0
    while abs(value) >= 1000 and at < len(COUNTS) - 1:
        value, at = value / 1000, at + 1
    return f"{value:.3g}{COUNTS[at]}"


def percent(part: float, whole: float = 1.0) -> str:
    """A share: 37 %."""
    return f"{100 * part / whole:.0f} %" if whole else "0 %"


def times(larger: float, smaller: float) -> str:
    """How many times as large: 3.2 times."""
    return f"{larger / smaller:.3g} times" if smaller else "infinitely many times"


def elements(node: NodeRecord) -> int:
    """How many numbers a tensor has; 0 where a side is a symbol or there are several outputs."""
    if node.shape is None or any(isinstance(side, str) for side in node.shape):
        return 0
    return math.prod(map(int, node.shape))


def sum_of_products(graph: GraphSnapshot) -> list[NodeRecord]:
    """Two products of equal size and the sum that adds them, the first such three in the graph; empty where there is none."""
    nodes = graph.by_name()
    for node in of_kind(graph, "aten.add.Tensor"):
        makers = {name: nodes[name] for name in node.inputs if nodes[name].target == "aten.mul.Tensor" and nodes[name].bytes == node.bytes}
        if len(makers) == 2:
            return [*makers.values(), node]
    return []


def outside(nodes: list[NodeRecord]) -> list[str]:
    """What these nodes read and do not make themselves, each once."""
    inside = {node.name for node in nodes}
    return list(dict.fromkeys(name for node in nodes for name in node.inputs if name not in inside))


def table(head: list[str], rows: list[list[object]]) -> str:
    """A table in Markdown; every cell is written as it stands, columns of numbers to the right."""
    ways = ["---:" if all(re.match(r"[\d×−-]|$", str(cell)) for cell in column) else ":---" for column in zip(*rows, strict=True)]
    lines = [head, ways, *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def blocks(graph: GraphSnapshot) -> list[str]:
    """The model's numbered modules, such as `layers.0`, in the order in which they run."""
    found = (re.match(r"(?:.*?\.)??\d+(?=\.|$)", node.module) for node in in_phase(graph, "forward"))
    return list(dict.fromkeys(match[0] for match in found if match))


def result_of(graph: GraphSnapshot, module: str) -> NodeRecord:
    """The last operator of a module's forward pass."""
    return [node for node in in_phase(graph, "forward") if node.module == module or node.module.startswith(f"{module}.")][-1]


def held(graph: GraphSnapshot, resident: bool = True) -> dict[str, int]:
    """Role -> bytes of all that is held at the worst moment, the largest first; with what is there before the graph runs."""
    memory = memory_of(graph, resident)
    found: Counter[str] = Counter()
    for one in memory.alive(memory.peak_position):
        found[one.role] += one.bytes
    return dict(found.most_common())


def ever(graph: GraphSnapshot, role: str) -> int:
    """Bytes of all storages that a graph ever has for one role, such as `saved for backward`, whether at one time or not."""
    return sum(one.bytes for one in memory_of(graph, resident=True).holdings if one.role == role)


def largest(graph: GraphSnapshot) -> NodeRecord:
    """The operator whose result is the largest; views are none, nor are operators of several results."""
    return max((node for node in operators(graph) if node.storage == node.name and node.shape), key=lambda node: node.bytes)


def sides(node: NodeRecord) -> str:
    """A tensor's shape: 2 × 64 × 64."""
    return " × ".join(map(str, node.shape or ()))


def stored(graph: GraphSnapshot, role: str) -> list[str]:
    """Names of the nodes whose memory has a role."""
    return [one.name for one in memory_of(graph, resident=True).holdings if one.role == role]


def no_chain(graph: GraphSnapshot, more_than: int) -> str:
    """Why a graph's memory is not that of a chain of equal blocks, of which it keeps one result each; empty where it is."""
    found = blocks(graph)
    if len(found) <= more_than:
        return f"This screen needs more than {more_than} numbered blocks, and this model has {len(found)}."
    if peak(graph) > (len(found) + 4) * result_of(graph, found[0]).bytes:
        return "This screen is about a plain chain. The blocks of this model keep more than their results, or its gradients are larger than these."
    return ""


WORDS: dict[str, Any] = {
    word.__name__: word
    for word in (
        launches, flops, moved, peak, intensity, per_element, ridge, gpu_ridge, decimals, fraction, operators, of_kind, in_phase, views,
        most_common, size, number, many, percent, times, elements, sum_of_products, outside, table, blocks, result_of, held, ever, largest,
        sides, stored, no_chain,
    )
}  # fmt: skip


def written(name: str) -> Callable[[float], str]:
    """How a number of a unit is written."""
    return size if name == "bytes" else number
