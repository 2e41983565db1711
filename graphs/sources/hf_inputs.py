"""Inputs for a model of `transformers`, guessed from the signature of its forward and from its configuration."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from graphs.zoo.base import Settings

IDS = ("input_ids", "decoder_input_ids")
CLASSES = (
    "ForImageClassification",
    "ForSequenceClassification",
    "ForVideoClassification",
    "ForAudioClassification",
    "ForNextSentencePrediction",
)
SAME_AS_IDS = ("LMHeadModel", "ForCausalLM", "ForMaskedLM", "ForConditionalGeneration", "ForPreTraining", "WithLMHead")


def inputs_for(model: type[nn.Module], config: Any, settings: Settings, training: bool) -> dict[str, Any]:
    """Keyword arguments of the model's forward.

    Shapes: input_ids [batch, seq]; pixel_values [batch, channels, image, image] (with frames before the channels for video);
    input_values [batch, samples]; input_features [batch, mel bins, frames]; labels as the class of the model takes them.
    """
    names = list(inspect.signature(model.forward).parameters)
    batch, seq = settings.number("batch"), settings.number("seq")
    given: dict[str, Any] = {}
    text = _text_config(config)
    vocab = int(getattr(text, "vocab_size", None) or 32)
    if "pixel_values" in names and not _is_text_first(names, config):
        given["pixel_values"] = _pixels(model, config, settings)
    if "pixel_values_videos" in names and "input_ids" not in names:
        given["pixel_values_videos"] = _video(config, settings, frames_first=True)
    if "input_values" in names:
        bins = getattr(config, "num_mel_bins", None)
        shape = (batch, int(getattr(config, "max_length", 1024)), int(bins)) if bins else (batch, max(4000, 40 * seq))
        given["input_values"] = torch.randn(*shape, dtype=settings.dtype)
    if "input_features" in names and "input_ids" not in names:
        given["input_features"] = _features(config, settings)
    if "input_ids" in names:
        given["input_ids"] = _ids(batch, seq, vocab, config)
    if "decoder_input_ids" in names and _decodes(config, model):
        given["decoder_input_ids"] = _ids(batch, seq, vocab, config)
    if "bbox" in names:
        given["bbox"] = torch.zeros(batch, seq, 4, dtype=torch.long)
    if training and "labels" in names:
        labels = _labels(model, config, given, batch, seq)
        if labels is not None:
            given["labels"] = labels
    return given


def _text_config(config: Any) -> Any:
    getter = getattr(config, "get_text_config", None)
    return getter() if callable(getter) else config


def _is_text_first(names: list[str], config: Any) -> bool:
    """Language models that may also look at images run on text alone; towers side by side (CLIP) want both."""
    both = "input_ids" in names
    return both and not any(hasattr(config, name) for name in ("projection_dim", "logit_scale_init_value", "max_2d_position_embeddings"))


def _decodes(config: Any, model: type[nn.Module]) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False)) and "Encoder" not in model.__name__


def _ids(batch: int, seq: int, vocab: int, config: Any) -> Tensor:
    """Token ids that avoid the special ones, which some models look for."""
    low = min(10, vocab - 1)
    ids = torch.randint(low, max(low + 1, min(vocab, 50_000)), (batch, seq))
    eos = getattr(_text_config(config), "eos_token_id", None)
    if (
        isinstance(eos, int)
        and 0 <= eos < vocab
        and getattr(config, "model_type", "") in ("bart", "clip", "mvp", "bigbird_pegasus", "led", "plbart")
    ):
        ids[:, -1] = eos  # a sentence ends once
    return ids


def _pixels(model: type[nn.Module], config: Any, settings: Settings) -> Tensor:
    vision = getattr(config, "vision_config", None) or config
    channels = int(getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3)
    height, width = _image_size(config, settings)
    batch = settings.number("batch")
    frames = getattr(vision, "num_frames", None) or (getattr(vision, "frames_per_clip", None))
    if frames and ("Video" in model.__name__ or getattr(config, "model_type", "") in ("videomae", "vivit", "timesformer", "xclip")):
        return torch.randn(batch, int(frames), channels, height, width, dtype=settings.dtype)
    return torch.randn(batch, channels, height, width, dtype=settings.dtype)


def _video(config: Any, settings: Settings, frames_first: bool) -> Tensor:
    height, width = _image_size(config, settings)
    frames = int(getattr(config, "frames_per_clip", None) or getattr(config, "num_frames", None) or 16)
    return torch.randn(settings.number("batch"), frames, 3, height, width, dtype=settings.dtype)


def _image_size(config: Any, settings: Settings) -> tuple[int, int]:
    asked = settings.number("image")
    if asked:
        return asked, asked
    vision = getattr(config, "vision_config", None) or config
    size = getattr(vision, "image_size", None) or getattr(vision, "crop_size", None)
    backbone = getattr(vision, "backbone_config", None)
    size = size or getattr(backbone, "image_size", None) or 224
    if isinstance(size, dict):
        size = (size.get("height", 224), size.get("width", 224))
    if isinstance(size, list | tuple):
        return int(size[0]), int(size[-1])
    return int(size), int(size)


def _features(config: Any, settings: Settings) -> Tensor:
    """Log-mel frames: [batch, bins, frames] for Whisper's family, [batch, frames, bins] for the others."""
    batch, seq = settings.number("batch"), settings.number("seq")
    bins = getattr(config, "num_mel_bins", None) or getattr(config, "feature_size", None) or getattr(config, "input_feat_per_channel", None)
    bins = int(bins or getattr(config, "feature_projection_input_dim", None) or 80)
    positions = getattr(config, "max_source_positions", None)
    if getattr(config, "model_type", "") in ("whisper", "moonshine"):
        return torch.randn(batch, bins, 2 * int(positions or 1500), dtype=settings.dtype)
    return torch.randn(batch, max(seq, 64), bins, dtype=settings.dtype)


def _labels(model: type[nn.Module], config: Any, given: dict[str, Any], batch: int, seq: int) -> Tensor | None:
    name = model.__name__
    classes = int(getattr(config, "num_labels", 2) or 2)
    if any(word in name for word in CLASSES):
        return torch.randint(0, classes, (batch,))
    if name.endswith("ForCTC"):
        return torch.randint(1, max(2, min(31, int(getattr(config, "vocab_size", 32)) - 1)), (batch, 8))
    if name.endswith("ForTokenClassification"):
        return torch.randint(0, classes, (batch, seq))
    source = given.get("decoder_input_ids", given.get("input_ids"))
    if source is not None and any(word in name for word in SAME_AS_IDS):
        return source.clone()
    return None
