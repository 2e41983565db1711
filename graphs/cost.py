"""Operations, bytes and launches per node: counted from shapes, never measured.

Conventions. A multiply-add is 2 operations. Matmul, convolution and attention follow `torch.utils.flop_counter`; causal attention
is not halved. Elementwise operators count 1 operation per element of their output (a transcendental too), reductions 1 per element of
their input. Of complex numbers the real operations are counted: 8 for a multiply-add, 6 for a product, 11 for a quotient, 4 for an absolute value, 2 for
a sum and for all else. Bytes moved: every operand crosses main memory once. A launch is an ATen operator that computes; views, and room that nothing is written to, launch nothing.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import flop_registry

from graphs import blockwise_attention
from graphs.bodies import bodies, kind_of
from graphs.cost_fused import fused_operations
from graphs.functions import ONE_EACH
from graphs.host import TRANSFERS
from graphs.in_place import out_of_place_overload
from graphs.linear_cross_entropy import sizes, work
from graphs.record import Cost
from graphs.regions import Prepared, Region
from graphs.rms_norm import launches as rms_norm_launches
from graphs.touched import touched

aten = torch.ops.aten
NOTHING = (
    aten._assert_tensor_metadata,
    aten._assert_async,
    aten._assert_scalar,
    aten.sym_size,
    aten._local_scalar_dense,
    aten.item,
    aten.detach,
    aten.alias,
    aten.empty,
    aten.empty_like,
    aten.empty_strided,
    aten.new_empty,
    aten.new_empty_strided,
)
# Operators that only fill, move or choose values: bytes, but no operation.
MOVES = (
    aten.clone, aten.copy, aten._to_copy, aten.cat, aten.stack, aten.full, aten.full_like, aten.zeros, aten.zeros_like, aten.ones,
    aten.ones_like, aten.new_zeros, aten.new_full, aten.new_ones, aten.arange,
    aten.scalar_tensor, aten.constant_pad_nd, aten.repeat, aten.roll, aten.flip, aten.slice_scatter, aten.select_scatter,
    aten.slice_backward, aten.select_backward, aten.lift_fresh_copy, aten.tril, aten.triu, aten.masked_fill, aten.where, aten.one_hot,
    aten.eye, aten.linspace, aten.unfold_backward, aten.as_strided_scatter, aten.diagonal_scatter, aten.split_with_sizes_copy,
    aten.t_copy, aten.view_copy, aten.transpose_copy, aten.permute_copy, aten.expand_copy, aten.unsqueeze_copy, aten.squeeze_copy,
    aten.slice_copy, aten.select_copy, aten.detach_copy, aten.alias_copy, aten.split_copy, aten.unbind_copy, aten._reshape_alias_copy,
    aten.fill, aten.im2col, aten.repeat_interleave, aten.masked_scatter, aten.masked_select, aten.masked_scatter_backward, aten.nonzero, aten.complex,
    aten.reflection_pad1d, aten.reflection_pad2d, aten.replication_pad1d, aten.replication_pad2d, aten.pixel_shuffle, aten.triu_indices, aten.tril_indices,
)  # fmt: skip
# Operators that read only the rows they select.
GATHERS = (aten.embedding, aten.gather, aten.index, aten._unsafe_index, aten.index_select, aten.take_along_dim)
SCATTERS = (
    aten.embedding_dense_backward,
    aten.scatter,
    aten.scatter_add,
    aten.index_put,
    aten._unsafe_index_put,
    aten.index_add,
    aten.index_reduce,
    aten.scatter_reduce,
)
# Operations per element of the first operand.
PER_ELEMENT: dict[Any, int] = {
    aten._softmax: 5, aten._safe_softmax: 5, aten._log_softmax: 5, aten._softmax_backward_data: 4, aten._log_softmax_backward_data: 4, aten.native_layer_norm: 8,
    aten.native_layer_norm_backward: 14, aten.native_group_norm: 8, aten.native_group_norm_backward: 14, aten.native_batch_norm: 8,
    aten._native_batch_norm_legit: 8, aten._native_batch_norm_legit_functional: 8, aten._native_batch_norm_legit_no_training: 4,
    aten._batch_norm_with_update_functional: 8, aten.batch_norm_backward: 14, aten.native_batch_norm_backward: 14, aten._fused_rms_norm: 5,
    aten._fused_rms_norm_backward: 10, aten.sum: 1, aten.mean: 1, aten.amax: 1, aten.amin: 1, aten.max: 1, aten.min: 1, aten.any: 1,
    aten.all: 1, aten.argmax: 1, aten.argmin: 1, aten.prod: 1, aten.var: 4, aten.var_mean: 4, aten.std: 4, aten.cumsum: 1, aten.cumprod: 1,
    aten.logsumexp: 3, aten.linalg_vector_norm: 2, aten.norm: 2, aten.topk: 1, aten.sort: 1, aten.nll_loss_forward: 1,
    aten.nll_loss_backward: 1, aten.nll_loss2d_forward: 1, aten.nll_loss2d_backward: 1, aten.mse_loss: 3, aten.mse_loss_backward: 3,
    aten.max_pool2d_with_indices: 1, aten.max_pool2d_with_indices_backward: 1, aten.avg_pool2d: 1, aten.avg_pool2d_backward: 1,
    aten._adaptive_avg_pool2d: 1, aten._adaptive_avg_pool2d_backward: 1, aten.adaptive_avg_pool2d: 1, aten.upsample_nearest2d: 0,
    aten.upsample_nearest2d_backward: 1, aten.upsample_bilinear2d: 8, aten.upsample_bilinear2d_backward: 8, aten.native_dropout: 2,
    aten.native_dropout_backward: 2, aten.bernoulli: 1, aten.rand: 1, aten.randn: 1, aten.rand_like: 1, aten.randn_like: 1, aten.dot: 2,
    aten.max_pool2d: 1, aten.threshold_backward: 1, aten.gelu_backward: 1, aten.floor_divide: 1, aten.histc: 1, aten.bincount: 1,
    aten.uniform: 1, aten.normal: 1, aten.randint: 1, aten.randint_like: 1, aten.exponential: 1, aten.multinomial: 1, aten.randperm: 1,
    aten._is_all_true: 1, aten._is_any_true: 1, aten.glu: 1, aten.glu_backward: 1, aten.polar: 1, aten.elu_backward: 1, aten.col2im: 1,
    aten.softplus_backward: 1, aten.aminmax: 2, aten._unique2: 1, aten.vdot: 2, aten.affine_grid_generator_backward: 6, aten._weight_norm_interface: 3, aten._weight_norm_interface_backward: 6, aten.cummax: 1, aten.cummin: 1,
    aten.logcumsumexp: 3, aten.median: 1, aten.mode: 1, aten.std_mean: 4, aten.count_nonzero: 1, aten.bucketize: 1, aten.searchsorted: 1,
    aten.smooth_l1_loss: 3, aten.smooth_l1_loss_backward: 3, aten.huber_loss: 3, aten.huber_loss_backward: 3, aten.binary_cross_entropy: 4,
    aten.binary_cross_entropy_backward: 4, aten.leaky_relu_backward: 1, aten.hardtanh_backward: 1, aten.hardswish_backward: 1, aten.hardswish: 1, aten.hardsigmoid: 1, aten.grid_sampler_2d_backward: 8,
    aten.hardsigmoid_backward: 1, aten.log_sigmoid_forward: 1, aten.log_sigmoid_backward: 1, aten.sigmoid_backward: 1, aten.tanh_backward: 1,
    aten.silu_backward: 1, aten.mish_backward: 1, aten.softshrink_backward: 1, aten.hardshrink_backward: 1, aten._prelu_kernel_backward: 1,
    aten.reflection_pad1d_backward: 1, aten.reflection_pad2d_backward: 1, aten.replication_pad1d_backward: 1,
    aten.replication_pad2d_backward: 1, aten.avg_pool1d: 1, aten.avg_pool3d: 1, aten.avg_pool3d_backward: 1,
    aten.max_pool3d_with_indices: 1, aten.max_pool3d_with_indices_backward: 1, aten._adaptive_avg_pool3d: 1,
    aten._adaptive_avg_pool3d_backward: 1, aten.adaptive_max_pool2d: 1, aten.adaptive_max_pool2d_backward: 1,
    aten.upsample_nearest1d: 0, aten.upsample_nearest1d_backward: 1, aten.upsample_nearest3d: 0, aten.upsample_nearest3d_backward: 1,
    aten.upsample_linear1d: 4, aten.upsample_linear1d_backward: 4, aten._upsample_bilinear2d_aa: 8, aten._upsample_bilinear2d_aa_backward: 8,
    aten.upsample_trilinear3d: 16, aten.upsample_trilinear3d_backward: 16,
}  # fmt: skip
# By name, and what a CPU really runs for one of them.
OWN_PER_ELEMENT = {"fxscope.rms_norm": 5, "fxscope.rms_norm_backward": 10}
KERNELS: dict[str, Callable[..., int]] = {
    "fxscope.rms_norm": lambda x, shape, weight=None, eps=None: rms_norm_launches(x, weight, backward=False),
    "fxscope.rms_norm_backward": lambda grad, x, shape, weight, eps: rms_norm_launches(x, weight, backward=True),
    "fxscope.blockwise_attention": blockwise_attention.kernels,
    "fxscope.blockwise_attention_backward": blockwise_attention.kernels_backward,
}
# Operators of ours that are loops over many of torch's.
LOOPS: dict[str, Callable[..., Cost]] = {
    "fxscope.linear_cross_entropy": lambda x, weight, bias, target, reduction, ignore, rows, wide: work(
        sizes(x, weight, bias, rows, wide, gradient=False), reduction
    ),
    "fxscope.linear_cross_entropy_with_gradients": lambda grad, x, weight, bias, target, reduction, ignore, rows, wide: work(
        sizes(x, weight, bias, rows, wide, gradient=True), reduction
    ),
}
ALIASES = (aten._unsafe_view, aten.unsafe_split, aten.unsafe_split_with_sizes, aten.unsafe_chunk)


def is_pointwise(target: object) -> bool:
    """Does the operator compute every element from those at the same place? (torch says so of it.)"""
    return isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags


def is_view(target: Any) -> bool:
    """Does the operator return memory of its input? Read from the schema; the unsafe ones say no there but do."""
    return isinstance(target, torch._ops.OpOverload) and _gives_memory_of_input(target)


@functools.cache
def _gives_memory_of_input(target: torch._ops.OpOverload) -> bool:
    if target.overloadpacket in ALIASES:
        return True
    return any(ret.alias_info is not None and not ret.alias_info.is_write for ret in target._schema.returns)


def value_bytes(value: Any) -> int:
    """Bytes of every tensor in a node's value, as shown (an expanded tensor counts all its elements)."""
    return sum(leaf.numel() * leaf.element_size() for leaf in _leaves(value))


def cost(node: fx.Node) -> Cost:
    """Counted cost of one node from its fake tensors."""
    target = node.target
    if node.op != "call_function" or target is operator.getitem or is_view(target):
        return Cost()
    if isinstance(target, Region):
        return _of_region(node, target)
    packet = getattr(target, "overloadpacket", target)
    value = node.meta.get("val")
    if str(packet) in LOOPS:
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: read.meta.get("val"))  # type: ignore[misc]
        return LOOPS[str(packet)](*args, **kwargs)
    if bodies(node) and packet not in flop_registry:
        return _of_stacking(node, value)
    if packet in NOTHING or (not _leaves(value) and not isinstance(target, torch._ops.OpOverload)):  # sizes are computed on the host
        return Cost()
    read, written = _bytes_moved(node, packet, value)
    if (fused := fused_operations(node)) is not None:
        return Cost(sum(fused), fused[0], read, written, 1, True)
    flops, matmul, known = _operations(node, packet, value)
    return Cost(flops, flops if matmul else 0, read, written, _launches(node, packet), known, _functions(node, packet))


def _functions(node: fx.Node, packet: Any) -> int:
    """One for each element of an operator that is a function of every element, or of softmax."""
    if str(packet).rpartition(".")[2].rstrip("_") not in ONE_EACH:
        return 0
    read = next((leaf for each in node.all_input_nodes for leaf in _leaves(each.meta.get("val"))), None)
    return read.numel() if read is not None else 0


def _bytes_moved(node: fx.Node, packet: Any, value: Any) -> tuple[int, int]:
    """(bytes read, bytes written)."""
    read, written = _bytes_read(node, packet, value), value_bytes(value)
    chosen = touched(node)
    if chosen is None:
        return read, written
    others = node.all_input_nodes[1:]
    size = min(written, chosen[0] * value.element_size())  # an element that is selected twice crosses memory once
    return min(read, _once(others, [_stored_bytes(each.meta.get("val")) for each in others]) + size * chosen[1]), size


def _launches(node: fx.Node, packet: Any) -> int:
    """One for an operator of torch; for one of ours, what it runs."""
    rule = KERNELS.get(str(packet))
    if rule is None:
        return 1
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: read.meta.get("val"))  # type: ignore[misc]
    return rule(*args, **kwargs)


def _of_region(node: fx.Node, region: Region) -> Cost:
    """All operations of the body; of bytes, what it reads from outside and what others read of it, and what its loops hand on. Prepared work is not done in a run."""
    if isinstance(region, Prepared):
        return Cost()
    inner = [cost(each) for each in region.inner]
    read_again, written_between = region.beyond_one_loop
    once = _once(node.args, [_read_by_body(read) for read in region.body.graph.find_nodes(op="placeholder")])  # type: ignore[arg-type]
    return Cost(
        flops=sum(each.flops for each in inner),
        matmul_flops=sum(each.matmul_flops for each in inner),
        bytes_read=once + read_again,
        bytes_written=value_bytes(node.meta.get("val")) + written_between,
        launches=region.launches,
        known=all(each.known for each in inner),
        functions=sum(each.functions for each in inner),
    )


def _read_by_body(given: fx.Node) -> int:
    """Bytes of an operand, or only the rows that are chosen where nothing but a gather reads it; none where only its shape is asked for."""
    if given.users and all(_takes_shape_of(user, given) for user in given.users):
        return 0
    gathers = [user for user in given.users if getattr(user.target, "overloadpacket", None) in GATHERS and user.all_input_nodes[0] is given]
    whole = _stored_bytes(given.meta.get("val"))
    if given.users and len(gathers) == len(given.users):
        return min(whole, sum(value_bytes(user.meta["val"]) for user in gathers))
    return whole


def _of_stacking(node: fx.Node, value: Any) -> Cost:
    """An operator with bodies does no work but theirs, except that a loop may put the result of each round in its place."""
    kind, results = kind_of(node), list(value) if isinstance(value, tuple | list) else [value]
    carried = len(node.args[1]) if kind == "scan" else 0  # type: ignore[arg-type]
    stacked = _leaves(results[carried:]) if kind in ("scan", "map_impl", "while_loop_stack_output") else []
    rounds = bodies(node)[0].times if kind == "scan" else 1  # scan writes round by round, the others once at the end
    size = value_bytes(stacked)
    return Cost(bytes_read=size, bytes_written=size, launches=rounds * len(stacked))


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):  # most values are one, and this is asked ten thousand times for a graph
        return [value]
    if isinstance(value, tuple | list):
        return [leaf for each in value for leaf in _leaves(each)]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)] if isinstance(value, dict) else []


def _bytes_read(node: fx.Node, packet: Any, value: Any) -> int:
    sizes = [_stored_bytes(read.meta.get("val")) for read in node.all_input_nodes]
    if packet in NAMED_ONLY and len(sizes) > NAMED_ONLY[packet]:
        return sum(size for at, size in enumerate(sizes) if at != NAMED_ONLY[packet])
    if packet is aten.nll_loss_forward:  # of each row one number
        return sizes[1] // node.all_input_nodes[1].meta["val"].element_size() * node.all_input_nodes[0].meta["val"].element_size() + sum(
            sizes[1:]
        )
    if packet in GATHERS and sizes:
        return value_bytes(value) + sum(sizes[1:])
    if packet in BAGS:  # the rows that are summed
        table, chosen = (read.meta["val"] for read in node.all_input_nodes[:2])
        return chosen.numel() * table.shape[1] * table.element_size() + sum(sizes[1:])
    return _once(node.all_input_nodes, sizes)


def _once(reads: Sequence[fx.Node], sizes: Sequence[int]) -> int:
    """Bytes of operands; of several views of the same memory no more than that memory, and of several views of one part of it no more than
    that part."""
    shown: dict[fx.Node, dict[fx.Node, int]] = {}
    for read, size in zip(reads, sizes, strict=True):
        parts = shown.setdefault(_memory_of(read), {})
        part = _part_of(read)
        parts[part] = min(parts[part] + size, max(size, _stored_bytes(part.meta.get("val")))) if part in parts else size
    return sum(
        sum(parts.values()) if len(parts) == 1 else min(sum(parts.values()), _stored_bytes(memory.meta.get("val")))
        for memory, parts in shown.items()
    )


def _part_of(node: fx.Node) -> fx.Node:
    """The first of the views behind a node that shows as many bytes as it does: what cut the part out, or the memory itself."""
    size = _stored_bytes(node.meta.get("val"))
    while node.op == "call_function" and node.all_input_nodes:
        source = node.all_input_nodes[0]
        cut = node.target is operator.getitem and is_view(source.target)
        if cut or not is_view(node.target) or _stored_bytes(source.meta.get("val")) != size:
            break
        node = source
    return node


def _memory_of(node: fx.Node) -> fx.Node:
    """The node whose result a node shows, past views and their parts."""
    while node.op == "call_function" and node.all_input_nodes:
        source = node.all_input_nodes[0]
        if not is_view(node.target) and not (node.target is operator.getitem and is_view(source.target)):
            break
        node = source
    return node


# Operands of which only the shape is read, by their place.
SHAPES_OF = (
    aten.zeros_like, aten.ones_like, aten.full_like, aten.rand_like, aten.randn_like, aten.randint_like, aten.new_zeros, aten.new_ones, aten.new_full,
    aten.fill, aten.fill_, aten.zero, aten.zero_, aten.uniform, aten.uniform_, aten.exponential, aten.exponential_,
)  # fmt: skip
NAMED_ONLY: dict[Any, int] = dict.fromkeys(SHAPES_OF, 0) | {aten.nll_loss_backward: 1, aten.nll_loss2d_backward: 1}


def _takes_shape_of(node: fx.Node, given: fx.Node) -> bool:
    place = NAMED_ONLY.get(getattr(node.target, "overloadpacket", None))
    return place is not None and [at for at, read in enumerate(node.all_input_nodes) if read is given] == [place]


def _stored_bytes(value: Any) -> int:
    """Bytes behind a value: an expanded dimension (stride 0) is read once."""
    total = 0
    for leaf in _leaves(value):
        sizes = [size for size, stride in zip(leaf.shape, leaf.stride(), strict=True) if stride != 0]
        total += math.prod(sizes) * leaf.element_size()
    return total


def _operations(node: fx.Node, packet: Any, value: Any) -> tuple[int, bool, bool]:
    """(operations, is matmul-like, is known)."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda read: read.meta.get("val"))  # type: ignore[misc]
    plain = out_of_place_overload(node.target) if isinstance(node.target, torch._ops.OpOverload) else None  # `add_` costs what `add` does
    packet = packet if plain is None else plain.overloadpacket
    rule: Callable[..., int] | None = flop_registry.get(packet) or ATTENTION.get(packet) or PRODUCTS.get(packet) or GROUPED.get(str(packet))
    if rule is not None:
        return int(rule(*args, **kwargs, out_val=value)) * (4 if _is_complex(value) else 1), True, True
    if packet in MOVES or packet in GATHERS or str(packet) in TRANSFERS:
        return 0, False, True
    out = sum(leaf.numel() for leaf in _leaves(value))
    first = next((leaf.numel() for leaf in _leaves(args)), out)
    if packet in SCATTERS:
        return first, False, True
    if packet in TRANSFORMS:
        return _fourier(args[0], value, args[1]), False, True  # type: ignore[arg-type]
    if packet in COUNTED:
        return COUNTED[packet](*args), False, True
    if packet in BY_OUTPUT:
        return BY_OUTPUT[packet] * out, False, True
    per_element = PER_ELEMENT.get(packet, OWN_PER_ELEMENT.get(str(packet)))
    if per_element is not None:
        return per_element * first * (2 if _is_complex(args) else 1), False, True
    return (out * _real_operations(packet, args), False, True) if is_pointwise(plain or node.target) else (0, False, False)


def _is_complex(values: Any) -> bool:
    return any(leaf.is_complex() for leaf in _leaves(values))


def _real_operations(packet: Any, args: Any) -> int:
    """Of one element of an elementwise operator: one, and of complex numbers what their parts take."""
    if not _is_complex(args):
        return 1
    both = len(args) > 1 and all(_is_complex(each) or isinstance(each, complex) for each in args[:2])
    if packet in (aten.mul, aten.div) and both:
        return 6 if packet is aten.mul else 11
    return 4 if packet is aten.abs else 2


def _fourier(given: Tensor, value: Tensor, dims: list[int]) -> int:
    """5·n·log2(n) operations for each transform of n complex numbers, half of that where one side is real."""
    length = math.prod(max(given.shape[dim], value.shape[dim]) for dim in dims)
    full = 5 * max(given.numel(), value.numel()) * math.log2(max(2, length))
    return int(full if value.is_complex() and given.is_complex() else full / 2)


TRANSFORMS = (aten._fft_c2c, aten._fft_r2c, aten._fft_c2r)
# Operations per element of the output: what an interpolated point takes from its neighbours.
BY_OUTPUT: dict[Any, int] = {
    aten.grid_sampler_2d: 8,
    aten.upsample_bicubic2d: 32,
    aten._upsample_bicubic2d_aa: 32,
    aten.affine_grid_generator: 6,
}


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Two matmuls: 2·B·H·Sq·Sk·(D + Dv)."""
    batch, heads, rows, width = query.shape
    return 2 * batch * heads * rows * key.shape[-2] * (width + value.shape[-1])


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    """Five matmuls: the scores again, and the gradients of probabilities, query, key and value."""
    batch, heads, rows, width = query.shape
    return 2 * batch * heads * rows * key.shape[-2] * (3 * width + 2 * value.shape[-1])


def _alignment(log_probabilities: Tensor, targets: Tensor, *_: Any, **__: Any) -> int:
    """CTC's recursion: 6 operations for each frame and each place of the labels with blanks between them, 2·L + 1."""
    return 6 * log_probabilities.shape[0] * log_probabilities.shape[1] * (2 * targets.shape[-1] + 1)


def _alignment_backward(gradient: Tensor, log_probabilities: Tensor, targets: Tensor, *_: Any, **__: Any) -> int:
    """The recursion from the end, and the gradient of every probability."""
    return _alignment(log_probabilities, targets) + 2 * log_probabilities.numel()


def _bag(table: Tensor, chosen: Tensor, *_: Any, **__: Any) -> int:
    """The chosen rows, summed."""
    return chosen.numel() * table.shape[1]


def _bag_backward(gradient: Tensor, chosen: Tensor, *_: Any, **__: Any) -> int:
    return chosen.numel() * gradient.shape[1]


def _distances(ones: Tensor, others: Tensor, *_: Any, **__: Any) -> int:
    """Difference, square and sum of every coordinate of every pair."""
    return 3 * ones.numel() * others.shape[-2]


BAGS = (aten._embedding_bag, aten._embedding_bag_forward_only)
COUNTED: dict[Any, Callable[..., int]] = {
    aten._cdist_forward: _distances, aten._euclidean_dist: _distances, aten._ctc_loss: _alignment, aten._ctc_loss_backward: _alignment_backward, aten._embedding_bag: _bag,
    aten._embedding_bag_forward_only: _bag, aten._embedding_bag_dense_backward: _bag_backward, aten._embedding_bag_backward: _bag_backward,
}  # fmt: skip
ATTENTION: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def _matrix_vector(matrix: Tensor, *_: Any, **__: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(bias: Tensor, matrix: Tensor, *_: Any, **__: Any) -> int:
    return _matrix_vector(matrix)


def _recurrent(steps: Tensor, from_input: Tensor, from_state: Tensor, *_: Any, **__: Any) -> int:
    """Every step of every sequence meets both matrices of the layer."""
    return 2 * (steps.numel() // steps.shape[-1]) * (from_input.numel() + from_state.numel())


def _recurrent_backward(*args: Any, **kwargs: Any) -> int:
    return 2 * _recurrent(*args, **kwargs)


PRODUCTS: dict[Any, Callable[..., int]] = {
    aten.mv: _matrix_vector, aten.addmv: _added_matrix_vector, aten.mkldnn_rnn_layer: _recurrent,
    aten.mkldnn_rnn_layer_backward: _recurrent_backward,
}  # fmt: skip


def _grouped(rows: Tensor, weights: Tensor, *_: Any, **__: Any) -> int:
    """Every row meets the matrix of its own group: 2·S·K·N, whatever the groups."""
    return 2 * rows.shape[0] * weights.shape[-2] * weights.shape[-1]


def _grouped_backward(rows: Tensor, weights: Tensor, *_: Any, **__: Any) -> int:
    return 2 * _grouped(rows, weights)


def _grouped_mm(one: Tensor, two: Tensor, *_: Any, **__: Any) -> int:
    """Whichever of the two is ragged, each of its rows or columns meets one matrix of the other: 2·M·K·N in all."""
    if one.dim() == 3 and two.dim() == 2:
        return 2 * one.shape[-2] * two.numel()
    return 2 * one.numel() * two.shape[-1]


# By name: the operators of transformers exist only once it is imported.
GROUPED: dict[str, Callable[..., int]] = {
    "fxscope.blockwise_attention": _attention,
    "fxscope.blockwise_attention_backward": _attention_backward,
    "aten._grouped_mm": _grouped_mm,
    "transformers.grouped_mm_fallback": _grouped,
    "transformers.grouped_mm_fallback_backward": _grouped_backward,
}
