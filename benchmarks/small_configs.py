"""A small configuration of any family of `transformers`: its own defaults, shrunk field by field.

A family is known only by the names of its configuration's fields. All widths become one number, so that parts which meet fit
(a text tower and a vision tower, an encoder and the decoder that reads it); lists of widths, one for each stage, are divided by a
common factor, because their ratios matter. Special tokens move below the small vocabulary, equal ones to equal places. What does
not fit this way stands in `OVERRIDES`, by family and as dotted paths.
"""

from __future__ import annotations

import inspect
import re
import zlib
from collections.abc import Mapping
from typing import Any

WIDTH, HEADS, HEAD, INNER, VOCAB, LAYERS, EXPERTS = 64, 4, 16, 96, 256, 2, 4
DERIVED = (
    "id2label", "label2id", "transformers_version", "architectures", "torch_dtype", "dtype", "_name_or_path", "qk_head_dim", "num_labels",
)  # fmt: skip
# Names of fields, first match wins -> the small number.
NUMBERS: tuple[tuple[str, int], ...] = (
    (r"vocab_size$|^vocab_size_per_layer_input$|codebook_size$|^num_embeddings$", VOCAB),
    (r"(key_value|kv)_heads$|^num_kv_heads$", 2),
    (r"^(mamba_n_heads|mamba_num_heads)$", 8),
    (r"^(num_groups|upsample_groups)$", 4),
    (r"^rotary_dim$", HEAD),
    (r"(^|_)(head_dim|d_kv|dim_head|attention_head_size|qk_rope_head_dim|qk_nope_head_dim|d_head)$|_head_dim$", HEAD),
    (r"(attention_heads|n_heads?|num_heads|num_key_heads|num_value_heads|attn_heads|resampler_n_heads)$", HEADS),
    (r"^(num_)?experts_per_tok$|^num_experts_per_tok(en)?$|^moe_(topk|k|top_k)$|^top_k_experts$|^num_selected_experts$", 2),
    (r"(n_routed_experts|num_local_experts|num_experts|moe_num_experts|^n_experts)$", EXPERTS),
    (r"^(n_group|topk_group|num_expert_group|n_groups|mamba_n_groups)$", 1),
    (r"^(index_topk)$", 8),
    (r"(^|_)(kv_lora_rank|q_lora_rank|o_lora_rank)$", 32),
    (r"(hidden_layers|encoder_layers|decoder_layers|n_layers?|num_layers|^depth|^num_blocks|_layers_count|^layers)$", LAYERS),
    (r"(intermediate_size|intermediate_dim|ffn_dim|ffn_hidden_size|d_ff|mlp_dim|d_inner|n_inner|linear_units|ffn_embed_dim|mlp_hidden_dim|feedforward_dim)$", INNER),
    (r"(hidden_size|hidden_dim|d_model|n_embd|embed_dim|emb_dim|embedding_size|embedding_dim|^dim|projection_dim|output_dim|text_dim|vision_dim"
     r"|word_embed_proj_dim|out_hidden_size|projection_size|hidden_size_global|d_latents|proj_dim|hidden_channels|pooler_output_size"
     r"|text_hidden_size|vision_output_dim|lru_width|classifier_proj_size|hidden_size_per_layer_input|codebook_dim|vector_quantization_hidden_dimension|decoder_hidden_dim|encoder_hidden_dim)$", WIDTH),
    (r"^(time_step_rank|state_size|ssm_state_size|mamba_d_state)$", 16),
)  # fmt: skip
LIMITS: tuple[tuple[str, int], ...] = (  # at most so much
    (r"max_position_embeddings$|^n_positions$|^n_ctx$|^max_seq_len$", 512),
    (r"^max_source_positions$", 32),
    (r"^num_queries$", 20),
    (r"^(num_frames|frames_per_clip)$", 4),
)
STAGES = r"(hidden_sizes|embed_dims?|embed_dim_per_stage|neck_hidden_sizes|conv_dim|tdnn_dim)$"
TOKENS = r"(_token_id|_token_index|_token_ids|_id)$"
AS_PUBLISHED = (
    "clap",
    "efficientloftr",
    "uvdoc",
    "xcodec",
    "sapiens2",
)  # families whose fields state one another's sizes in ways of their own
MROPE: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
HALF_MROPE: dict[str, Any] = {**MROPE, "partial_rotary_factor": 0.5, "mrope_section": [2, 1, 1]}
SERIES = {"prediction_length": 8, "context_length": 16, "num_time_features": 1}
MAMBA2 = {"mamba_d_ssm": 128, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1}
SAM: dict[str, Any] = {
    "prompt_encoder_config.image_embedding_size": 4, "prompt_encoder_config.image_size": 64, "vision_config.output_channels": 64,
    "vision_config.num_pos_feats": 32,
}  # fmt: skip
OVERRIDES: dict[str, dict[str, Any]] = {
    "align": {"projection_dim": 640},
    "autoformer": SERIES,
    "informer": SERIES,
    "time_series_transformer": SERIES,
    "chameleon": {"vocabulary_map": {"<image>": 250}},
    "blip-2": {"image_token_index": 250},
    "colqwen2": {"vlm_config.text_config.rope_parameters": MROPE},
    "cvt": {"depth": [1, 2, 3]},
    "dbrx": {"attn_config.rope_theta": 10000.0, "attn_config.clip_qkv": 8.0},
    "deepseek_ocr2": {"text_config.mlp_layer_types": ["dense", "sparse"], "text_config.num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4, "topk_method": "greedy"},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "depth_pro": {
        "patch_size": 64,
        "intermediate_hook_ids": [0, 0],
        **{f"{part}_config.image_size": 64 for part in ("image_model", "patch_model", "fov_model")},
    },
    "emu3": {"pad_token_id": 0, "vocab_size": 256},
    "ernie4_5_vl_moe": {"text_config.rope_parameters": {**MROPE, "mrope_section": [2, 2, 4]}},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "falcon_h1": MAMBA2,
    "gemma4_unified_assistant": {"text_config.num_kv_shared_layers": 0},
    "glm46v": {"text_config.rope_parameters": MROPE},
    "glm4v": {"text_config.rope_parameters": MROPE},
    "glm4v_moe": {"text_config.rope_parameters": HALF_MROPE},
    "glm_image": {"text_config.rope_parameters": MROPE},
    "glm_ocr": {"text_config.rope_parameters": MROPE},
    "glmga": {"text_config.rope_parameters": MROPE},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2},
    "granite_speech5_ctc": {"num_mel_bins": 320},
    "grounding-dino": {"num_queries": 10},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl": {"text_config.head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "llama4": {"pad_token_id": 0},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2},
    "qwen2_vl": {"text_config.rope_parameters": MROPE},
    "qwen2_5_vl": {"text_config.rope_parameters": MROPE},
    "reformer": {"axial_pos_embds_dim": [16, 48], "axial_pos_shape": [4, 4], "lsh_attn_chunk_length": 8, "local_attn_chunk_length": 8},
    "sam": SAM,
    "sam_hq": {**SAM, "mask_decoder_config.vit_dim": 64},
    "mobilevit": {"hidden_sizes": [16, 24, 32]},
    "nemotron": {"num_key_value_heads": 2},
    "step3p7": {"text_config.sliding_window": 16},
    "textnet": {"hidden_sizes": [64, 64, 128, 256, 512]},
    "pix2struct": {"vision_config.patch_embed_hidden_size": 768},
    "seggpt": {
        "image_size": [64, 32],
        "pretrain_image_size": 32,
        "num_hidden_layers": 4,
        "intermediate_hidden_state_indices": [0, 1, 2, 3],
        "merge_index": 1,
    },
    "zoedepth": {"bottleneck_features": 64},
    "zamba": {
        "num_hidden_layers": 6,
        "layers_block_type": ["mamba", "mamba", "hybrid"] * 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "instructblip": {"image_token_index": 250},
    "instructblipvideo": {"video_token_index": 250},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
}


def small_config(kind: str) -> dict[str, Any]:
    """Fields of a small config.json of the family `kind`."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[kind]()
    fields = _declared(config) if kind in AS_PUBLISHED else _shrunk(_declared(config), {})
    for path, value in OVERRIDES.get(kind, {}).items():
        _put(fields, path.split("."), value)
    return fields


def _declared(config: Any) -> dict[str, Any]:
    """What the class lets one say, nested configurations too; what it computes from that is left to it."""
    known = {*inspect.signature(type(config).__init__).parameters, "out_indices"}
    fields = {"model_type": config.model_type}
    for name, value in config.to_dict().items():
        part = vars(config).get(name)  # an attribute may refuse to be read where layers differ
        if hasattr(part, "to_dict") and hasattr(part, "model_type"):
            fields[name] = _declared(part)
        elif name in known and name not in DERIVED:
            fields[name] = value
    return fields


def _shrunk(fields: Mapping[str, Any], tokens: dict[int, int]) -> dict[str, Any]:
    small = {name: _small(name, value, fields, tokens) for name, value in fields.items()}
    if "stage_out_channels" in fields:  # HGNet: its lists state one another's widths
        small |= _as_read(fields)
    _keep_kinds_of_layers(fields, small)
    _keep_grid(small)
    _keep_rotation(small)
    return small


def _small(name: str, value: Any, fields: Mapping[str, Any], tokens: dict[int, int]) -> Any:
    if isinstance(value, dict):
        small = _shrunk(value, tokens) if "model_type" in value else value
        return {**small, **_as_read(value)} if name == "backbone_config" else small
    if isinstance(value, list | tuple):
        return _small_list(name, list(value), tokens)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if re.search(TOKENS, name):
        return _token(value, tokens)
    if re.search(r"(key_value|kv)_heads$", name):
        return _groups(value, fields)
    if name == "hidden_dim" and "kernel_sizes" in fields:  # EfficientNet's last width follows from the others
        return value
    for pattern, number in NUMBERS:
        if re.search(pattern, name):
            return min(value, number) if value > 0 else value
    for pattern, number in LIMITS:
        if re.search(pattern, name):
            return min(value, number)
    return value


def _as_read(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Widths of the stages of a backbone: what reads them states the same numbers."""
    return {name: value for name, value in backbone.items() if isinstance(value, list | tuple) and re.search(STAGES, name)}


def _groups(value: int, fields: Mapping[str, Any]) -> int:
    """Heads of keys and values: as few as before compared with the heads of queries."""
    heads = next((fields[name] for name in ("num_attention_heads", "n_head", "num_heads") if isinstance(fields.get(name), int)), value)
    return 1 if value == 1 else HEADS if value >= heads else 2


def _token(value: int, tokens: dict[int, int]) -> int:
    """The same place below the small vocabulary for the same token, from the top down."""
    if value < 100:
        return value
    return tokens.setdefault(value, VOCAB - 1 - len(tokens))


def _small_list(name: str, values: list[Any], tokens: dict[int, int]) -> list[Any]:
    if values and all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        if re.search(TOKENS, name):
            return [_token(value, tokens) for value in values]
        if re.search(r"^(depths?|blocks_per_stage|num_block_repeats|stage_num_blocks)$", name):
            return [min(value, 2) for value in values]
        if name == "decoder_in_channels":
            return [WIDTH] * len(values)
        if re.search(STAGES, name):
            return _divided(values)
    return values


def _divided(values: list[int]) -> list[int]:
    """Divided by the largest power of two that leaves at least 16 and divides all."""
    factor = 1
    while all(value % (2 * factor) == 0 for value in values) and min(values) // (2 * factor) >= 16:
        factor *= 2
    return [value // factor for value in values]


def _keep_kinds_of_layers(fields: Mapping[str, Any], small: dict[str, Any]) -> None:
    """Where a list says the kind of each layer: so many layers that each kind comes once, and every list by layer as long."""
    layers = next((name for name in ("num_hidden_layers", "n_layer", "num_layers") if isinstance(fields.get(name), int)), None)
    if layers is None:
        return
    was = fields[layers]
    lists = {name: value for name, value in fields.items() if isinstance(value, list | tuple) and len(value) == was and was > LAYERS}
    needed = [max(list(value).index(kind) for kind in set(value)) + 1 for name, value in lists.items() if isinstance(value[0], str)]
    small[layers] = max([small[layers], *needed])
    taken = fields.get("out_indices")
    if isinstance(taken, list) and max(taken) > small[layers]:  # a backbone whose layers others read
        small[layers] = len(taken)
        small["out_indices"] = list(range(1, len(taken) + 1))
        small.pop("out_features", None)
    for name in lists:
        small[name] = list(fields[name])[: small[layers]]


def _keep_grid(small: dict[str, Any]) -> None:
    """Images of a few patches; positions by patch follow."""
    size, patch = small.get("image_size"), small.get("patch_size")
    if isinstance(size, int) and size > 64:
        small["image_size"] = 4 * patch if isinstance(patch, int) and patch >= 8 else 64
    heads, width = small.get("num_heads"), small.get("embed_dim")
    if isinstance(heads, list) and isinstance(width, int):  # Swin: each stage has twice the width and the heads
        small["embed_dim"] = 8 * heads[0]
    if isinstance(small.get("window_size"), int) and isinstance(small.get("depths"), list):
        small["window_size"] = 2  # divides the sides of all stages


def _keep_rotation(small: dict[str, Any]) -> None:
    """Sections of a rotary embedding (time, height, width) add up to half of what is rotated."""
    rope = small.get("rope_parameters") or small.get("rope_scaling")
    if isinstance(rope, dict) and "mrope_section" in rope:
        half = int(HEAD * rope.get("partial_rotary_factor", 1.0)) // 2
        side = half * 3 // 8
        small["rope_parameters"] = {**rope, "mrope_section": [half - 2 * side, side, side]}


def _put(fields: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        fields = fields[part]
    fields[path[-1]] = value


PART = re.compile(
    r"_(text|vision|audio|text_model|vision_model|audio_model|encoder|decoder|vqgan|vqmodel|thinker|talker|dit|bigvgan|code_predictor|depth"
    r"|adapter|perceiver|perciever|tokenizer_encoder|tokenizer_decoder|vit_model|module|audio_encoder|vision_encoder|qformer|decoder_model"
    r"|hifigan|backbone)$"
)
STATES = (
    "state_size",
    "mamba_d_state",
    "ssm_state_size",
    "linear_conv_kernel_dim",
    "time_step_rank",
    "lru_width",
    "attention_hidden_size",
    "qk_dim_factor",
)
EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")


def families() -> list[str]:
    """Every model_type that some class of `transformers` is built from, except parts of others (a text tower, a codec's half)."""
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tables = [table for name, table in vars(modeling_auto).items() if re.fullmatch(r"MODEL(_FOR_\w+)?_MAPPING_NAMES", name)]
    built = {kind for table in tables for kind in table}
    return sorted(kind for kind in CONFIG_MAPPING if kind in WELL_KNOWN or (kind in built and not PART.search(kind)))


# Families that most readers have heard of; of the others every sixteenth is measured, told by a checksum of its name.
WELL_KNOWN = (
    "albert", "bart", "beit", "bert", "big_bird", "blenderbot", "bloom", "camembert", "canine", "clap", "clip", "codegen", "cohere",
    "convbert", "convnext", "convnextv2", "ctrl", "data2vec-text", "dbrx", "deberta", "deberta-v2", "deepseek_v2", "deepseek_v3",
    "deit", "dinov2", "distilbert", "dpt", "efficientnet", "electra", "encodec", "ernie", "esm", "falcon", "fnet", "gemma", "gemma2",
    "gemma3", "git", "glm", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gpt_oss", "gptj", "granite", "groupvit", "hubert",
    "idefics2", "jamba", "layoutlm", "led", "levit", "llama", "llama4", "llava", "longformer", "longt5", "m2m_100", "mamba", "mamba2",
    "marian", "mbart", "mimi", "mistral", "mixtral", "mobilebert", "mobilenet_v2", "mobilevit", "modernbert", "mpt", "musicgen", "mt5",
    "nemotron", "nystromformer", "olmo", "olmo2", "opt", "owlvit", "paligemma", "patchtst", "pegasus", "perceiver", "persimmon", "phi",
    "phi3", "pix2struct", "poolformer", "prophetnet", "pvt", "qwen2", "qwen2_5_vl", "qwen2_audio", "qwen2_moe", "qwen2_vl", "qwen3",
    "qwen3_moe", "qwen3_next", "reformer", "regnet", "rembert", "resnet", "roberta", "roformer", "rwkv", "sam", "segformer", "siglip",
    "smollm3", "speecht5", "splinter", "squeezebert", "stablelm", "starcoder2", "swin", "swinv2", "switch_transformers", "t5",
    "timesformer", "trocr", "umt5", "unispeech", "upernet", "videomae", "vilt", "visual_bert", "vit", "vit_mae", "vits", "vivit",
    "wav2vec2", "wavlm", "whisper", "xglm", "xlm", "xlm-roberta", "xlnet", "xlstm", "yolos", "zamba2",
)  # fmt: skip


def chosen() -> list[str]:
    """The families that the benchmark measures when it is not told which."""
    return [family for family in families() if family in WELL_KNOWN or zlib.crc32(family.encode()) % 16 == 0]


def kind_of(family: str) -> str:
    """Text, vision, …: told from the names of the fields that its configuration has."""
    try:
        fields = small_config(family)
    except Exception:
        return "unknown"
    parts = [name for name, value in fields.items() if isinstance(value, dict) and "model_type" in value]
    names = set(_names(fields))
    sound = any(re.search(r"mel_bins|^sampling_rate|audio|feat_extract|codebook_size|upsample_rates", name) for name in names)
    sight = bool(names & {"image_size", "patch_size", "num_channels", "backbone_config", "in_channels", "neck_hidden_sizes"})
    if "prediction_length" in names or "context_length" in fields or "lags_sequence" in names:
        return "time series"
    if sight and "vocab_size" in names and (parts or "max_2d_position_embeddings" in names) or (sound and sight):
        return "multimodal"
    if sound:
        return "audio"
    if sight:
        return "video" if names & {"num_frames", "frames_per_clip", "tubelet_size"} else "vision"
    if names & set(EXPERT_FIELDS):
        return "mixture of experts"
    if names & set(STATES):
        return "state space"
    return "encoder-decoder" if names & {"decoder_start_token_id", "num_decoder_layers", "decoder_layers"} else "text"


def _names(fields: Mapping[str, Any]) -> list[str]:
    return [name for key, value in fields.items() for name in (key, *(_names(value) if isinstance(value, dict) else ()))]
