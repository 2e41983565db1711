"""Generate matmul kernel: a product and the elementwise work behind it as one generated kernel.

## Why it is slow
Libraries end a matmul with one activation or one sum, and that for products of two matrices only. In `relu(a @ b + c)`, in a bias with GELU and a residual,
and behind every product of batches, each element is written to memory, and other kernels read and write it again.

## What changes
The product is generated like a loop, from Inductor's template: tiles that fit the caches, micro kernels for the processor's vector or
matrix registers. What follows runs on each tile before the next: any number of sums, scales, activations, masks and casts. What somebody else reads in between,
such as what backward needs of GELU, is one more result of the kernel. The template for constant weights is changed so that it takes any: it copies the columns that a
tile needs into the cache itself.

## When it does not apply
The second operand of a sum must be made before the product; of two products that are added, the later one takes the sum. Work *before*
the product stays apart: Inductor takes that into its templates for GPUs only. The first matrix needs its rows side by side, which transposed gradients
do not have, and there is no float64. Values in between are not rounded to half precision, so results differ by rounding. Only the template for CPUs is generated here.

## Try it
Fewer bytes are not always less time: a library's product is tuned by hand, and where a product is large the loop behind it is a small part. Run
`python -m benchmarks.epilogues --only template`. On an AVX-512 processor with AMX, one thread, the kernel took 0.8 to 1.6 times as long as library and loop in float32,
0.5 to 1.2 in bfloat16 (best for small products and batches), and 1.3 to 3.8 in float16, which its micro kernel converts number by number. So it is for you to
choose, and no part of the pipeline for speed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor, fx, nn

from graphs.kernels import Kernel
from graphs.products import PRODUCTS, why_not
from graphs.regions import collapse
from optimizers.base import Example, Function, Match, Miss, Optimization, phase_of, value_of
from optimizers.planning.bodies import launches_of, name_of, separated
from optimizers.planning.edges import edge, source_of
from optimizers.planning.loops import loop_of
from optimizers.record import Claim


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every matmul with what its kernel can do beside it."""
    products = [node for node in gm.graph.nodes if node.target in PRODUCTS]
    taken: set[fx.Node] = set()
    for product in products:
        why = loop_of(product).why
        reason = why_not(product) if "library" in why else f"{why.capitalize()}."
        group, last = ([], reason) if reason else _one_kernel(product, taken)
        if not group:
            yield Miss(product, last)
            continue
        taken.update(group)
        behind = ", ".join(node.name for node in group[1:])
        yield Match(product, tuple(group), note=f"with {behind}")
    for product in products:
        yield from _before(product, taken)


def _one_kernel(product: fx.Node, taken: Collection[fx.Node]) -> tuple[list[fx.Node], str]:
    """The product and the most of what follows it that is one kernel with it; else nothing, and the reason."""
    group, reason = _followers(product, taken)
    while len(group) > 1:
        after, _, _ = launches_of(group)
        if after == 1:
            return group, ""
        last = group.pop()
        reason = f"With {last.name}, Inductor generates {after} kernels."
    return [], reason


def _followers(product: fx.Node, taken: Collection[fx.Node]) -> tuple[list[fx.Node], str]:
    """The product and, in execution order, what could be done for each of its elements; and why the first of the others could not."""
    group, waiting, reason = [product], set(_readers(product)), ""
    while waiting:
        node = min(waiting)
        waiting.remove(node)
        why = f"{node.name} is in the kernel of another product." if node in taken else _why_not(node, product, group)
        reason = reason or why
        if not why:
            group.append(node)
            waiting.update(_readers(node))
    return group, reason or f"Nothing computes with {product.name} in this graph."


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """What computes with a value, past views."""
    for user in node.users:
        if loop_of(user).kind == "view":
            yield from _readers(user)
        elif user.op == "call_function" and user.meta.get("val") is not None:
            yield user


def _why_not(node: fx.Node, product: fx.Node, group: Collection[fx.Node]) -> str:
    """Why an operator cannot be done on the tiles of the product, with those of the group; empty where it may."""
    loop = loop_of(node)
    if loop.kind != "pointwise":
        return f"{node.name} is not computed element by element{f': {loop.why}' if loop.why else ''}."
    if phase_of(node) != phase_of(product):
        return f"{node.name} runs in another phase."
    if not isinstance(node.meta["val"], Tensor) or loop.elements != value_of(product).numel():
        return f"{node.name} goes over another number of elements."
    for read in node.all_input_nodes:
        maker, views = source_of(read)
        if maker in group and edge(maker, node, read, views, loop).order != "aligned":
            return f"{node.name} reads {maker.name} in another order than it is made in."
        if maker not in group and maker > product and loop_of(maker).kind != "fill":
            return f"{node.name} also reads {maker.name}, which is made after {product.name}."
    return ""


def _before(product: fx.Node, taken: Collection[fx.Node]) -> Iterator[Miss]:
    """Elementwise work that only the product reads."""
    for read in product.all_input_nodes:
        maker, _ = source_of(read)
        if maker not in taken and loop_of(maker).kind == "pointwise" and list(_readers(maker)) == [product]:
            yield Miss(maker, f"It comes before {product.name}: Inductor's template for CPUs takes elementwise work behind a product only.")


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One node in the place of the group."""
    nodes = sorted(match.nodes)
    collapse(separated(nodes), lambda body: Kernel(name_of(nodes), body))


class _Block(nn.Module):
    """Two linear layers with GELU between them and a sum around them."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.narrow = nn.Linear(16, 40), nn.Linear(40, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(nn.functional.gelu(self.widen(x))) * 0.5


def _scores(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    return query @ key.transpose(1, 2) * 0.25 + mask


def _relu_of_sum(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.relu(a @ b + c)


def _three(dtype: torch.dtype) -> tuple[Tensor, ...]:
    return torch.randn(12, 20).to(dtype), torch.randn(20, 24).to(dtype), torch.randn(12, 24).to(dtype)


def _rows() -> tuple[Tensor, ...]:
    return (torch.randn(2, 6, 16),)


OPTIMIZATION = Optimization(
    name="generate-matmul-kernel",
    summary="A matmul and all elementwise work behind it as one generated kernel.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="same", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: Function(_relu_of_sum), lambda: _three(torch.float16), matches=1),
        Example(lambda: Function(_scores), lambda: (torch.randn(3, 9, 16), torch.randn(3, 7, 16), torch.randn(9, 7)), matches=1),
        Example(_Block, _rows, matches=2),
        Example(_Block, _rows, "training", matches=3),
    ),
    refusals=(
        Example(lambda: Function(_relu_of_sum), lambda: _three(torch.float64), reason="not float64"),
        Example(lambda: Function(lambda x: (x @ x).softmax(-1)), lambda: (torch.randn(8, 8),), reason="not computed element by element"),
        Example(lambda: Function(lambda x, y: (x @ y).t() + y), lambda: (torch.randn(8, 8), torch.randn(8, 8)), reason="in another order"),
        Example(lambda: Function(lambda x: torch.relu(x) @ x), lambda: (torch.randn(8, 8),), reason="behind a product only"),
        Example(
            lambda: Function(lambda x, y: torch.relu(x.t() @ y)), lambda: (torch.randn(8, 4), torch.randn(8, 4)), reason="side by side"
        ),
    ),
    exactness="rounding",
)
