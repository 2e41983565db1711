"""Which readers of a saved tensor may get a rounded one, and which ask something of it that rounding turns around."""

from __future__ import annotations

import torch
from torch import fx

from optimizers.patterns.saved import Saved, statistic_reason

aten = torch.ops.aten
# Only the sign is asked for, or whether it is zero.
AT_ZERO = (aten.sgn, aten.sign, aten.leaky_relu_backward, aten.logical_not, aten._prelu_kernel_backward)
# On which side of some number, or of another tensor, an element lies; or which of several is largest.
SIDES = (
    aten.eq, aten.ne, aten.lt, aten.le, aten.gt, aten.ge, aten.maximum, aten.minimum, aten.hardtanh_backward, aten.hardsigmoid_backward,
    aten.hardswish_backward, aten.hardshrink_backward, aten.softshrink_backward, aten.floor, aten.ceil, aten.round, aten.trunc, aten.frac,
    aten.fmod, aten.remainder, aten.heaviside, aten.argmax, aten.argmin, aten.max, aten.min, aten.sort, aten.topk, aten.isnan, aten.isinf,
    aten._cdist_backward, aten.huber_loss_backward, aten.smooth_l1_loss_backward, aten.elu_backward, aten.bucketize,
)  # fmt: skip


def asks_at_zero(reader: fx.Node) -> bool:
    """Does it ask of each element only whether it is above, at, or below zero?"""
    packet = getattr(reader.target, "overloadpacket", None)
    if packet is aten.threshold_backward:
        return bool(reader.args[2] == 0)
    return packet in AT_ZERO


def _asks_elsewhere(reader: fx.Node) -> bool:
    packet = getattr(reader.target, "overloadpacket", None)
    return packet in SIDES or packet is aten.threshold_backward and not asks_at_zero(reader)


def reason_to_keep_exact(saved: Saved, zero_is_kept: bool) -> str:
    """Why backward must get the tensor as it was; empty where rounding does little.

    Args:
        zero_is_kept: rounding leaves zeros, and no other number becomes one.
    """
    if reason := statistic_reason(saved):
        return reason
    for reader in saved.readers:
        if _asks_elsewhere(reader) or not zero_is_kept and asks_at_zero(reader):
            return f"{reader.name} asks on which side of a limit its elements lie, which rounding may turn around."
    return ""
