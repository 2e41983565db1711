"""The model itself, as its author would run it: eagerly or under `torch.compile`, with the weights and inputs of a captured program.

Forward alone in inference; forward, loss and gradients of the parameters in training. It is what a graph is to be compared with, for a graph without
Python between its operators is faster than the model it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from graphs.capture import input_names, mixes_devices
from graphs.errors import CaptureError
from graphs.program import Program
from graphs.sources.base import ModelSource
from graphs.trace import Inference, Training

Results = tuple[Tensor, ...]
Run = Callable[[], Results]


def original(source: ModelSource, program: Program, seed: int = 0, compiled: bool = False) -> Run:
    """One run of the model that a program was captured from, on the program's device, on the same numbers as `program.materialize(seed)`.

    Returns: of inference the outputs; of training the loss, then the gradient of every parameter that has one, in their order.

    Args:
        compiled: under torch.compile; it compiles at the first run.

    Raises:
        CaptureError: the program does more than the model: an update of an optimizer.
    """
    if any(spec.role == "state" for spec in program.inputs):
        raise CaptureError(
            "the graph ends with an optimizer's update, which the model alone does not have", help="Capture without `optimizer`."
        )
    tensors = program.tensors(seed)
    device, training = torch.device(program.device), program.mode == "training"
    model = source.build().to(device).train(training)
    _load(model, tensors)
    args = _arguments(source, tensors, device)
    names = tuple(args) if isinstance(args, dict) else ()
    wrapper = Training(model, names, source.loss, alone=True) if training else Inference(model, names)
    given = tuple(args.values()) if isinstance(args, dict) else tuple(args)
    step = torch.compile(wrapper) if compiled else wrapper
    run = _training(step, wrapper, given, tensors["seed", "loss"].to(device)) if training else _inference(step, given)
    return run if device.type == "cpu" else _placed(run, device)


def _placed(run: Run, device: torch.device) -> Run:
    """The run as it is, or where that mixes devices, with the tensors that the model makes put on the GPU: only then, for it slows every call."""
    try:
        run()
    except RuntimeError as error:
        if not mixes_devices(error):
            raise
    else:
        return run

    def on_device() -> Results:
        with device:
            return run()

    return on_device


def _inference(step: Callable[..., Any], given: tuple[Any, ...]) -> Run:
    def run() -> Results:
        with torch.no_grad():
            return step(*given)

    return run


def _training(step: Callable[..., Any], wrapper: nn.Module, given: tuple[Any, ...], seed: Tensor) -> Run:
    """Args: seed: the gradient of the loss with respect to itself."""
    parameters = [value for value in wrapper.parameters() if value.requires_grad]

    def run() -> Results:
        for parameter in parameters:
            parameter.grad = None
        (loss,) = step(*given)
        loss.backward(seed.to(loss.dtype))
        return (loss.detach(), *(parameter.grad for parameter in parameters if parameter.grad is not None))

    return run


def _load(model: nn.Module, tensors: Mapping[tuple[str, str], Tensor]) -> None:
    """The program's own numbers; what it has none for stays as it was built."""
    with torch.no_grad():
        for role, held in (("parameter", model.named_parameters), ("buffer", model.named_buffers)):
            for name, value in held():
                if (role, name) in tensors and tensors[role, name].shape == value.shape:
                    value.copy_(tensors[role, name])


def _arguments(source: ModelSource, tensors: Mapping[tuple[str, str], Tensor], device: torch.device) -> Any:
    """The source's arguments with the program's tensors in their places; numbers of Python stay numbers."""
    args = source.inputs()
    leaves, spec = pytree.tree_flatten(args)
    named = zip(leaves, input_names(args), strict=True)
    return pytree.tree_unflatten(
        [tensors["input", name].detach().to(device) if isinstance(value, Tensor) else value for value, name in named], spec
    )
