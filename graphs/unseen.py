"""Memory that stays with a result though its shape does not show it.

Some losses of torch compute all terms into a buffer, sum them there, and give back the one number in that buffer: it keeps the memory of
all terms for as long as the number lives, which for the loss of a training graph is to the end. (`at::mean_out` and `sum_out` make the
shape smaller, never the storage.) Found by running them with torch 2.13 on a CPU; the other losses give back a buffer of one number.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx

aten = torch.ops.aten
SUMMED_IN_PLACE = (aten.mse_loss, aten.smooth_l1_loss, aten.binary_cross_entropy, aten.soft_margin_loss)


def unseen_bytes(node: fx.Node) -> int:
    """Bytes of the storage of a node's result beyond those of the result itself."""
    if getattr(node.target, "overloadpacket", None) not in SUMMED_IN_PLACE:
        return 0
    value = node.meta["val"]
    terms = [read.meta["val"].shape for read in node.args[:2] if isinstance(read, fx.Node) and isinstance(read.meta["val"], Tensor)]
    return max(0, math.prod(torch.broadcast_shapes(*terms)) - value.numel()) * value.element_size()
