"""RMS norm as one operator on a CPU too: Zhang and Sennrich 2019, *Root Mean Square Layer Normalization*, equation 4.

On a GPU torch has one kernel for it, and one node. On a CPU it takes it apart into six operators while it traces, and the norm could
no longer be seen, matched or exchanged. Here the exported graph calls an operator of our own, which runs torch's `rms_norm`.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional

aten = torch.ops.aten


@torch.library.custom_op("fxscope::rms_norm", mutates_args=())
def rms_norm(x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """y = x / √(mean(x²) + eps) · weight, the mean over the last dimensions, of sizes `shape`; of x's shape and dtype, in row-major
    order whatever x's is."""
    return functional.rms_norm(x, shape, weight, eps)


@torch.library.custom_op("fxscope::rms_norm_backward", mutates_args=())
def rms_norm_backward(grad: Tensor, x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the weight (empty where there is none). With n = x·r and r = 1/√(mean(x²) + eps):
    dx = r · (g·w − n · mean(g·w·n)); dw = Σ g·n over the leading dimensions."""
    return _gradients(grad, x, shape, weight, eps)


def _gradients(grad: Tensor, x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    over = tuple(range(-len(shape), 0))
    values, upper = x.to(wide), grad.to(wide)
    rate = torch.rsqrt(values.square().mean(over, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    normal = values * rate
    scaled = upper if weight is None else upper * weight
    of_x = rate * torch.addcmul(scaled, normal, (scaled * normal).mean(over, keepdim=True), value=-1)
    if weight is None:
        return of_x.to(x.dtype), x.new_empty(0)
    leading = tuple(range(x.dim() - len(shape)))
    of_weight = (upper * normal).sum(leading) if leading else upper * normal
    return of_x.to(x.dtype), of_weight.to(weight.dtype)


@rms_norm.register_fake
def _(x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    return x.new_empty(x.shape)


@rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None) -> tuple[Tensor, Tensor]:
    return _gradients(grad, x, shape, weight, eps)  # its order in memory depends on that of both


def launches(x: Tensor, weight: Tensor | None, backward: bool) -> int:
    """Operators that a CPU runs for one call: five for the norm and nine for the gradient of x, more for the weight, for casts to float32 and back, and for a copy
    into row-major order."""
    narrow = x.dtype in (torch.float16, torch.bfloat16)
    if not backward:
        return 5 + (weight is not None) + 2 * narrow + (not torch.empty_like(x).is_contiguous())
    return 9 + 3 * narrow + (weight is not None) * (3 + narrow)


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor) -> None:
    x, shape, weight, eps = inputs
    ctx.save_for_backward(x, weight)  # type: ignore[arg-type]
    ctx.shape, ctx.eps = shape, eps  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors  # type: ignore[attr-defined]
    of_x, of_weight = torch.ops.fxscope.rms_norm_backward(grad, x, ctx.shape, weight, ctx.eps)  # type: ignore[attr-defined]
    return of_x, None, of_weight if weight is not None else None, None


rms_norm.register_autograd(_backward, setup_context=_keep)


def keep_rms_norms(exported: fx.GraphModule) -> None:
    """Lets an exported graph, where torch still has one node for the norm, call the operator of ours on a CPU."""
    for node in exported.graph.nodes:
        value = node.meta.get("val")
        if node.target is aten.rms_norm.default and isinstance(value, Tensor) and value.device.type == "cpu":
            node.target = torch.ops.fxscope.rms_norm.default
    exported.recompile()
