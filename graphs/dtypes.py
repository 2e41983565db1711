"""What shapes alone do not tell: torch's rules for shapes let matrices of different precisions meet, its kernels do not."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from graphs.errors import CaptureError
from graphs.origin import source_of_trace

aten = torch.ops.aten
ONE_DTYPE = (aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.linear, aten.matmul, aten.convolution, aten.conv1d, aten.conv2d, aten.conv3d)


def refuse_mixed_dtypes(gm: fx.GraphModule) -> None:
    """Raises CaptureError at the first product of tensors of different dtypes: the model does not run so."""
    for node in gm.graph.nodes:
        if getattr(node.target, "overloadpacket", None) in ONE_DTYPE:
            values = [read.meta.get("val") for read in node.all_input_nodes]
            dtypes = dict.fromkeys(value.dtype for value in values if isinstance(value, Tensor))
            if len(dtypes) > 1:
                raise _refusal(node, [str(dtype).removeprefix("torch.") for dtype in dtypes])


def _refusal(node: fx.Node, dtypes: list[str]) -> CaptureError:
    source = source_of_trace(node.meta.get("stack_trace") or "")
    where = f"{source.file}:{source.line}: {source.text}" if source else ""
    what = f"`{node.target.overloadpacket.__name__}` gets tensors of different dtypes: {' and '.join(dtypes)}"  # type: ignore[union-attr]
    return CaptureError(what, where=where, help="Give the inputs the dtype of the weights, or cast with .to(…).")
