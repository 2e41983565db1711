"""Guesses: a constructor's arguments from their names, and inputs from the model's first layers, tried out on shapes alone."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphs.building import shapes_only
from graphs.sources.arguments import TensorWords, made

# What a name of a constructor's argument suggests; the first word that it contains decides.
BY_NAME: tuple[tuple[tuple[str, ...], str], ...] = (
    (("norm_layer",), "nn.LayerNorm"),
    (("device",), "'cpu'"),
    (("vocab", "num_embeddings", "n_tokens", "ntoken"), "1000"),
    (("class", "label", "answer", "out_features", "output", "out_dim", "n_out"), "10"),
    (("in_channel", "in_chan", "channels_in", "num_channels", "c_in"), "3"),
    (("channel", "chan"), "16"),
    (("head",), "4"),
    (("layer", "depth", "block_count", "n_block", "num_block"), "2"),
    (("kernel", "ksize"), "3"),
    (("stride", "group", "dilation"), "1"),
    (("padding",), "1"),
    (("patch",), "4"),
    (("image", "img", "resolution"), "32"),
    (("seq", "max_len", "block_size", "context", "length", "position"), "128"),
    (("dropout", "drop", "prob"), "0.0"),
    (("eps",), "1e-05"),
    (("ff", "inner", "mlp", "intermediate"), "128"),
    (("dim", "width", "hidden", "d_model", "embed", "features", "size", "units", "channels", "n_embd", "emb"), "64"),
    (("expert",), "4"),
    (("batch",), "2"),
)
BY_TYPE = {int: "64", float: "0.1", bool: "False", str: "''", "int": "64", "float": "0.1", "bool": "False", "str": "''"}
CONFIGS = ("config", "cfg", "args", "params", "hparams", "opt")
BATCH, SEQ = 2, 16
TRIALS, SECONDS = 150, 8.0
LAYERS = 4  # of a model's first layers, how many to take a hint from


def argument(parameter: inspect.Parameter, own: Mapping[str, Any]) -> str:
    """Words for a required argument of a constructor; empty where nothing is known."""
    name = parameter.name.lower()
    part = _config(parameter, own) or _part(parameter, own)
    if part:
        return part
    if parameter.annotation in (bool, "bool", str, "str", float, "float"):
        return next((words for keys, words in BY_NAME if "." in words and any(key in name for key in keys)), BY_TYPE[parameter.annotation])
    found = next((words for keys, words in BY_NAME if any(key in name for key in keys)), "")
    return found or BY_TYPE.get(parameter.annotation, "")


def _part(parameter: inspect.Parameter, own: Mapping[str, Any], depth: int = 0) -> str:
    """`Encoder(width=64)` where the annotation is a model of the same file whose own arguments can be guessed."""
    name = parameter.annotation if isinstance(parameter.annotation, str) else getattr(parameter.annotation, "__name__", "")
    found = own.get(name)
    if not (isinstance(found, type) and issubclass(found, nn.Module)) or depth > 2:
        return ""
    needed = [
        one for one in inspect.signature(found).parameters.values() if one.default is one.empty and one.kind == one.POSITIONAL_OR_KEYWORD
    ]
    values = {one.name: _part(one, own, depth + 1) or argument(one, {k: v for k, v in own.items() if v is not found}) for one in needed}
    return f"{name}({', '.join(f'{key}={value}' for key, value in values.items())})" if all(values.values()) else ""


def _config(parameter: inspect.Parameter, own: Mapping[str, Any]) -> str:
    """`GPTConfig()` where the file has a dataclass, or a class of that annotation, that can be made without arguments."""
    plain = [value for value in own.values() if isinstance(value, type) and not issubclass(value, nn.Module)]
    wanted = parameter.annotation if isinstance(parameter.annotation, str) else getattr(parameter.annotation, "__name__", "")
    for one in plain:
        fits = one.__name__ == wanted or (parameter.name.lower() in CONFIGS and dataclasses.is_dataclass(one))
        if fits and all(p.default is not p.empty for p in inspect.signature(one).parameters.values()):
            return f"{one.__name__}()"
    return ""


def inputs(
    model: nn.Module,
    parameters: Sequence[str],
    call: Callable[[dict[str, Any]], Any],
    known: Mapping[str, Any],
    trial: nn.Module | None = None,
    real: bool = False,
) -> tuple[dict[str, Any], str]:
    """Words for each of `parameters` with which `call` runs, and why the first guess did not where none does.

    Args:
        call: runs the model with keyword arguments; called under fake tensors.
        known: words that are given already.
        trial: the model with values, which must run too.
        real: `call` cannot run on shapes alone.
    """
    choices = [[known[name]] if name in known else list(_unique(candidates(name, model))) for name in parameters]
    first = {name: choice[0] for name, choice in zip(parameters, choices, strict=True)}
    give_up, why = time.monotonic() + SECONDS, ""
    for picked in itertools.islice(_by_likelihood(choices), TRIALS):
        words = dict(zip(parameters, picked, strict=True))
        reason = _trial(words, call, real) or (_trial(words, lambda values: trial(**values), True) if trial else "")
        if not reason:
            return words, ""
        why = why or reason
        if time.monotonic() > give_up:
            break
    return first, why


def _by_likelihood(choices: list[list[Any]]) -> Iterator[tuple[Any, ...]]:
    """Combinations, those of early candidates first."""
    ranks = itertools.islice(itertools.product(*(range(len(choice)) for choice in choices)), 20_000)
    for rank in sorted(ranks, key=sum):
        yield tuple(choice[at] for choice, at in zip(choices, rank, strict=True))


def _trial(words: Mapping[str, Any], call: Callable[[dict[str, Any]], Any], real: bool) -> str:
    """Why the model does not run with these; empty where it does. A decision on a value is no fault of the shapes."""
    try:
        with contextlib.nullcontext() if real else shapes_only(), torch.no_grad():
            call({name: made(value) for name, value in words.items()})
    except Exception as error:
        name = type(error).__name__
        return "" if "DataDependent" in name or "data-dependent" in str(error) else f"{name}: {(str(error).splitlines() or [''])[0][:200]}"
    return ""


def _unique(found: Iterator[TensorWords]) -> Iterator[TensorWords]:
    return iter(dict.fromkeys(found))


def candidates(name: str, model: nn.Module) -> Iterator[TensorWords]:
    """What an input of this name may be, the likeliest first."""
    word = name.lower()
    tables = [layer for layer in model.modules() if isinstance(layer, nn.Embedding)]
    rows = min((table.num_embeddings for table in tables), default=0)
    if (
        any(part in word for part in ("ids", "idx", "token", "src", "tgt", "word", "label", "target", "index"))
        and "mask" not in word
        and "edge" not in word
    ):
        yield TensorWords("int64", (BATCH, SEQ), rows or 100)
    if "length" in word or word in ("lens", "sizes"):
        yield TensorWords("int64", (BATCH,), SEQ)
    if "mask" in word:
        yield from (TensorWords("bool", shape) for shape in ((BATCH, SEQ), (SEQ, SEQ), (BATCH, 1, SEQ, SEQ)))
    if word in ("t", "time", "timestep", "timesteps", "sigma", "noise_level"):
        yield from (TensorWords("float32", (BATCH,)), TensorWords("int64", (BATCH,), 1000), TensorWords("float32", (BATCH, 1)))
    if "edge" in word:
        yield TensorWords("int64", (2, 40), SEQ)
    if "adj" in word:
        yield TensorWords("float32", (SEQ, SEQ))
    example = getattr(model, "example_input_array", None)
    if isinstance(example, Tensor):
        yield TensorWords(str(example.dtype).removeprefix("torch."), tuple(example.shape), 0 if example.is_floating_point() else rows or 2)
    for layer in _first_layers(model):
        yield from _for_layer(layer)
    for value in itertools.islice(model.parameters(), LAYERS):
        for size in value.shape[::-1]:
            yield from (TensorWords("float32", (BATCH, size)), TensorWords("float32", (BATCH, SEQ, size)))
    yield from (TensorWords("float32", shape) for shape in ((BATCH, SEQ), (BATCH, 3, 32, 32), (BATCH,), (SEQ, 3)))


def _first_layers(model: nn.Module) -> list[nn.Module]:
    leaves = [m for m in model.modules() if isinstance(m, nn.MultiheadAttention | nn.Transformer | nn.RNNBase) or not list(m.children())]
    kept = [m for m in leaves if list(m.parameters()) or isinstance(m, torch.jit.ScriptModule)]
    return kept[:LAYERS]


def _for_layer(layer: nn.Module) -> Iterator[TensorWords]:
    """Inputs that a layer takes, as the first of a model."""
    kind = getattr(layer, "original_name", type(layer).__name__).removeprefix("Lazy")
    shapes: list[tuple[int, ...]] = []
    weight = getattr(layer, "weight", None)
    sizes = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    if kind in ("Embedding", "EmbeddingBag") and sizes:
        yield TensorWords("int64", (BATCH, SEQ), sizes[0])
        yield TensorWords("int64", (BATCH,), sizes[0])
    elif kind == "Linear" and len(sizes) == 2:
        shapes = [(BATCH, sizes[1]), (BATCH, SEQ, sizes[1]), *_images(sizes[1]), (SEQ, sizes[1])]
    elif kind.startswith("Conv") and len(sizes) >= 3:
        groups = int(getattr(layer, "groups", 1) or 1)
        channels = sizes[0] if "Transpose" in kind else sizes[1] * groups
        sides: dict[int, tuple[tuple[int, ...], ...]] = {
            3: ((64,), (1024,)),
            4: ((32, 32), (64, 64), (28, 28), (224, 224)),
            5: ((8, 32, 32), (16, 64, 64)),
        }
        shapes = [(BATCH, channels, *side) for side in sides.get(len(sizes), ())]
    elif kind in ("LSTM", "GRU", "RNN"):
        shapes = [(BATCH, SEQ, int(layer.input_size))]  # pyright: ignore[reportArgumentType]
    elif kind in ("LSTMCell", "GRUCell", "RNNCell"):
        shapes = [(BATCH, int(layer.input_size)), (BATCH, SEQ, int(layer.input_size))]  # pyright: ignore[reportArgumentType]
    elif kind == "MultiheadAttention":
        shapes = [(BATCH, SEQ, int(layer.embed_dim))]  # pyright: ignore[reportArgumentType]
    elif kind == "Transformer":
        shapes = [(BATCH, SEQ, int(layer.d_model))]  # pyright: ignore[reportArgumentType]
    elif kind in ("LayerNorm", "RMSNorm") and sizes:
        shapes = [(BATCH, SEQ, *sizes), (BATCH, *sizes)]
    elif sizes:  # norms over channels
        shapes = [(BATCH, sizes[0]), (BATCH, sizes[0], SEQ), (BATCH, sizes[0], 16, 16)]
    yield from (TensorWords("float32", shape) for shape in shapes)


def _images(features: int) -> Iterator[tuple[int, ...]]:
    """Images that a flattened input of so many features may come from."""
    for channels in (1, 3):
        side = round((features / channels) ** 0.5)
        if channels * side * side == features and side > 3:
            yield BATCH, channels, side, side
