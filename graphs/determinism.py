"""Which operators give the same bits each time that they run on the same values, in one process, with the same number of threads.

Most do: a kernel for a CPU splits its work by number of threads and adds partial sums in a fixed order, and memory that torch allocates begins at
multiples of 64 bytes, so a library's choice of code by alignment is the same too. Those named here do not. They are what
`torch.use_deterministic_algorithms` documents, as ATen operators, and what it leaves out because no flag could mend it: memory that nobody wrote to.
On a CPU it is writing to places by index: threads race for a place that is named twice, and float32 sums are added atomically in whatever order
threads come. On CUDA a long list adds atomically; convolutions too, as cuDNN may choose such an algorithm. Random draws are another matter (`randomness`).
"""

from __future__ import annotations

import torch
from torch import fx

from graphs.bodies import bodies
from graphs.regions import region_of

OWN = ("aten", "prims", "fxscope", "quantized_decomposed")  # whose operators are known; nobody knows what another one does
UNWRITTEN = ("empty", "empty_like", "empty_strided", "empty_permuted", "empty_quantized", "new_empty", "new_empty_strided")
RACING = ("index_put", "_unsafe_index_put", "_index_put_impl", "index_copy", "put")
ON_CUDA = (
    "convolution", "_convolution", "cudnn_convolution", "cudnn_convolution_transpose", "_cudnn_rnn", "scatter", "scatter_add", "scatter_reduce",
    "index_add", "index_reduce", "max_unpool2d", "max_unpool3d", "nll_loss_forward", "nll_loss2d_forward", "histc", "bincount", "median",
    "nanmedian", "kthvalue", "cumsum", "cumprod", "logcumsumexp", "_sparse_mm", "sparse_sampled_addmm",
)  # fmt: skip
BACKWARD = ("_backward", "_backward_data")  # on CUDA so many of these add atomically that none is taken for granted


def repeats(node: fx.Node, device: str) -> bool:
    """Does the operator give the same bits when it runs again on the same values? Where nobody knows, it does not.

    Args:
        device: cpu or cuda: whose kernels run.
    """
    inner = [each for body in bodies(node) for each in body.gm.graph.nodes]
    region = region_of(node)
    inner += region.inner if region is not None else []
    return _repeats(node.target, device) and all(repeats(each, device) for each in inner if each.op == "call_function")


def _repeats(target: object, device: str) -> bool:
    if not isinstance(target, torch._ops.OpOverload):
        return True  # a region or an operator with bodies, which are looked into, or arithmetic on sizes
    name = target._schema.name.partition("::")[2]
    if target.namespace not in OWN or torch.Tag.nondeterministic_bitwise in target.tags:
        return False
    if device != "cpu" and (name in ON_CUDA or name.endswith(BACKWARD)):
        return False
    return name not in (*UNWRITTEN, *RACING)
