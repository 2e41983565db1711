"""A safetensors file: tensors by name, shape and dtype. With the config.json beside it, a graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from torch import nn

from graphs.building import shapes_only
from graphs.errors import SourceError
from graphs.sources.base import ModelSource, TensorTree
from graphs.sources.hugging_face import config_source
from graphs.sources.safetensors_header import Shapes, shapes

SAYS = (
    "A safetensors file holds tensors and no computation, so there is no graph in it. Bring its config.json too: take both files at once, "
    "or in one zip."
)


def safetensors_tree(content: bytes, name: str) -> TensorTree:
    """The tensors of one file.

    Raises:
        SourceError: it cannot be read.
    """
    return TensorTree(name, shapes(content, name), SAYS)


def with_config(config: str, weights: Mapping[str, bytes], name: str, options: Mapping[str, str], mode: str) -> ModelSource:
    """A model from its configuration, in the precision of its weights, whose names and shapes are compared with the model's.

    Raises:
        SourceError: the weights are of another model.
    """
    held: Shapes = {}
    for path, content in weights.items():
        held.update(shapes(content, path))
    precision = Counter(dtype for _, dtype in held.values() if dtype in ("float32", "bfloat16", "float16", "float64"))
    given = dict(options)
    if precision and "dtype" not in given:
        given["dtype"] = precision.most_common(1)[0][0]
    source = config_source(config, name, given, mode)
    if "layers" in given:  # a shortened model has fewer tensors, and that is what was asked for
        return source
    return replace(source, notes=(*source.notes, _compared(source.build, held, name)))


def _compared(build: Callable[[], nn.Module], held: Shapes, name: str) -> str:
    """How the file's tensors fit the model's."""
    with shapes_only():
        own = {key: tuple(value.shape) for key, value in build().state_dict().items()}
    fitting = [key for key, (shape, _) in held.items() if own.get(_alias(key, own)) == shape]
    wrong = next((key for key, (shape, _) in held.items() if _alias(key, own) in own and own[_alias(key, own)] != shape), None)
    if wrong is not None:
        what = f"{wrong} is {list(held[wrong][0])} in the file and {list(own[_alias(wrong, own)])} in the configuration's model"
        raise SourceError(what, where=name, help="Bring the config.json that belongs to these weights.")
    if not fitting:
        raise SourceError(
            "none of the file's tensors is in the configuration's model",
            where=name,
            help="Bring the config.json that belongs to these weights.",
        )
    return f"{len(fitting):,} of {len(held):,} tensors in the file are the model's, with the same shapes"


def _alias(key: str, own: Mapping[str, object]) -> str:
    """Files may leave out, or add, the name of the inner model in front."""
    if key in own:
        return key
    rest = key.partition(".")[2]
    return rest if rest in own else next((f"{top}.{key}" for top in {one.partition(".")[0] for one in own} if f"{top}.{key}" in own), key)
