"""What loop an operator is: over how many elements it goes, what it reduces, or why it is no loop that others could join.

After the operator patterns of TVM (Chen et al. 2018, section 3) and DNNFusion (Niu et al. 2021, table 2), with the number of elements, since that
decides here whether two loops can be one.
"""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx

from graphs.bodies import bodies
from graphs.cost import is_pointwise, is_view
from graphs.inductor import UNROLLED
from graphs.randomness import is_random
from graphs.regions import Region

aten = torch.ops.aten
Kind = Literal["pointwise", "rows", "columns", "opaque", "view", "fill", "data"]


@dataclass(frozen=True)
class Loop:
    """One operator as a loop.

    Attributes:
        elements: how many elements it goes over.
        row: of a reduction over the last dimensions, how many elements are one row; 0 for others.
        kept: of a reduction over other dimensions, the shape it goes over and the dimensions that stay.
        why: for what is opaque, the reason in a clause.
    """

    kind: Kind
    elements: int = 0
    row: int = 0
    kept: tuple[Any, ...] = ()
    why: str = ""

    @property
    def fusible(self) -> bool:
        return self.kind in ("pointwise", "rows", "columns")


# Pointwise though torch does not tag them so; gathers are, since each result reads one place.
POINTWISE = {
    aten.where, aten.masked_fill, aten.clone, aten._to_copy, aten.gelu, aten.gelu_backward, aten.silu, aten.silu_backward, aten.threshold_backward,
    aten.native_dropout_backward, aten.tanh_backward, aten.sigmoid_backward, aten.hardtanh_backward, aten.hardswish, aten.hardswish_backward,
    aten.hardsigmoid, aten.hardsigmoid_backward, aten.leaky_relu_backward, aten.elu_backward, aten.softplus_backward, aten.relu, aten.hardtanh,
    aten.leaky_relu, aten.elu, aten.softplus, aten.mish, aten.native_batch_norm, aten._native_batch_norm_legit_no_training, aten.mse_loss_backward,
    aten.cat, aten.stack, aten.constant_pad_nd, aten.slice_backward, aten.select_backward, aten.slice_scatter, aten.select_scatter, aten.tril, aten.triu,
    aten.embedding, aten.gather, aten.index_select, aten.flip, aten.roll, aten.repeat, aten.copy, aten.lift_fresh_copy, aten.one_hot,
    aten.nll_loss_backward, aten.fill, aten.masked_fill, aten.glu, aten.log_sigmoid_backward,
}  # fmt: skip
# Give values without reading any: every kernel that needs them makes its own.
FILLS = {
    aten.full, aten.zeros, aten.ones, aten.full_like, aten.zeros_like, aten.ones_like, aten.new_zeros, aten.new_ones, aten.new_full, aten.arange, aten.scalar_tensor,
}  # fmt: skip
REDUCTIONS = {
    aten.sum, aten.mean, aten.amax, aten.amin, aten.var, aten.var_mean, aten.std, aten.any, aten.all, aten.prod, aten.logsumexp,
    aten.linalg_vector_norm, aten.argmax, aten.argmin,
}  # fmt: skip
WRITTEN_OUT = {aten.sum, aten.mean, aten.amax, aten.amin, aten.any, aten.all, aten.prod}
NORMS = {aten.native_layer_norm: 1, aten.native_layer_norm_backward: 2}
OWN_NORMS = {"fxscope.rms_norm": 1, "fxscope.rms_norm_backward": 2}
SOFTMAXES = {aten._softmax: 1, aten._log_softmax: 1, aten._softmax_backward_data: 2, aten._log_softmax_backward_data: 2}
LIBRARY = {
    aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.convolution, aten.convolution_backward, aten.mv, aten.addmv, aten.dot, aten.linear,
    aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention_for_cpu_backward,
}  # fmt: skip


def loop_of(node: fx.Node) -> Loop:
    """The loop of a node, from its operator and fake tensors."""
    if node.op != "call_function":
        return Loop("data")
    if node.target is operator.getitem or is_view(node.target):
        return Loop("view")
    why = _why_opaque(node)
    if why:
        return Loop("opaque", why=why)
    return _loop(node, getattr(node.target, "overloadpacket", None))


def _loop(node: fx.Node, packet: Any) -> Loop:
    value = _first(node)
    if packet in FILLS:  # those that ask a tensor for its shape are loops over elements like any other
        return Loop("pointwise" if node.all_input_nodes else "fill", value.numel())
    name = str(packet)
    if packet is aten._to_copy and value.dtype is torch.float16 and _operand(node).dtype in (torch.float32, torch.float64):
        return Loop("opaque", why="it rounds to float16, which a kernel that also reads the result would leave out")
    if packet in NORMS or name in OWN_NORMS:
        shape = node.args[NORMS.get(packet, OWN_NORMS.get(name, 0))]
        source = _operand(node)
        return Loop("rows", source.numel(), math.prod(shape))  # type: ignore[arg-type]
    if packet in SOFTMAXES:
        dim = int(node.args[SOFTMAXES[packet]]) % max(1, value.dim())  # type: ignore[arg-type]
        inner = math.prod(value.shape[dim + 1 :])
        if inner != 1:
            return Loop("opaque", why="it normalizes over a dimension that is not the last")
        return Loop("rows", value.numel(), value.shape[dim] if value.dim() else 1)
    if packet in REDUCTIONS:
        return _reduction(node)
    if packet in POINTWISE or is_pointwise(node.target):
        return Loop("pointwise", value.numel())
    if packet in (aten.index, aten._unsafe_index):
        return _gather(node)
    if packet in LIBRARY:
        return Loop("opaque", why="it is a library's kernel, which takes whole tensors")
    return Loop("opaque", why="it is no loop over elements or rows")


def _why_opaque(node: fx.Node) -> str:
    """What rules a node out before one looks at its loop."""
    if isinstance(node.target, Region):
        return "it is a kernel already"
    if bodies(node):
        return "it holds graphs of its own"
    if is_random(node):
        return "it draws random numbers, in an order that must stay"
    if not isinstance(node.target, torch._ops.OpOverload):
        return "it computes on the host"
    if node.target._schema.is_mutable:
        return "it writes into a tensor"
    if node.meta.get("val") is None:
        return "it gives nothing"
    values = [node.meta.get("val"), *(read.meta.get("val") for read in node.all_input_nodes)]
    tensors = [leaf for value in values for leaf in (value if isinstance(value, tuple | list) else [value])]
    if any(not isinstance(leaf, Tensor) for leaf in tensors if leaf is not None):
        return "it reads numbers of the host"
    if any(not all(isinstance(size, int) for size in leaf.shape) for leaf in tensors if isinstance(leaf, Tensor)):
        return "its sizes are not known before it runs"
    if any(leaf.is_complex() or leaf.is_sparse for leaf in tensors if isinstance(leaf, Tensor)):
        return "complex and sparse numbers are not compiled"
    first = next((leaf for leaf in tensors if isinstance(leaf, Tensor)), None)
    return "it is empty" if first is None or first.numel() == 0 else ""


def _first(node: fx.Node) -> Tensor:
    value = node.meta["val"]
    return next(leaf for leaf in value if isinstance(leaf, Tensor)) if isinstance(value, tuple | list) else value


def _operand(node: fx.Node) -> Tensor:
    return node.all_input_nodes[0].meta["val"]


def _gather(node: fx.Node) -> Loop:
    picked = [one for one in node.args[1] if one is not None]  # type: ignore[union-attr]
    if any(one.meta["val"].dtype in (torch.bool, torch.uint8) for one in picked):  # type: ignore[union-attr]
        return Loop("opaque", why="how many elements a mask picks is not known before it runs")
    return Loop("pointwise", _first(node).numel())


def _reduction(node: fx.Node) -> Loop:
    source = _operand(node)
    dims = _dims(node, source.dim())
    if source.numel() == 0:
        return Loop("opaque", why="it is empty")
    real = [dim for dim in range(source.dim()) if source.shape[dim] != 1]
    reduced = [dim for dim in real if dim in dims]
    if not reduced:
        return Loop("pointwise", source.numel())
    row = math.prod(source.shape[dim] for dim in reduced)
    if row <= UNROLLED and getattr(node.target, "overloadpacket", None) in WRITTEN_OUT and source.numel() > row:
        return Loop("pointwise", source.numel() // row)
    if reduced == real[len(real) - len(reduced) :]:
        return Loop("rows", source.numel(), row)
    return Loop("columns", source.numel(), kept=(tuple(source.shape), tuple(reduced)))


def _dims(node: fx.Node, rank: int) -> set[int]:
    """The dimensions that a reduction reduces; all where it names none."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    at = next((index for index, argument in enumerate(schema) if argument.name in ("dim", "dims")), None)
    given = None
    if at is not None:
        given = node.args[at] if at < len(node.args) else node.kwargs.get(schema[at].name)
    if given is None or given == []:
        return set(range(rank))
    return {int(dim) % max(1, rank) for dim in (given if isinstance(given, list | tuple) else [given])}  # type: ignore[arg-type]
