"""What a reader may ask of a capture, whatever the model: the optimizer's update, the loss alone, autocast, dynamic dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphs.errors import RequestError

UPDATES = ("none", "sgd", "adamw")
AUTOCASTS = ("none", "bfloat16", "float16")
OMITTED = ("none", "outputs")
TRAINING_ONLY = ("update", "omit")
DIMENSIONS = ("none", "batch", "batch+seq")
MEANINGS = {
    "update": ("optimizer whose update joins the training graph", UPDATES),
    "omit": ("what a training graph leaves out: the model's outputs beside the loss, so that they need not exist", OMITTED),
    "autocast": ("precision that torch.autocast takes for matmuls and convolutions", AUTOCASTS),
    "dynamic": ("dimensions kept symbolic: b for the first of every input, s for the second", DIMENSIONS),
}


@dataclass(frozen=True)
class CaptureOptions:
    """Attributes: update (none, sgd, adamw), omit (none, outputs), autocast (none or a dtype), dynamic (none, batch, batch+seq)."""

    update: str = "none"
    omit: str = "none"
    autocast: str = "none"
    dynamic: str = "none"


PLAIN = CaptureOptions()


def split_options(given: Mapping[str, str], mode: str) -> tuple[CaptureOptions, dict[str, str]]:
    """Options of the capture, and those left for the model.

    Raises:
        RequestError: a value that is none of the choices, or an update outside training.
    """
    for name, (_, choices) in MEANINGS.items():
        if given.get(name, "none") not in choices:
            raise RequestError(f"{name}={given[name]} is unknown", where=name, help=f"Choose one of: {', '.join(choices)}.")
    own = {name: value for name, value in given.items() if name in MEANINGS}
    options = CaptureOptions(**own)
    for name in TRAINING_ONLY:
        if getattr(options, name) != "none" and mode != "training":
            raise RequestError(f"mode={mode} has no {name}", where=name, help=f"Write mode=training, or leave {name} out.")
    return options, {name: value for name, value in given.items() if name not in MEANINGS}
