"""Where a model's parameters, operations and bytes are: counted in its graph by module, and for decoders of Llama's kind beside closed formulas.

Source of the formulas: UC San Diego CSE 234, winter 2025, lecture of February 27 (its pages 42 to 53), here with g heads of keys and values, which the
lecture's models have as many of as heads. A multiply-add is two operations.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from graphs.record import GraphSnapshot, NodeRecord
from lessons.vocabulary import decimals, number, table

What = Literal["parameters", "operations", "bytes moved"]
PIECE = re.compile(r"\.(?:weight|bias)$")


@dataclass(frozen=True)
class Sizes:
    """The letters of the formulas.

    Attributes:
        b: sequences; s: tokens of each; h: features of a token; n: heads; g: heads of keys and values; d: features of a head;
        i: features inside the feed-forward part; v: tokens known; N: blocks.
    """

    b: int
    s: int
    h: int
    n: int
    g: int
    d: int
    i: int
    v: int
    N: int


class Row(NamedTuple):
    """A part of the model: its formula with symbols, and what the formula and the graph say."""

    part: str
    symbols: str
    formula: int
    counted: int


# ---------------------------------------------------------------- sizes


def sizes_of(graph: GraphSnapshot) -> Sizes | None:
    """The letters, read off the shapes of a captured decoder of Llama's kind; None for any other graph."""
    shapes = {node.target: node.shape for node in graph.nodes if node.role == "parameter" and node.shape}
    embedding, queries, keys, gate, head = (_matrix(shapes, name) for name in ("embed_tokens", "q_proj", "k_proj", "gate_proj", "lm_head"))
    tokens = next((node.shape for node in graph.nodes if node.role == "input" and node.shape and len(node.shape) == 2), None)
    heads = _heads(graph)
    if not (embedding and queries and keys and gate and head and tokens and heads) or any(isinstance(side, str) for side in tokens):
        return None
    d = queries[0] // heads
    blocks = sum(name.endswith("q_proj.weight") for name in shapes)
    return Sizes(int(tokens[0]), int(tokens[1]), embedding[1], heads, keys[0] // d, d, gate[0], embedding[0], blocks)


def _matrix(shapes: Mapping[str, tuple[int | str, ...]], name: str) -> tuple[int, int] | None:
    """Rows and columns of the first weight of a module of that name, both numbers."""
    for target, shape in shapes.items():
        if target.endswith(f"{name}.weight") and len(shape) == 2 and all(isinstance(side, int) for side in shape):
            return int(shape[0]), int(shape[1])
    return None


def _heads(graph: GraphSnapshot) -> int:
    """Of the weights of attention, where they are written out, or of the fused operator's queries."""
    nodes = graph.by_name()
    for node in graph.nodes:
        shape = node.shape if "_softmax." in node.target else nodes[node.inputs[0]].shape if "dot_product" in node.target else None
        if node.module.endswith("self_attn") and shape and len(shape) == 4:
            return int(shape[1])
    return 0


def no_decoder(graph: GraphSnapshot) -> str:
    """Why the formulas do not speak of a graph; empty where they do."""
    if sizes_of(graph):
        return ""
    return "The formulas of this screen are those of a decoder of Llama's kind, with `q_proj`, `gate_proj` and fixed sizes, and this model is none."


# ---------------------------------------------------------------- parameters


def parameters(graph: GraphSnapshot, where: str = "") -> int:
    """Numbers in parameters whose names contain a word."""
    return sum(_count(node) for node in graph.nodes if node.role == "parameter" and where in node.target)


def _count(node: NodeRecord) -> int:
    count = 1
    for side in node.shape or ():
        count *= side if isinstance(side, int) else 1
    return count


def parameter_rows(graph: GraphSnapshot, z: Sizes) -> list[Row]:
    """Embedding, the parts of all blocks, the last norm, and the head."""
    return [
        Row("embedding", "$vh$", z.v * z.h, parameters(graph, "embed_tokens")),
        Row("attention", "$2Nhd(n+g)$", 2 * z.N * z.h * z.d * (z.n + z.g), parameters(graph, "self_attn")),
        Row("feed-forward", "$3Nhi$", 3 * z.N * z.h * z.i, parameters(graph, "mlp")),
        Row("norms of blocks", "$2Nh$", 2 * z.N * z.h, parameters(graph, "layernorm")),
        Row("last norm", "$h$", z.h, parameters(graph, "model.norm.")),
        Row("head", "$hv$", z.h * z.v, parameters(graph, "lm_head")),
    ]


# ---------------------------------------------------------------- operations


def products(graph: GraphSnapshot, *modules: str, at: slice = slice(None)) -> int:
    """Operations of matmuls in modules with these last names, in the forward pass; `at` takes some of those of each module, in order."""
    found: dict[str, list[int]] = {}
    for node in graph.nodes:
        if node.phase == "forward" and node.cost.matmul_flops and node.module.rpartition(".")[2] in modules:
            found.setdefault(node.module, []).append(node.total.matmul_flops)
    return sum(sum(each[at]) for each in found.values())


def attention_rows(graph: GraphSnapshot, z: Sizes) -> list[Row]:
    """The pieces of attention in all blocks; softmax as the lecture counts it, three operations for each weight, beside this graph's count."""
    bs = z.b * z.s
    softmax = sum(node.total.flops for node in graph.nodes if node.target == "aten._softmax.default" and node.module.endswith("self_attn"))
    return [
        Row("queries, keys, values", "$2Nbshd(n+2g)$", 2 * z.N * bs * z.h * z.d * (z.n + 2 * z.g), products(graph, "q_proj", "k_proj", "v_proj")),
        Row("scores", "$2Nbs^2nd$", 2 * z.N * bs * z.s * z.n * z.d, products(graph, "self_attn", at=slice(0, 1))),
        Row("softmax", "$3Nbs^2n$", 3 * z.N * bs * z.s * z.n, softmax),
        Row("weighted sum of values", "$2Nbs^2nd$", 2 * z.N * bs * z.s * z.n * z.d, products(graph, "self_attn", at=slice(1, 2))),
        Row("output", "$2Nbshnd$", 2 * z.N * bs * z.h * z.n * z.d, products(graph, "o_proj")),
    ]  # fmt: skip


def small_rows(graph: GraphSnapshot, z: Sizes) -> list[Row]:
    """What a block does beside its matmuls: both residual sums, and rotary positions, which the lecture counts for one of queries and keys."""
    plain = [node for node in graph.nodes if node.phase == "forward" and node.op == "call_function" and not node.cost.matmul_flops]
    sums = sum(node.total.flops for node in plain if node.target == "aten.add.Tensor" and re.search(r"layers\.\d+$", node.module))
    turned = sum(node.total.flops for node in plain if node.module.endswith("self_attn") and (node.shape or (0,))[-1] in (z.d, z.d // 2))
    return [
        Row("residuals", "$2Nbsh$", 2 * z.N * z.b * z.s * z.h, sums),
        Row("rotary positions", "$3Nbsnd$", 3 * z.N * z.b * z.s * z.n * z.d, turned),
    ]


def forward_rows(graph: GraphSnapshot, z: Sizes) -> list[Row]:
    """The whole forward pass: the pieces of attention, the feed-forward parts, and the head."""
    bs = z.b * z.s
    return [
        *attention_rows(graph, z),
        Row("feed-forward", "$6Nbshi$", 6 * z.N * bs * z.h * z.i, products(graph, "gate_proj", "up_proj", "down_proj")),
        Row("head", "$2bshv$", 2 * bs * z.h * z.v, products(graph, "lm_head")),
    ]


def lecture_training(z: Sizes) -> dict[str, int]:
    """The lecture's six parts of a training step, with all that it counts: three times the forward pass, the embedding as if it were a matmul,
    four operations for each number that a norm takes, rotary positions at three and the gate at five."""
    bs = z.b * z.s
    attention = (
        2 * bs * z.h * z.d * (z.n + 2 * z.g) + 4 * bs * z.s * z.n * z.d + 3 * bs * z.s * z.n + 2 * bs * z.h * z.n * z.d + 3 * bs * z.n * z.d
    )
    forward = {
        "embedding": 2 * bs * z.h * z.v,
        "norms": 4 * (2 * z.N + 1) * bs * z.h,
        "residuals": 2 * z.N * bs * z.h,
        "attention": z.N * attention,
        "feed-forward": z.N * (6 * bs * z.h * z.i + 5 * bs * z.i),
        "head": 2 * bs * z.h * z.v,
    }
    return {part: 3 * count for part, count in forward.items()}


# ---------------------------------------------------------------- the tree


def tree(graph: GraphSnapshot, what: What) -> dict[tuple[str, ...], int]:
    """Path -> how much, counted in the graph. Equal numbered modules are one: `layers.0` to `layers.31` are `layers × 32`.

    A module that computes by several operators of its own has one leaf for each.
    """
    numbers = _numbers(graph)
    found: Counter[tuple[str, ...]] = Counter()
    for node in graph.nodes:
        if amount := AMOUNTS[what](node):
            found[_path(node, numbers)] += amount
    return {path if _has_siblings(path, found) else path[:-1]: amount for path, amount in found.items()}


def _of_parameter(node: NodeRecord) -> int:
    return _count(node) if node.role == "parameter" else 0


AMOUNTS: dict[What, Callable[[NodeRecord], int]] = {
    "parameters": _of_parameter,
    "operations": lambda node: node.total.flops,
    "bytes moved": lambda node: node.total.bytes_moved,
}


def _numbers(graph: GraphSnapshot) -> dict[tuple[str, ...], set[str]]:
    """For every container of numbered modules, its path without numbers, the numbers that there are."""
    found: dict[tuple[str, ...], set[str]] = {}
    for module in {node.module for node in graph.nodes}:
        plain: list[str] = []
        for part in module.split("."):
            if part.isdecimal() and plain:
                found.setdefault(tuple(plain), set()).add(part)
            else:
                plain.append(part)
    return found


def _path(node: NodeRecord, numbers: dict[tuple[str, ...], set[str]]) -> tuple[str, ...]:
    """Of a node: its modules, then its operator."""
    is_parameter = node.role == "parameter"
    plain: list[str] = []
    shown: list[str] = []
    for part in filter(None, (PIECE.sub("", node.target) if is_parameter else node.module).split(".")):
        if part.isdecimal() and plain:
            shown[-1] = _times(plain[-1], len(numbers.get(tuple(plain), ())))
        else:
            plain.append(part)
            shown.append(part)
    return (*shown, "parameters" if is_parameter else node.target.removeprefix("aten.").partition(".")[0])


def _times(name: str, count: int) -> str:
    return f"{name} × {count}" if count else name


def _has_siblings(path: tuple[str, ...], others: Iterable[tuple[str, ...]]) -> bool:
    """Does anything else stand in the module of this leaf? At the top a leaf keeps its name."""
    return len(path) == 1 or any(other != path and other[: len(path) - 1] == path[:-1] for other in others)


# ---------------------------------------------------------------- written


def trillions(count: int) -> str:
    """Operations in TF, 10¹²."""
    return decimals(count / 1e12, 3)


def billions(count: int) -> str:
    """Operations in GF, 10⁹."""
    return decimals(count / 1e9, 3)


def ledger(rows: Iterable[Row], write: Callable[[int], str] = number) -> str:
    """A table of parts: symbols, the formula's number, the graph's, and their sums."""
    listed = [*rows]
    lines: list[list[object]] = [[row.part, row.symbols, write(row.formula), write(row.counted)] for row in listed]
    sums = write(sum(row.formula for row in listed)), write(sum(row.counted for row in listed))
    return table(["part", "symbols", "formula", "counted"], [*lines, ["**all**", "", *sums]])


def letters(z: Sizes) -> str:
    """A table of what the letters mean."""
    meant = {
        "b": "sequences", "s": "tokens of each", "h": "features of a token", "n": "heads", "g": "heads of keys, values", "d": "features of a head",
        "i": "inner features", "v": "tokens known", "N": "blocks",
    }  # fmt: skip
    return table(["letter", "is", "here"], [[f"${letter}$", text, number(getattr(z, letter))] for letter, text in meant.items()])
