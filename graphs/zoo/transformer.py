"""Known transformer families, built from their configurations by `transformers`; weights are never downloaded.

Attention is their `eager` one, written with matmul and softmax, so that the graph shows it.
"""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn

from graphs.zoo.base import BATCH, DROPOUT, DTYPE, Option, Settings, ZooModel, divides

COMMON: dict[str, Any] = {"attn_implementation": "eager"}
# Their warnings about token ids of small vocabularies say nothing to a reader of graphs.
logging.getLogger("transformers").setLevel(logging.ERROR)


def _loss(outputs: Any) -> Tensor:
    return outputs.loss


def _tokens(settings: Settings) -> dict[str, Any]:
    tokens = torch.randint(0, settings.number("vocab"), (settings.number("batch"), settings.number("seq")))
    return {"input_ids": tokens, "labels": tokens.clone()}


def _gpt2(settings: Settings) -> nn.Module:
    from transformers.models.gpt2 import GPT2Config, GPT2LMHeadModel

    width, heads, drop = settings.number("width"), settings.number("heads"), settings.dropout
    divides(width, heads, "heads")
    config = GPT2Config(
        n_layer=settings.number("layers"), n_embd=width, n_head=heads, vocab_size=settings.number("vocab"),
        n_positions=max(1024, settings.number("seq")), resid_pdrop=drop, embd_pdrop=drop, attn_pdrop=drop,
        use_cache=False, bos_token_id=0, eos_token_id=0, **COMMON,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.loss_type = "ForCausalLM"  # what the library takes anyway, but not without a warning
    return model


def _llama(settings: Settings) -> nn.Module:
    from transformers.models.llama import LlamaConfig, LlamaForCausalLM

    width, heads, groups = settings.number("width"), settings.number("heads"), settings.number("kv_heads")
    divides(width, heads, "heads")
    divides(heads, groups, "groups of heads")
    config = LlamaConfig(
        num_hidden_layers=settings.number("layers"), hidden_size=width, intermediate_size=settings.number("ffn") or width * 8 // 3 // 8 * 8,
        num_attention_heads=heads, num_key_value_heads=groups, vocab_size=settings.number("vocab"),
        max_position_embeddings=max(2048, settings.number("seq")), use_cache=False, bos_token_id=0, eos_token_id=0, **COMMON,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def _bert(settings: Settings) -> nn.Module:
    from transformers.models.bert import BertConfig, BertForMaskedLM

    width, heads, drop = settings.number("width"), settings.number("heads"), settings.dropout
    divides(width, heads, "heads")
    config = BertConfig(
        num_hidden_layers=settings.number("layers"), hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads,
        vocab_size=settings.number("vocab"), max_position_embeddings=max(512, settings.number("seq")),
        hidden_dropout_prob=drop, attention_probs_dropout_prob=drop, **COMMON,
    )  # fmt: skip
    return BertForMaskedLM(config)


def _vit(settings: Settings) -> nn.Module:
    from transformers.models.vit import ViTConfig, ViTForImageClassification

    width, heads, drop = settings.number("width"), settings.number("heads"), settings.dropout
    divides(width, heads, "heads")
    divides(settings.number("image"), 16, "patches")
    config = ViTConfig(
        num_hidden_layers=settings.number("layers"), hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads,
        image_size=settings.number("image"), patch_size=16, num_labels=1000,  # type: ignore[call-arg]
        hidden_dropout_prob=drop, attention_probs_dropout_prob=drop, **COMMON,
    )  # fmt: skip
    return ViTForImageClassification(config)


def _images(settings: Settings) -> dict[str, Any]:
    batch, side = settings.number("batch"), settings.number("image")
    return {"pixel_values": torch.randn(batch, 3, side, side, dtype=settings.dtype), "labels": torch.randint(0, 1000, (batch,))}


FFN = Option("ffn", 0, "features inside a block's feed-forward part; 0 is about 8/3 of the width", minimum=0, maximum=65536)


def _sizes(seq: int, layers: int, width: int, heads: int, vocab: int) -> tuple[Option, ...]:
    return (
        BATCH,
        Option("seq", seq, "tokens in a sequence", maximum=32768),
        Option("layers", layers, "blocks", maximum=200),
        Option("width", width, "features of a token", maximum=16384),
        Option("heads", heads, "attention heads", maximum=256),
        Option("vocab", vocab, "tokens known", minimum=2, maximum=1 << 20),
    )


MODELS = (
    ZooModel(
        "gpt2",
        "GPT-2",
        "GPT-2 small by default: 12 blocks, 124 million parameters, next-token loss.",
        (*_sizes(64, 12, 768, 12, 50257), DTYPE, DROPOUT),
        _gpt2,
        _tokens,
        _loss,
    ),
    ZooModel(
        "llama",
        "Llama",
        "Decoder with RMSNorm, rotary positions, SwiGLU and grouped-query attention.",
        (*_sizes(64, 4, 512, 8, 32000), Option("kv_heads", 2, "heads of keys and values", maximum=256), FFN, DTYPE),
        _llama,
        _tokens,
        _loss,
    ),
    ZooModel(
        "bert",
        "BERT",
        "Encoder with masked-token loss; BERT base by default.",
        (*_sizes(64, 12, 768, 12, 30522), DTYPE, DROPOUT),
        _bert,
        _tokens,
        _loss,
    ),
    ZooModel(
        "vit",
        "Vision transformer",
        "Images cut into patches of 16 × 16 pixels; ViT base by default.",
        (
            BATCH,
            Option("image", 224, "pixels on a side", minimum=16, maximum=1024),
            *_sizes(1, 12, 768, 12, 2)[2:5],
            DTYPE,
            DROPOUT,
        ),
        _vit,
        _images,
        _loss,
    ),
)
