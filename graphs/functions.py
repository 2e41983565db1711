"""Operators of torch that compute a function such as `exp` for every element, by name. Without torch.

Counted as one operation for each element, like an addition, they take a processor many: what is fast and what is slow needs their number apart.
"""

from __future__ import annotations

FUNCTIONS = frozenset({
    "tanh", "gelu", "gelu_backward", "erf", "exp", "log", "sigmoid", "silu", "silu_backward", "mish", "sin", "cos", "elu", "softplus", "log_sigmoid_forward",
    "logit", "expm1", "log1p", "atan", "atan2", "polar",
})  # fmt: skip
SOFTMAXES = frozenset({"_softmax", "_safe_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data", "logsumexp"})
# The backward of softmax multiplies and sums what forward computed; that of log-softmax takes exponentials again.
ONE_EACH = FUNCTIONS | SOFTMAXES - {"_softmax_backward_data"}
