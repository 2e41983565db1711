"""Fuse convolution epilogue: activation and residual sum before the result is written, in the convolution's own kernel.

## Why it is slow
Behind every convolution of a residual network stand a ReLU, or a sum and a ReLU: each reads the whole image from memory, does one
operation per number and writes it back. And PyTorch on a CPU takes every convolution by itself: the image, whose channels come first, is
brought into the kernel's order and back each time, and so is the filter.

## What changes
One kernel with *post-operations* (`mkldnn._convolution_pointwise`): activation, or sum, difference or product with another tensor and
then a ReLU. The filter is brought into the kernel's order once, by a `prepared` node; the result has its channels last in memory, as the next
convolution wants it. On a GPU it is cuDNN's `cudnn_convolution_relu` or `cudnn_convolution_add_relu` (not run on a GPU here).

## When it does not apply
In training: filters change in every step, so they cannot be prepared once, and without that the kernel saved is spent on
bringing them into order. When somebody else reads the value in between. When a later `view` needs the channels first: the copy would
cost what the fusion saves. oneDNN has no float64. With a batch norm between convolution and activation: fold it first. Sums are taken in
another order, so results differ by rounding; and where PyTorch's ReLU, clamps and hard sigmoid give NaN for NaN, oneDNN's give a number,
so a model that is broken already may look healthy.

## Try it
Fold the batch norms of a ResNet first, then apply this: no launch for a ReLU or a sum is left between convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor, fx, nn

from optimizers.base import Example, Function, Match, Miss, Optimization, value_of
from optimizers.editing import call, prepare, weights_that_stand_still
from optimizers.patterns import cudnn as cudnn
from optimizers.patterns import onednn
from optimizers.patterns.channel_order import readers_of_order
from optimizers.patterns.elementwise_functions import Activation
from optimizers.patterns.epilogue import Epilogue, NotFused, Step, absorb, follow, why_not_absorbed
from optimizers.patterns.onednn import Window
from optimizers.record import Claim

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
RELU = Activation("relu")


def find(gm: fx.GraphModule) -> Iterator[Match | Miss]:
    """Every convolution, with what its kernel could do beside it."""
    once, ordered, taken = weights_that_stand_still(gm), readers_of_order(gm), set[fx.Node]()
    found: list[Match | Miss] = []
    # The last first: of two convolutions that are added, the later one can do the sum.
    for node in reversed(gm.graph.nodes):
        if node.target is not aten.convolution.default:
            continue
        try:
            epilogue = _read(node, once, ordered, taken)
        except NotFused as reason:
            found.append(Miss(node, str(reason)))
            continue
        taken.update(epilogue.nodes)
        found.append(Match(node, epilogue.nodes, epilogue, epilogue.note))
    yield from reversed(found)


def _read(node: fx.Node, once: Collection[fx.Node], ordered: Mapping[fx.Node, fx.Node], taken: Collection[fx.Node]) -> Epilogue:
    value = value_of(node)
    if not value.numel() or not value_of(node.args[0]).numel():  # type: ignore[arg-type]
        raise NotFused("It is empty.")
    if node.args[6]:
        raise NotFused("It is a transposed convolution, whose kernel does not say how its result is laid out.")
    if value.device.type == "cuda":
        if value.dim() != 4:
            raise NotFused("cuDNN's fused kernel is for images of two dimensions.")
        return follow(node, 1, _why_not_cudnn, taken)
    if value.device.type != "cpu":
        raise NotFused("It is neither on a CPU nor on a GPU by NVIDIA.")
    if reason := onednn.why_not(value):
        raise NotFused(reason)
    if node.args[1] not in once:
        raise NotFused("Its filter is computed in every run, so it cannot be brought into the kernel's order once.")
    found = follow(node, 1, lambda so_far, step: _why_not(node, so_far, step, once), taken)
    if found.last in ordered:
        raise NotFused(f"{ordered[found.last].name} needs the channels first: it would have to copy what this kernel gives.")
    return found


def _why_not(node: fx.Node, so_far: Epilogue, step: Step, once: Collection[fx.Node]) -> str:
    """Why oneDNN's kernel cannot do this step after those so far."""
    done = so_far.of("activation", "add", "sub", "mul")
    if done and (done[-1].activation or step.activation != RELU):
        return f"The kernel can do {'nothing' if done[-1].activation else 'only a ReLU'} after {done[-1].word}."
    if step.kind in ("scale", "bias"):
        return why_not_absorbed(so_far, step, node.args[1], node.args[2], once)  # type: ignore[arg-type]
    if step.kind in ("add", "sub", "mul") and value_of(step.operand).shape != value_of(node).shape:
        return f"The second operand of {step.node.name} has another shape than the result."
    return ""


def _why_not_cudnn(so_far: Epilogue, step: Step) -> str:
    """cuDNN does a ReLU, or a sum and a ReLU; a sum alone is dropped again in `_without_relu`."""
    if so_far.of("activation"):
        return "The kernel can do nothing after its ReLU."
    if step.activation == RELU:
        return ""
    if step.kind == "add" and not so_far.steps and value_of(step.operand).shape == value_of(step.node).shape and _relu_follows(step.node):
        return ""
    return f"cuDNN's fused kernels are a ReLU, and a sum with a ReLU, not {step.word}."


def _relu_follows(node: fx.Node) -> bool:
    return [reader.target for reader in node.users] == [aten.relu.default]


def rewrite(gm: fx.GraphModule, match: Match) -> None:
    """One kernel in the place of the last step."""
    found: Epilogue = match.data
    with gm.graph.inserting_before(found.last):
        on_gpu = value_of(found.product).device.type == "cuda"
        fused = _cudnn(gm, found) if on_gpu else _onednn(gm, found)
    found.last.replace_all_uses_with(fused)


def _onednn(gm: fx.GraphModule, found: Epilogue) -> fx.Node:
    x, weight, bias = found.product.args[:3]
    assert isinstance(x, fx.Node)
    assert isinstance(weight, fx.Node)
    window, flat = Window.of(found.product), value_of(x).dim() == 3
    factor, bias = absorb(gm, found, bias)  # type: ignore[arg-type]
    x = _with_height(gm, x)
    size = list(value_of(x).shape)
    packed = prepare(gm, "packed_filter", lambda values: window.pack(values if factor == 1 else values * factor, size), weight)
    moved = window.padding, window.stride, window.dilation, window.groups
    activation = next((step.activation for step in found.of("activation") if step.activation), None)
    binary = found.of("add", "sub", "mul")
    if binary:
        other = _with_height(gm, binary[0].operand)
        last = activation.name if activation else None
        fused = call(gm, mkldnn._convolution_pointwise.binary, x, other, packed, bias, *moved, binary[0].kind, None, last, [], None)
    else:
        does = activation or Activation("none")
        fused = call(gm, mkldnn._convolution_pointwise.default, x, packed, bias, *moved, does.name, list(does.numbers), does.formula)
    return call(gm, aten.squeeze.dim, fused, 2) if flat else fused


def _with_height(gm: fx.GraphModule, node: fx.Node) -> fx.Node:
    """A row of places [N, C, L] as an image of height 1."""
    return call(gm, aten.unsqueeze.default, node, 2) if value_of(node).dim() == 3 else node


def _cudnn(gm: fx.GraphModule, found: Epilogue) -> fx.Node:
    x, weight, bias, stride, padding, dilation, _transposed, _output_padding, groups = found.product.args
    moved = bias, stride, padding, dilation, groups
    added = found.of("add")
    if added:
        return call(gm, aten.cudnn_convolution_add_relu.default, x, weight, added[0].operand, 1.0, *moved)
    return call(gm, aten.cudnn_convolution_relu.default, x, weight, *moved)


class _Residual(nn.Module):
    """A block of a residual network, its batch norms folded."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.activation = activation
        self.first, self.second = (nn.Conv2d(16, 16, 3, padding=1, dtype=dtype) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.second(self.activation(self.first(x))))


class _Sound(nn.Module):
    """Convolutions over time, the first by group, with a scale and a bias of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 16, 5, 2, groups=4, bias=False), nn.Conv1d(16, 8, 3, padding=1)
        self.bias = nn.Parameter(torch.randn(16, 1))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(self.second(nn.functional.hardswish(self.first(x) * 0.5 + self.bias)))


def _patches(x: Tensor, weight: Tensor) -> Tensor:
    return torch.relu(torch.conv2d(x, weight))


class _Patches(nn.Module):
    """Joins channels and places."""

    def __init__(self) -> None:
        super().__init__()
        self.filters = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.filters(x)).flatten(1)


def _image(channels: int = 16, dtype: torch.dtype = torch.float32) -> Callable[[], tuple[Tensor, ...]]:
    return lambda: (torch.randn(2, channels, 8, 8, dtype=dtype),)


OPTIMIZATION = Optimization(
    name="fuse-convolution-epilogue",
    summary="Activation or residual sum in the convolution's kernel, before the result is written.",
    find=find,
    rewrite=rewrite,
    claim=Claim(launches="lower", flops="lower", bytes_moved="lower", peak_bytes="any"),
    examples=(
        Example(_Residual, _image(), matches=2),
        Example(lambda: _Residual(nn.functional.relu6), _image(), matches=2),
        Example(_Sound, lambda: (torch.randn(2, 8, 33),), matches=2),
    ),
    refusals=(
        Example(_Residual, _image(), "training", reason="inference only"),
        Example(lambda: _Residual(dtype=torch.float64), _image(dtype=torch.float64), reason="float64"),
        Example(_Patches, _image(3), reason="channels first"),
        Example(lambda: Function(_patches), lambda: (torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)), reason="computed in every run"),
        Example(lambda: _Residual(nn.functional.mish), _image(), reason="could do for each element"),
    ),
    exactness="rounding",
    applies_to=("inference",),
)
