"""Fuse matmul epilogue: bias, activation and residual sum before the product is written, in the matmul's own kernel.

## Why it is slow
A linear layer writes its result to memory; the next kernel reads it to add a bias or a residual, or to apply an activation, and writes it
again. The matmul had every element in a register a moment before.

## What changes
One kernel with a *post-operation*: oneDNN's inner product on a CPU (`mkldnn._linear_pointwise`), cuBLASLt's epilogue on a GPU
(`aten._addmm_activation`: bias with ReLU, or with the tanh form of GELU; not run on a GPU here). In an inference graph the weights are
put in the order of the CPU kernel once, by a `prepared` node; a scale by a number goes into them. In a training graph, where they change
in every step, they are read as they are.

## When it does not apply
Somebody else reads the value in between: backward needs what GELU and SiLU were applied to, but for ReLU only its result, so
`linear → relu` fuses in training and `linear → gelu` does not. The CPU kernel does one activation, or one sum, difference or product
with a tensor of the same size, not both (*generate-matmul-kernel* does). oneDNN has no float64. Sums are taken in another order, so results differ by rounding; and
where PyTorch's ReLU, clamps and hard sigmoid give NaN for NaN, oneDNN's give a number, so a model that is broken already may look healthy.

## Try it
Measure a GPT-2 graph: PyTorch's own matmul in float32 is MKL's, and on a processor that MKL does not favour oneDNN's is faster by more
than the kernel saved. Then measure the smallest MLP of the zoo: a call of oneDNN costs about 10 µs more than one of MKL, which a
product of less than about a million multiply-adds does not win back.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.editing import call, prepare, weights_that_stand_still
from optimizers.patterns import onednn
from optimizers.patterns.elementwise_functions import Activation
from optimizers.patterns.epilogue import Epilogue, NotFused, Step, absorb, follow, why_not_absorbed
from optimizers.record import Claim

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
CUBLAS = (Activation("relu"), Activation("gelu", formula="tanh"))


@dataclass(frozen=True)
class Product:
    """x [M, K] @ weight (+ bias [N]); the weight is [N, K], or [K, N] where it is `across`."""

    x: fx.Node
    weight: fx.Node
    across: bool
    bias: fx.Node | None

    @classmethod
    def of(cls, node: fx.Node) -> Product:
        """Read off an `addmm` or `mm`, now: an earlier match may have replaced an operand."""
        added = node.args[0] if node.target is aten.addmm.default else None
        x, matrix = node.args[-2:]
        assert isinstance(x, fx.Node)
        assert isinstance(matrix, fx.Node)
        if matrix.target in (aten.t.default, aten.numpy_T.default):
            return cls(x, matrix.args[0], False, added)  # type: ignore[arg-type]
        return cls(x, matrix, True, added)  # type: ignore[arg-type]


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every matmul of two matrices, with what its kernel could do beside it."""
    once, taken = weights_that_stand_still(gm), set[fx.Node]()
    found: list[Match | Miss] = []
    # The last first: of two products that are added, the later one can do the sum.
    for node in reversed(gm.graph.nodes):
        if node.target not in (aten.addmm.default, aten.mm.default):
            continue
        try:
            epilogue = _read(node, once, taken)
        except NotFused as reason:
            found.append(Miss(node, str(reason)))
            continue
        taken.update(epilogue.nodes)
        found.append(Match(node, epilogue.nodes, (epilogue, once), epilogue.note))
    yield from reversed(found)


def _read(node: fx.Node, once: Collection[fx.Node], taken: Collection[fx.Node]) -> Epilogue:
    value = value_of(node)
    if not value.numel() or not value_of(Product.of(node).x).numel():
        raise NotFused("It is empty.")
    if any(node.kwargs.get(name, 1) != 1 for name in ("alpha", "beta")):
        raise NotFused("It scales its operands.")
    product = Product.of(node)
    if product.bias is not None and (value_of(product.bias).dim() != 1 or value_of(product.bias).shape[0] != value.shape[1]):
        raise NotFused("What it adds is not one number for each column.")
    if value.device.type == "cuda":
        return follow(node, -1, lambda so_far, step: _why_not_cublas(product, so_far, step), taken)
    if value.device.type != "cpu":
        raise NotFused("It is neither on a CPU nor on a GPU by NVIDIA.")
    _check_cpu(value, value_of(product.x))
    return follow(node, -1, lambda so_far, step: _why_not(node, product, so_far, step, once), taken)


def _check_cpu(value: Tensor, x: Tensor) -> None:
    if reason := onednn.why_not(value):
        raise NotFused(reason)
    if x.stride(-1) != 1:
        raise NotFused("The elements of its rows are not side by side, and would have to be copied.")


def _why_not(node: fx.Node, product: Product, so_far: Epilogue, step: Step, once: Collection[fx.Node]) -> str:
    """Why oneDNN's kernel cannot do this step after those so far."""
    done = so_far.of("activation", "add", "sub", "mul")
    if done and step.kind != "view":
        return f"The kernel can do nothing after {done[0].word}."
    if step.kind in ("scale", "bias"):
        return why_not_absorbed(so_far, step, product.weight, product.bias, once)
    if step.kind in ("add", "sub", "mul") and not _can_be_rows(value_of(step.operand), value_of(node)):
        return f"The second operand of {step.node.name} is not laid out as the product is."
    if not value_of(step.node).is_contiguous():
        return f"{step.node.name} is laid out in another order than the product."
    return ""


def _can_be_rows(other: Tensor, product: Tensor) -> bool:
    """Can it be looked at as [M, N]?"""
    if other.numel() != product.numel():
        return False
    try:
        other.view(product.shape)
    except (RuntimeError, ValueError):  # the second from fake tensors
        return False
    return True


def _why_not_cublas(product: Product, so_far: Epilogue, step: Step) -> str:
    if so_far.of("activation") and step.kind != "view":
        return "The kernel can do nothing after its activation."
    if step.kind == "view":
        return ""
    biased = product.bias is not None or bool(so_far.of("bias"))
    if step.kind == "bias":
        return "It has a bias already." if biased else ""
    if step.activation not in CUBLAS:
        return f"cuBLASLt's epilogues are ReLU and the tanh form of GELU, not {step.word}."
    return "" if biased else "cuBLASLt's epilogue begins with a bias, and there is none."


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One kernel in the place of the last step."""
    found: Epilogue = match.data[0]
    product = Product.of(found.product)
    with gm.graph.inserting_before(found.last):
        on_gpu = value_of(found.product).device.type == "cuda"
        fused = _cublas(gm, found, product) if on_gpu else _onednn(gm, found, product, match.data[1])
        if value_of(fused).shape != value_of(found.last).shape:
            fused = call(gm, aten.view.default, fused, list(value_of(found.last).shape))
    found.last.replace_all_uses_with(fused)


def _onednn(gm: fx.GraphModule, found: Epilogue, product: Product, once: Collection[fx.Node]) -> fx.Node:
    factor, bias = absorb(gm, found, product.bias)
    # For one row the kernel reads each weight once, in whatever order: measured, packing does not pay there.
    weight = _weight(gm, product, factor, product.weight in once and (value_of(product.x).shape[0] > 1 or factor != 1))
    binary = found.of("add", "sub", "mul")
    if binary:
        other = binary[0].operand
        if value_of(other).shape != value_of(found.product).shape:
            other = call(gm, aten.view.default, other, list(value_of(found.product).shape))
        return call(gm, mkldnn._linear_pointwise.binary, product.x, other, weight, bias, binary[0].kind)
    last = found.of("activation")
    does = last[0].activation if last and last[0].activation else Activation("none")
    return call(gm, mkldnn._linear_pointwise.default, product.x, weight, bias, does.name, list(does.numbers), does.formula)


def _weight(gm: fx.GraphModule, product: Product, factor: float, prepares: bool) -> fx.Node:
    """[N, K], packed where that can be done once."""
    if not prepares:
        return call(gm, aten.t.default, product.weight) if product.across else product.weight
    rows = value_of(product.x).shape[0]

    def pack(weight: Tensor) -> Tensor:
        matrix = weight.t() if product.across else weight
        return mkldnn._reorder_linear_weight((matrix if factor == 1 else matrix * factor).contiguous(), rows)

    return prepare(gm, "packed_weight", pack, product.weight)


def _cublas(gm: fx.GraphModule, found: Epilogue, product: Product) -> fx.Node:
    _factor, bias = absorb(gm, found, product.bias)
    gelu = any(step.word == "gelu" for step in found.of("activation"))
    matrix = found.product.args[-1]
    if not found.of("activation"):
        return call(gm, aten.addmm.default, bias, product.x, matrix)
    return call(gm, aten._addmm_activation.default, bias, product.x, matrix, use_gelu=gelu)


class _Block(nn.Module):
    """Two linear layers, an activation between them, around them a sum."""

    def __init__(self, activation: Callable[[Tensor], Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.activation = activation
        self.widen, self.narrow = nn.Linear(16, 64, dtype=dtype), nn.Linear(64, 16, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.activation(self.widen(x)))


class _ByHand(nn.Module):
    """A product, a scale, a bias and a SiLU, each an operator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(16, 32)), nn.Parameter(torch.randn(32))

    def forward(self, x: Tensor) -> Tensor:
        gate = x @ self.weight * 0.5 + self.bias
        return gate * torch.sigmoid(gate)


def _kept(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    scores = x @ weight
    return scores, scores.relu()


def _rows(*shape: int) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(*shape),)


def _pair() -> tuple[Tensor, ...]:
    return torch.randn(8, 16), torch.randn(16, 32)


OPTIMIZATION = Optimization(
    name="fuse-matmul-epilogue",
    summary="Bias, activation or residual sum in the matmul's kernel, before the product is written.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(lambda: _Block(nn.functional.gelu), _rows(2, 8, 16), matches=2),
        Example(lambda: _Block(torch.relu), _rows(2, 8, 16), "training", matches=2),
        Example(_ByHand, _rows(8, 16), matches=1),
    ),
    refusals=(
        Example(lambda: _Block(nn.functional.gelu), _rows(2, 8, 16), "training", reason="Backward reads"),
        Example(lambda: _Block(torch.relu, torch.float64), lambda: (torch.randn(8, 16, dtype=torch.float64),), reason="float64"),
        Example(lambda: Function(_kept), _pair, reason="output of the graph"),
        Example(lambda: Function(lambda x, w: torch.relu(x @ w + 1)), _pair, reason="could do for each element"),
        Example(lambda: Function(lambda x, w: (x @ w).cos()), _pair, reason="could do for each element"),
    ),
    exactness="rounding",
)
