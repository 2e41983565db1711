"""Inputs for a model of `transformers`, guessed from the signature of its forward and from its configuration.

A guess names arguments and says how to draw each. The first guess is what a reader would try: text for a language model, an image
for a vision model. Where a family may want otherwise (sound as a wave, with a channel, or as mel frames; images beside the text),
more guesses follow, and `hf_trial` takes the first that the model accepts.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphs.sources.hf_labels import labels_for
from graphs.zoo.base import Settings

Draw = Callable[[], Any]
Guess = dict[str, Draw]

MOST = 24  # guesses; a model that takes none of them gets the first, and its error
TOWERS = (
    "input_ids", "pixel_values", "pixel_values_videos", "input_values", "input_features", "decoder_input_ids",
    "states", "actions", "rewards", "returns_to_go", "timesteps",
)  # fmt: skip
SENTENCE_ENDS = ("bart", "clip", "mvp", "bigbird_pegasus", "led", "plbart")  # families that look for the end of a sentence
PLAIN_TEXT = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")


@dataclass(frozen=True)
class Asked:
    """For what inputs are wanted."""

    model: type[nn.Module]
    config: Any
    settings: Settings
    training: bool

    @property
    def batch(self) -> int:
        return self.settings.number("batch")

    @property
    def seq(self) -> int:
        return self.settings.number("seq")

    def normal(self, *shape: int) -> Draw:
        return lambda: torch.randn(*shape, dtype=self.settings.dtype)

    def said(self, *names: str) -> Any:
        """What the configuration, or else a nested one, says under the first of these names that it has."""
        return next((value for name in names if (value := _said(self.config, name)) is not None), None)


def guesses(asked: Asked) -> list[Guess]:
    """Keyword arguments of the model's forward, the likeliest first; each value is drawn when it is called.

    Shapes: input_ids [batch, seq]; pixel_values [batch, channels, image, image] (with frames before the channels for video);
    input_values [batch, samples]; input_features [batch, frames, mel bins]; labels as the class of the model takes them.
    """
    found: list[Guess] = []
    for names in _argument_sets(asked):
        choices = [[(name, draw) for draw in _draws(name, asked)] for name in names]
        found += [dict(choice) for choice in itertools.islice(itertools.product(*choices), MOST) if choice]
    found = found[:MOST] or [{}]
    if asked.training:
        found = [with_labels for guess in found for with_labels in _with_labels(guess, asked)]
    return found[:1] if _is_certain(asked) else found


def drawn(guess: Guess) -> dict[str, Any]:
    """The arguments; labels that are drawn as the ids are the same ids."""
    given = {name: draw() for name, draw in guess.items()}
    same = next((name for name, draw in guess.items() if name != "labels" and draw is guess.get("labels")), None)
    return {**given, "labels": given[same].clone()} if same else given


def _is_certain(asked: Asked) -> bool:
    """The guess need not be tried on the model: it is text, and nothing else fits."""
    names = _names(asked.model)
    alone = not any(name in names for name in TOWERS[1:5]) and getattr(asked.model, "main_input_name", "input_ids") == "input_ids"
    return (
        alone
        and asked.model.__name__.endswith(PLAIN_TEXT)
        and asked.said("num_codebooks", "n_codebooks", "num_channels", "num_latents") is None
    )


def _with_labels(guess: Guess, asked: Asked) -> Iterator[Guess]:
    labels = labels_for(asked.model, asked.config, guess, asked.batch, asked.seq) if "labels" in _names(asked.model) else None
    if labels is not None:
        yield {**guess, "labels": labels}
    yield guess


def _names(model: type[nn.Module]) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


def _argument_sets(asked: Asked) -> Iterator[tuple[str, ...]]:
    """Names of arguments to give, the likeliest set first."""
    parameters = inspect.signature(asked.model.forward).parameters
    needed = [
        name for name, one in parameters.items() if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD and name != "self"
    ]
    main = getattr(asked.model, "main_input_name", None)
    main = [main] if isinstance(main, str) else list(main or ())
    seen: set[frozenset[str]] = set()
    for wanted in (
        [*_first_choice(asked, list(parameters)), *needed],
        [*_first_choice(asked, list(parameters)), *needed, *main],
        [*needed, *main],
        [*TOWERS, *needed],
        [name for name in (*TOWERS, *needed) if name != "decoder_input_ids"],
    ):
        names = tuple(dict.fromkeys(name for name in wanted if name in parameters and name != "self"))
        if names and frozenset(names) not in seen:
            seen.add(frozenset(names))
            yield names


def _first_choice(asked: Asked, names: list[str]) -> list[str]:
    """Text where the model reads text; images or sound where it does not, or where two towers want both."""
    text = "input_ids" in names
    beside = any(
        _said_here(asked.config, name) is not None for name in ("projection_dim", "logit_scale_init_value", "max_2d_position_embeddings")
    )
    chosen = ["input_ids", "bbox"] if text else []
    if not text or beside:
        chosen.append("pixel_values")
    if not text:
        sound = next((name for name in ("input_values", "input_features") if name in names), "")
        chosen += ["pixel_values_videos", sound]
    if getattr(asked.config, "is_encoder_decoder", False) and "Encoder" not in asked.model.__name__:
        chosen.append("decoder_input_ids")
    return chosen


def _draws(name: str, asked: Asked) -> list[Draw]:
    """How an argument may be drawn, the likeliest first."""
    batch, seq = asked.batch, asked.seq
    if name in ("input_ids", "decoder_input_ids"):
        return _id_draws(asked)
    if name in DRAWS:
        return DRAWS[name](asked)
    if name.endswith("_ids") or name.endswith("_inputs"):
        return [lambda: _ids(asked, batch, seq)]
    if name.endswith(("mask", "structure")):
        return [lambda: torch.ones(batch, seq, dtype=torch.long)]
    if name.endswith(("embeds", "hidden_states")):
        return [asked.normal(batch, seq, int(asked.said("hidden_size", "d_model") or 64))]
    return [asked.normal(batch, int(asked.said("hidden_size", "d_model") or 64))]


def _id_draws(asked: Asked) -> list[Draw]:
    books = asked.said("num_codebooks", "n_codebooks", "num_channels") if asked.said("vocab_size") is not None else None
    draws: list[Draw] = [lambda: _ids(asked, asked.batch, asked.seq)]
    most = asked.said("max_position_embeddings")
    if isinstance(most, int) and 0 < most < asked.seq:
        draws.append(lambda: _ids(asked, asked.batch, most))
    if "pixel_values" in _names(asked.model):
        draws += [_with_image(asked, places) for places in _image_places(asked)]
    elif isinstance(books, int) and books > 1:
        draws += [lambda: _ids(asked, asked.batch, asked.seq, books), lambda: _ids(asked, asked.batch, books, asked.seq)]
    return draws


def _ids(asked: Asked, *shape: int) -> Tensor:
    """Token ids that are not special: models look for those, and an image's token wants an image."""
    vocab = int(getattr(_text_config(asked.config), "vocab_size", None) or 32)
    special = _special(asked.config)
    plain = torch.tensor([token for token in range(min(10, vocab - 1), min(vocab, 50_000)) if token not in special] or [0])
    ids = plain[torch.randint(0, len(plain), shape)]
    eos = getattr(_text_config(asked.config), "eos_token_id", None)
    if isinstance(eos, int) and 0 <= eos < vocab and getattr(asked.config, "model_type", "") in SENTENCE_ENDS:
        ids[:, -1] = eos  # a sentence ends once
    return ids


def _image_places(asked: Asked) -> list[int]:
    """How many tokens an image may stand for in the text: what the configuration says, or its patches."""
    said = [asked.said(name) for name in ("num_query_tokens", "image_seq_length", "num_image_tokens", "mm_tokens_per_image")]
    patch, merge = asked.said("patch_size"), asked.said("spatial_merge_size") or 1
    height, width = _image_size(asked)
    patches = [(height // patch) * (width // patch)] if isinstance(patch, int) else []
    return [
        one
        for one in dict.fromkeys([*said, *patches, *(one // merge**2 for one in patches), *(one + 1 for one in patches)])
        if isinstance(one, int) and one > 0
    ]


def _with_image(asked: Asked, places: int) -> Draw:
    """Text after the places of an image."""
    token = asked.said("image_token_id", "image_token_index")

    def draw() -> Tensor:
        image = torch.full((asked.batch, places), token if isinstance(token, int) else 0)
        return torch.cat([image, _ids(asked, asked.batch, asked.seq)], 1)

    return draw


def _special(config: Any) -> set[int]:
    found: set[int] = set()
    for part in (config, *_parts(config)):
        for name, value in vars(part).items():
            if name.endswith(("_token_id", "_token_index", "_token_ids")):
                found |= {one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, int)}
    return found


def _image(asked: Asked) -> list[Draw]:
    channels = int(asked.said("num_channels", "in_channels", "in_chans") or 3) if not isinstance(asked.said("in_channels"), list) else 3
    height, width = _image_size(asked)
    frames = int(asked.said("num_frames", "frames_per_clip") or 0)
    still, moving = asked.normal(asked.batch, channels, height, width), asked.normal(asked.batch, frames or 2, channels, height, width)
    large = asked.normal(asked.batch, channels, 4 * height, 4 * width)  # for a model that cuts its image up and reads the pieces
    return [moving, still] if frames and _is_video(asked) else [still, moving, large]


def _is_video(asked: Asked) -> bool:
    return "Video" in asked.model.__name__ or getattr(asked.config, "model_type", "") in ("videomae", "vivit", "timesformer", "xclip")


def _video(asked: Asked) -> list[Draw]:
    height, width = _image_size(asked)
    frames = int(asked.said("frames_per_clip", "num_frames") or 16)
    return [asked.normal(asked.batch, frames, 3, height, width)]


def _image_size(asked: Asked) -> tuple[int, int]:
    size = asked.settings.number("image") or asked.said("image_size", "crop_size") or 224
    if isinstance(size, dict):
        size = (size.get("height", 224), size.get("width", 224))
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


def _wave(asked: Asked) -> list[Draw]:
    """Sound as a wave, with and without its channel; as mel frames where the configuration counts their bins."""
    samples = max(4000, 40 * asked.seq)
    waves = [asked.normal(asked.batch, samples), asked.normal(asked.batch, int(asked.said("audio_channels") or 1), samples)]
    bins = asked.said("num_mel_bins")
    if not bins:
        return waves
    return [asked.normal(asked.batch, int(asked.said("max_length") or 1024), int(bins)), *waves]


def _mel(asked: Asked) -> list[Draw]:
    """Log-mel frames: [batch, frames, bins], or with the bins first as in Whisper's family, or as an image of one channel."""
    bins = int(asked.said("num_mel_bins", "feature_size", "input_feat_per_channel", "feature_projection_input_dim", "input_dim") or 80)
    positions = int(asked.said("max_source_positions") or 0)
    frames = max(asked.seq, 64)
    first = asked.normal(asked.batch, bins, 2 * (positions or 1500))
    last = asked.normal(asked.batch, frames, bins)
    whole = 2 * positions if positions else frames
    rest = [
        asked.normal(asked.batch, bins, frames),
        asked.normal(asked.batch, 1, int(asked.said("spec_size") or whole), bins),
        asked.normal(asked.batch, bins, 3000),
    ]
    return [first, last, *rest] if getattr(asked.config, "model_type", "") in ("whisper", "moonshine") else [last, first, *rest]


def _series(asked: Asked) -> list[Draw]:
    """The past of a time series, as long as its lags reach."""
    lags = asked.said("lags_sequence") or [0]
    length = int(asked.said("context_length") or asked.seq) + max(lags)
    channels = int(asked.said("num_input_channels", "input_size") or 1)
    flat, wide = asked.normal(asked.batch, length), asked.normal(asked.batch, length, channels)
    return [wide, flat] if asked.said("num_input_channels") or channels > 1 else [flat, wide]


def _time_features(asked: Asked) -> list[Draw]:
    lags = asked.said("lags_sequence") or [0]
    length = int(asked.said("context_length") or asked.seq) + max(lags)
    return [asked.normal(asked.batch, length, int(asked.said("num_time_features") or 0))]


def _patches(asked: Asked) -> list[Draw]:
    """Row, column and pixels of each patch, flattened."""
    patch, channels = int(asked.said("patch_size") or 16), int(asked.said("num_channels") or 3)

    def draw() -> Tensor:
        place = torch.arange(1, asked.seq + 1).float()[None, :, None].expand(asked.batch, -1, 2)
        return torch.cat([place, torch.randn(asked.batch, asked.seq, patch * patch * channels)], -1).to(asked.settings.dtype)

    return [draw]


def _boxes(asked: Asked) -> list[Draw]:
    return [lambda: torch.zeros(asked.batch, asked.seq, 4, dtype=torch.long)]


DRAWS: dict[str, Callable[[Asked], list[Draw]]] = {
    "pixel_values": _image,
    "prompt_pixel_values": _image,
    "prompt_masks": _image,
    "pixel_values_videos": _video,
    "input_values": _wave,
    "input_features": _mel,
    "past_values": _series,
    "past_observed_mask": lambda asked: [lambda: torch.ones_like(_series(asked)[0]())],
    "past_time_features": _time_features,
    "past_values_padding": lambda asked: [lambda: torch.zeros_like(_series(asked)[0]())],
    "freq": lambda asked: [lambda: torch.zeros(asked.batch, 1, dtype=torch.long)],
    "flattened_patches": _patches,
    "bbox": _boxes,
    "state": lambda asked: [asked.normal(asked.batch, int(asked.said("max_state_dim", "state_dim") or 32))],
    "states": lambda asked: [asked.normal(asked.batch, asked.seq, int(asked.said("state_dim") or 17))],
    "actions": lambda asked: [
        asked.normal(asked.batch, int(asked.said("chunk_size") or asked.seq), int(asked.said("act_dim", "max_action_dim") or 4))
    ],
    "rewards": lambda asked: [asked.normal(asked.batch, asked.seq, 1)],
    "returns_to_go": lambda asked: [asked.normal(asked.batch, asked.seq, 1)],
    "timesteps": lambda asked: [lambda: torch.arange(asked.seq).expand(asked.batch, -1)],
    "inputs": lambda asked: [asked.normal(asked.batch, asked.seq, int(asked.said("d_model") or 64)), *_wave(asked)],
}


def _text_config(config: Any) -> Any:
    getter = getattr(config, "get_text_config", None)
    try:
        return getter() if callable(getter) else config
    except ValueError:  # two of them, such as an encoder of words and a decoder of sounds: what is read in comes first
        return getattr(config, "text_encoder", config)


def _parts(config: Any) -> list[Any]:
    """Nested configurations, at any depth."""
    parts = [value for value in vars(config).values() if hasattr(value, "to_dict") and hasattr(value, "model_type")]
    return [*parts, *(deeper for part in parts for deeper in _parts(part))]


def _said_here(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # some configurations refuse what differs by layer
        return None


def _said(config: Any, name: str) -> Any:
    return next((value for part in (config, *_parts(config)) if (value := _said_here(part, name)) is not None), None)
