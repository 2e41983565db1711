"""Node -> work: what a node asks of a device, by class of operator. Without torch.

A class is a way to use the hardware: matmuls live from arithmetic, elementwise operators and copies from bandwidth, norms and sums read rows twice or more,
gathers jump. Softmax, and operators that compute a function such as `tanh` for every element, stand apart, since a CPU takes many operations for one. Kernels that were
compiled from several operators are classes of their own: their loops are not those of the library.
"""

from __future__ import annotations

import math

from graphs.functions import FUNCTIONS, SOFTMAXES
from graphs.record import Cost, NodeRecord
from profiler.prediction_record import (
    ATTENTION,
    CONVOLUTION,
    CONVOLUTION_BACKWARD,
    COPY,
    ELEMENTWISE,
    GATHER,
    KERNEL,
    KERNEL_FUNCTIONS,
    MATMUL,
    RANDOM,
    ROWS,
    SOFTMAX,
    TRANSCENDENTAL,
    Work,
)

COPIES = {
    "clone", "copy", "_to_copy", "cat", "stack", "full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "new_zeros", "new_ones", "new_full",
    "constant_pad_nd", "repeat", "roll", "flip", "slice_scatter", "select_scatter", "slice_backward", "select_backward", "arange", "split_with_sizes_copy",
    "lift_fresh_copy", "fill", "nll_loss_forward", "nll_loss_backward", "empty", "new_empty_strided", "view_copy", "permute_copy", "expand_copy", "as_strided_scatter", "im2col", "scalar_tensor",
}  # fmt: skip
GATHERS = {
    "embedding", "gather", "index", "_unsafe_index", "index_select", "embedding_dense_backward", "scatter", "scatter_add", "index_put", "_unsafe_index_put",
    "index_add", "take_along_dim", "scatter_reduce", "index_reduce", "_embedding_bag", "masked_scatter", "nonzero", "topk", "sort",
    "upsample_nearest2d", "upsample_nearest2d_backward", "upsample_bilinear2d", "max_pool2d_with_indices", "max_pool2d", "max_pool2d_with_indices_backward", "unique",
}  # fmt: skip
REDUCTIONS = {
    "native_layer_norm", "native_layer_norm_backward",
    "native_group_norm", "native_group_norm_backward", "native_batch_norm", "native_batch_norm_backward", "batch_norm_backward", "_native_batch_norm_legit",
    "_native_batch_norm_legit_functional", "_native_batch_norm_legit_no_training", "_batch_norm_with_update_functional", "_fused_rms_norm",
    "_fused_rms_norm_backward", "rms_norm", "rms_norm_backward", "sum", "mean", "amax", "amin", "max", "min", "argmax", "argmin", "any", "all", "prod", "var", "var_mean",
    "std", "cumsum", "cumprod", "norm", "linalg_vector_norm", "avg_pool2d", "avg_pool2d_backward",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool2d_backward", "mse_loss",
}  # fmt: skip
DRAWS = {
    "native_dropout", "bernoulli", "rand", "randn", "rand_like", "randn_like", "uniform", "normal", "randint", "exponential", "multinomial", "randperm",
    "inductor_random", "inductor_seeds",
}  # fmt: skip
_CLASS_OF = (
    dict.fromkeys(COPIES, COPY)
    | dict.fromkeys(GATHERS, GATHER)
    | dict.fromkeys(REDUCTIONS, ROWS)
    | dict.fromkeys(SOFTMAXES, SOFTMAX)
    | dict.fromkeys(FUNCTIONS, TRANSCENDENTAL)
    | dict.fromkeys(DRAWS, RANDOM)
)


def work_of(node: NodeRecord) -> Work | None:
    """What one run of the node asks of a device, or None where it launches nothing.

    A matmul's inner dimension follows from its counted operations: 2 × batch × rows × columns × depth.
    """
    cost = node.cost
    if not cost.launches or not node.times:
        return None
    kind = class_of(node.target, cost)
    name = "" if kind in (KERNEL, KERNEL_FUNCTIONS) else _plain_name(node.target)
    batch, rows, columns = _product(kind, node)
    depth = max(1, cost.matmul_flops // (2 * batch * rows * columns)) if batch * rows * columns else 0
    sizes = (batch, rows, columns, depth) if depth else (0, 0, 0, 0)
    return Work(kind, node.dtype or "float32", cost.flops, cost.bytes_read, cost.bytes_written, cost.launches, *sizes, name, cost.functions)


def _product(kind: str, node: NodeRecord) -> tuple[int, int, int]:
    """Batch, rows and columns of a node's result as that of a matmul; a convolution has a row for each pixel and a column for each channel. Zeros for all else."""
    sizes = [int(size) if isinstance(size, int) else 1 for size in node.shape or ()]
    if kind == MATMUL and len(sizes) >= 2:
        return math.prod(sizes[:-2]), sizes[-2], sizes[-1]
    if kind == CONVOLUTION and len(sizes) >= 3:
        return 1, sizes[0] * math.prod(sizes[2:]), sizes[1]
    return 0, 0, 0


def class_of(target: str, cost: Cost) -> str:
    """The class of an operator, by its name and whether it multiplies matrices."""
    name = _plain_name(target)
    if "attention" in name:
        return ATTENTION
    if "conv" in name and cost.matmul_flops:
        return CONVOLUTION_BACKWARD if "backward" in name else CONVOLUTION
    if cost.matmul_flops:
        return MATMUL
    if target.startswith("kernel."):
        return KERNEL_FUNCTIONS if cost.functions else KERNEL
    return _CLASS_OF.get(name) or _CLASS_OF.get(name.rstrip("_"), ELEMENTWISE)


def _plain_name(target: str) -> str:
    """`aten.native_layer_norm.default` -> `native_layer_norm`."""
    parts = target.split(".")
    return parts[1] if len(parts) > 1 and parts[0] in ("aten", "fxscope", "prims") else parts[0]
