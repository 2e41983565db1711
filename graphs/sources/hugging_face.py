"""A model from a Hugging Face `config.json`: built by `transformers` from sizes alone; no weights, no downloads, no remote code."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from graphs.errors import FxscopeError, RequestError, SourceError
from graphs.sources.base import ModelSource, default_dtype
from graphs.sources.known_configs import KNOWN
from graphs.trace import mean_of_squares
from graphs.zoo.base import BATCH, DROPOUT, Option, Settings

OPTIONS = (
    BATCH,
    Option("seq", 64, "tokens in a sequence", maximum=1 << 20),
    Option("image", 0, "pixels on a side; 0 is the configuration's own", minimum=0, maximum=4096),
    Option("layers", 0, "layers instead of the configuration's; 0 keeps its own", minimum=0, maximum=1000),
    Option("attention", "sdpa", "how attention is written: one fused operator, or matmul and softmax", ("sdpa", "eager")),
    Option("dtype", "float32", "precision of weights and activations", ("float32", "bfloat16", "float16", "float64")),
    DROPOUT,
)
# What a configuration calls its number of layers, its dropout.
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers", "n_layers", "num_decoder_layers")
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "resid_pdrop", "embd_pdrop", "attn_pdrop", "dropout", "attention_dropout",
            "activation_dropout", "dropout_rate", "hidden_dropout", "classifier_dropout", "embedding_dropout", "layerdrop", "encoder_layerdrop",
            "decoder_layerdrop")  # fmt: skip
# Families of classes, best first, in the words of transformers' own tables; after these any other that names the family.
HEADS = (
    "MODEL_FOR_MASKED_LM", "MODEL_FOR_CAUSAL_LM", "MODEL_FOR_SPEECH_SEQ_2_SEQ", "MODEL_FOR_IMAGE_CLASSIFICATION",
    "MODEL_FOR_VIDEO_CLASSIFICATION", "MODEL_FOR_CTC", "MODEL_FOR_IMAGE_TEXT_TO_TEXT", "MODEL_FOR_AUDIO_CLASSIFICATION", "MODEL",
)  # fmt: skip
TRANSLATING_HEADS = ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM", "MODEL_FOR_SPEECH_SEQ_2_SEQ")
SERVING = ("prefill", "decode")


def hf_source(name: str, given: Mapping[str, str], mode: str) -> ModelSource:
    """A well-known model by name, such as `llama-3-8b`.

    Raises:
        RequestError: no such name or option, or a mode that the model does not have.
    """
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"Did you mean hf/{near[0]}?" if near else f"Choose from: {', '.join(KNOWN)}; or paste a config.json."
        raise RequestError(f"there is no model `hf/{name}`", where="model", help=hint)
    return _source(dict(KNOWN[name].config), f"hf/{name}", given, mode)


def config_source(text: str, shown_name: str, given: Mapping[str, str], mode: str) -> ModelSource:
    """A model from the text of a config.json.

    Raises:
        SourceError: not JSON, or no configuration that `transformers` knows; says where and what to do.
        RequestError: a wrong option or mode.
    """
    try:
        fields = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"the configuration is not JSON: {error.msg}"
        raise SourceError(what, where=f"{shown_name}:{error.lineno}", help="Correct this line.") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("model_type"), str):
        raise SourceError("the configuration has no `model_type`", where=shown_name, help='Add it, such as "model_type": "llama".')
    return _source(fields, shown_name, given, mode)


def hf_settings(given: Mapping[str, str]) -> Settings:
    """Options as text -> values.

    Raises:
        RequestError: an unknown option, or a value outside its limits.
    """
    known = {option.name: option for option in OPTIONS}
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise RequestError(f"a configuration has no option `{name}`", where=name, help=f"{hint}It has: {', '.join(known)}.")
    return Settings({name: option.parse(str(given.get(name, option.default))) for name, option in known.items()})


def _source(fields: dict[str, Any], name: str, given: Mapping[str, str], mode: str) -> ModelSource:
    settings = hf_settings(given)
    config = _config(fields, name, settings)
    model = _model_class(config, fields, name)
    if not getattr(model, "_supports_sdpa", False):
        config._attn_implementation = "eager"
    file = str(importlib.import_module(model.__module__).__file__)

    def build() -> nn.Module:
        with default_dtype(settings.dtype), _without_initialisation_of_fakes():
            made = _made(model, config)
            made.tie_weights()  # pyright: ignore[reportCallIssue]  # which goes with the initial values otherwise
            return made

    if mode in SERVING:
        return _serving(build, model, config, settings, name, mode, file)

    return ModelSource(name, _explained_build(build, name), _inputs(build, model, config, settings, mode == "training"), _loss, (file,))


def _made(model: type[nn.Module], config: Any) -> nn.Module:
    """The model; with attention written out where a part of it, such as a backbone, has no fused one."""
    try:
        return model(config)
    except ValueError as error:
        if "attention implementation" not in str(error):
            raise
        config._attn_implementation = "eager"
        return model(config)


def _inputs(
    build: Callable[[], nn.Module], model: type[nn.Module], config: Any, settings: Settings, training: bool
) -> Callable[[], dict[str, Any]]:
    """Draws the arguments; which ones the model takes is found out once, before the first draw."""
    from graphs.sources.hf_inputs import Asked, Guess, drawn, guesses
    from graphs.sources.hf_trial import first_accepted

    chosen: list[Guess] = []

    def inputs() -> dict[str, Any]:
        if not chosen:
            chosen.append(first_accepted(build, guesses(Asked(model, config, settings, training))))
        return drawn(chosen[0])

    return inputs


def _loss(outputs: Any) -> Tensor:
    """The model's own loss, or where it has none the mean of squares of its first floating-point output."""
    loss = getattr(outputs, "loss", None)
    if isinstance(loss, Tensor):
        return loss if loss.numel() == 1 else loss.mean()  # some give one for each example
    return mean_of_squares(outputs)


def _config(fields: dict[str, Any], name: str, settings: Settings) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = fields["model_type"]
    if kind not in CONFIG_MAPPING:
        near = difflib.get_close_matches(kind, list(CONFIG_MAPPING.keys()), n=1)
        hint = f"Did you mean `{near[0]}`? " if near else ""
        raise SourceError(
            f"transformers knows no model_type `{kind}`", where=name, help=f"{hint}Code of its own can be brought as a Python file."
        )
    try:
        with default_dtype(torch.float32):
            config = CONFIG_MAPPING[kind].from_dict(
                {key: value for key, value in fields.items() if key not in ("auto_map", "quantization_config")}
            )
    except Exception as error:
        first = (str(error).strip().splitlines() or ["no message"])[0][:300]
        raise SourceError(
            f"the configuration does not fit {kind}: {type(error).__name__}: {first}", where=name, help="Correct the field it names."
        ) from error
    _adjust(config, settings)
    return config


def _adjust(config: Any, settings: Settings) -> None:
    """Attention as asked, no cache, dropout and layers as asked; in nested configurations too."""
    for part in (config, *(value for value in vars(config).values() if hasattr(value, "to_dict") and hasattr(value, "model_type"))):
        with contextlib.suppress(AttributeError, NotImplementedError):
            part.use_cache = False
        for name in DROPOUTS:
            if isinstance(getattr(part, name, None), int | float):
                _set_number(part, name, settings.dropout if "layerdrop" not in name else 0.0)
        layers = settings.number("layers")
        for name in LAYERS if layers else ():
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, layers)
        if hasattr(part, "apply_spec_augment"):
            part.apply_spec_augment = False  # which masks the input at random, in numpy
        types = getattr(part, "layer_types", None)
        if layers and isinstance(types, list):
            with contextlib.suppress(AttributeError):  # some compute it
                part.layer_types = (types * layers)[:layers]
    config._attn_implementation = settings.text("attention")
    config.dtype = settings.dtype


def _set_number(part: Any, name: str, value: float) -> None:
    """Some configurations insist on a whole number where they have one."""
    from huggingface_hub.errors import StrictDataclassFieldValidationError

    try:
        setattr(part, name, value)
    except StrictDataclassFieldValidationError:
        setattr(part, name, int(value))


def _model_class(config: Any, fields: dict[str, Any], name: str) -> type[nn.Module]:
    from transformers.models.auto import modeling_auto

    transformers = _all_of_transformers()

    kind = fields["model_type"]
    wished = fields.get("architectures") or []
    if wished and isinstance(wished[0], str) and not wished[0].startswith("_") and hasattr(transformers, wished[0]):
        return _imported(wished[0], name)
    towers = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT", "MODEL") if all(hasattr(config, f"{part}_config") for part in ("text", "vision")) else ()
    others = [name.removesuffix("_MAPPING_NAMES") for name in vars(modeling_auto) if re.fullmatch(r"MODEL(_FOR_\w+)?_MAPPING_NAMES", name)]
    for head in (*towers, *(TRANSLATING_HEADS if getattr(config, "is_encoder_decoder", False) else ()), *HEADS, *others):
        found = getattr(modeling_auto, f"{head}_MAPPING_NAMES").get(kind)
        found = found[0] if isinstance(found, tuple | list) else found
        if found and hasattr(transformers, found) and _fits(made := _imported(found, name), config):
            return made
    own = _class_beside(config)
    if own is None:
        raise SourceError(f"transformers has no model class for `{kind}`", where=name, help='Name one: "architectures": ["…"].')
    return own


def _class_beside(config: Any) -> type[nn.Module] | None:
    """A class for parts of a model, such as its vision tower, is in no table but stands beside its configuration."""
    with contextlib.suppress(ImportError):
        module = importlib.import_module(type(config).__module__.replace(".configuration_", ".modeling_"))
        found = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, nn.Module) and getattr(value, "config_class", None) is type(config)
        ]
        able = [one for one in found if _fits(one, config) and not one.__name__.endswith("PreTrainedModel")]
        return next((one for one in able if one.__name__.endswith("Model")), able[0] if able else None)
    return None


def _fits(model: type[nn.Module], config: Any) -> bool:
    """Some classes are for a part of the configuration, and some only hold parts that generate together."""
    return model.forward is not nn.Module.forward and isinstance(config, getattr(model, "config_class", None) or object)


def _all_of_transformers() -> ModuleType:
    """By its name, because a type checker that follows an import of it reads every family there is."""
    return importlib.import_module("transformers")


def _imported(name: str, shown: str) -> type[nn.Module]:
    try:
        found = getattr(_all_of_transformers(), name)
    except Exception as error:
        raise SourceError(
            f"{name} cannot be imported: {str(error).splitlines()[0][:200]}", where=shown, help="Available are torch, transformers, numpy."
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        missing = getattr(found, "_backends", None)
        need = f"it needs the package {', '.join(missing)}" if missing else "it is no torch model"
        raise SourceError(
            f"{name} cannot be built: {need}",
            where=shown,
            help="Available are torch, transformers, numpy. Choose another class in `architectures`.",
        )
    return found


def _explained_build(build: Callable[[], nn.Module], name: str) -> Callable[[], nn.Module]:
    def explained() -> nn.Module:
        try:
            return build()
        except FxscopeError:
            raise
        except ImportError as error:
            first = " ".join(str(error).split())[:250]
            raise SourceError(f"a package is missing: {first}", where=name, help="Available are torch, transformers, numpy.") from error

    return explained


@contextlib.contextmanager
def _without_initialisation_of_fakes() -> Iterator[None]:
    """Weights without values need no initial values, and some initialisers look at values."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils._python_dispatch import _get_current_dispatch_mode
    from transformers.initialization import no_init_weights

    with no_init_weights() if isinstance(_get_current_dispatch_mode(), FakeTensorMode) else contextlib.nullcontext():
        yield


def _serving(
    build: Callable[[], nn.Module], model: type[nn.Module], config: Any, settings: Settings, name: str, mode: str, file: str
) -> ModelSource:
    from graphs.sources.serving import Decode, Prefill, decode_inputs, prefill_inputs

    if not model.__name__.endswith(("ForCausalLM", "LMHeadModel")):
        raise RequestError(
            f"{model.__name__} is no causal language model: it has no {mode}", where="mode", help="Write mode=inference or mode=training."
        )
    if mode == "prefill":
        return ModelSource(name, lambda: Prefill(build()), lambda: prefill_inputs(config, settings), None, (file,))
    return ModelSource(name, lambda: Decode(build()), lambda: decode_inputs(build, config, settings), None, (file,))
