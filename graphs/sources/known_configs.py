"""Published configurations of well-known models: sizes only, as their `config.json` states them; weights are never needed.

What is left out has the default of the family's configuration class.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class KnownConfig:
    """A configuration by name: title, one sentence, and the fields of its config.json."""

    title: str
    summary: str
    config: Mapping[str, Any]


def _llama(width: int, inner: int, layers: int, heads: int, groups: int, vocab: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": width, "intermediate_size": inner,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": vocab,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "max_position_embeddings": 8192, **more,
    }  # fmt: skip


def _gpt2(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "vocab_size": 50257,
    }


def _qwen(kind: str, name: str, width: int, inner: int, layers: int, heads: int, groups: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind, "architectures": [name], "hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": groups, "vocab_size": 151936, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False, "max_position_embeddings": 32768, "use_sliding_window": False, **more,
    }  # fmt: skip


LLAMA3 = {"rope_theta": 500000.0}
DEEPSEEK_V3: dict[str, Any] = {
    "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168, "intermediate_size": 18432,
    "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4,
    "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "routed_scaling_factor": 2.5, "norm_topk_prob": True, "rope_theta": 10000.0, "max_position_embeddings": 163840,
    "tie_word_embeddings": False, "rms_norm_eps": 1e-6,
}  # fmt: skip
MIXTRAL = _llama(4096, 14336, 32, 32, 8, 32000, rope_theta=1e6, max_position_embeddings=32768) | {
    "model_type": "mixtral", "architectures": ["MixtralForCausalLM"], "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
MISTRAL = _llama(4096, 14336, 32, 32, 8, 32000, sliding_window=4096, max_position_embeddings=32768) | {
    "model_type": "mistral", "architectures": ["MistralForCausalLM"],
}  # fmt: skip
QWEN3_MOE = _qwen("qwen3_moe", "Qwen3MoeForCausalLM", 2048, 6144, 48, 32, 4) | {
    "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True,
}  # fmt: skip
GEMMA2 = {
    "model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"], "hidden_size": 3584, "intermediate_size": 14336,
    "num_hidden_layers": 42, "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "vocab_size": 256000,
    "sliding_window": 4096, "query_pre_attn_scalar": 256,
}  # fmt: skip
BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
BERT_LARGE = BERT | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
ROBERTA = {
    "model_type": "roberta",
    "architectures": ["RobertaForMaskedLM"],
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
T5 = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 768, "d_ff": 3072, "d_kv": 64, "num_layers": 12,
    "num_decoder_layers": 12, "num_heads": 12, "vocab_size": 32128, "decoder_start_token_id": 0,
}  # fmt: skip
WHISPER = {
    "model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"], "d_model": 768, "encoder_layers": 12,
    "decoder_layers": 12, "encoder_attention_heads": 12, "decoder_attention_heads": 12, "encoder_ffn_dim": 3072,
    "decoder_ffn_dim": 3072, "vocab_size": 51865, "num_mel_bins": 80,
}  # fmt: skip
FALCON = {
    "model_type": "falcon", "architectures": ["FalconForCausalLM"], "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71,
    "vocab_size": 65024, "multi_query": True, "parallel_attn": True, "new_decoder_architecture": False, "bias": False, "alibi": False,
}  # fmt: skip
OPT = {
    "model_type": "opt", "architectures": ["OPTForCausalLM"], "hidden_size": 2048, "ffn_dim": 8192, "num_hidden_layers": 24,
    "num_attention_heads": 32, "vocab_size": 50272, "word_embed_proj_dim": 2048,
}  # fmt: skip
PHI3 = _llama(3072, 8192, 32, 32, 32, 32064, max_position_embeddings=4096, pad_token_id=32000) | {
    "model_type": "phi3", "architectures": ["Phi3ForCausalLM"],
}  # fmt: skip
MAMBA = {
    "model_type": "mamba", "architectures": ["MambaForCausalLM"], "hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280,
    "state_size": 16, "expand": 2, "conv_kernel": 4,
}  # fmt: skip

KNOWN: dict[str, KnownConfig] = {
    "gpt2": KnownConfig("GPT-2", "124 million parameters; the model most courses begin with.", _gpt2(768, 12, 12)),
    "gpt2-xl": KnownConfig("GPT-2 XL", "1.5 billion parameters in 48 layers.", _gpt2(1600, 48, 25)),
    "bert-base": KnownConfig("BERT base", "Encoder with masked-token loss, 110 million parameters.", BERT),
    "bert-large": KnownConfig("BERT large", "Encoder of 24 layers, 340 million parameters.", BERT_LARGE),
    "roberta-base": KnownConfig("RoBERTa base", "BERT trained longer, with a larger vocabulary.", ROBERTA),
    "distilbert": KnownConfig("DistilBERT", "BERT with half the layers.", {"model_type": "distilbert", "architectures": ["DistilBertForMaskedLM"]}),
    "llama-2-7b": KnownConfig("Llama 2 7B", "The course's ledger is of this model.", _llama(4096, 11008, 32, 32, 32, 32000, max_position_embeddings=4096)),
    "llama-2-70b": KnownConfig("Llama 2 70B", "80 layers, grouped-query attention.", _llama(8192, 28672, 80, 64, 8, 32000, max_position_embeddings=4096)),
    "llama-3-8b": KnownConfig("Llama 3 8B", "Grouped-query attention and a vocabulary of 128 thousand.", _llama(4096, 14336, 32, 32, 8, 128256, **LLAMA3)),
    "llama-3-70b": KnownConfig("Llama 3 70B", "80 layers of width 8,192.", _llama(8192, 28672, 80, 64, 8, 128256, **LLAMA3)),
    "llama-3-405b": KnownConfig("Llama 3.1 405B", "126 layers of width 16,384.", _llama(16384, 53248, 126, 128, 8, 128256, **LLAMA3)),
    "mistral-7b": KnownConfig("Mistral 7B", "Sliding-window attention.", MISTRAL),
    "mixtral-8x7b": KnownConfig("Mixtral 8x7B", "Mixture of eight experts, two for each token.", MIXTRAL),
    "deepseek-v3": KnownConfig("DeepSeek-V3", "671 billion parameters, 256 experts, latent attention; without its extra prediction layer.", DEEPSEEK_V3),
    "qwen2.5-7b": KnownConfig("Qwen2.5 7B", "28 layers with biases on queries, keys and values.", _qwen("qwen2", "Qwen2ForCausalLM", 3584, 18944, 28, 28, 4) | {"vocab_size": 152064}),
    "qwen3-8b": KnownConfig("Qwen3 8B", "Norms on queries and keys.", _qwen("qwen3", "Qwen3ForCausalLM", 4096, 12288, 36, 32, 8, head_dim=128)),
    "qwen3-30b-a3b": KnownConfig("Qwen3 30B-A3B", "Mixture of 128 experts, eight for each token.", QWEN3_MOE),
    "gemma-2-9b": KnownConfig("Gemma 2 9B", "Local and global attention in turns.", GEMMA2),
    "phi-3-mini": KnownConfig("Phi-3 mini", "3.8 billion parameters, fused projections.", PHI3),
    "falcon-7b": KnownConfig("Falcon 7B", "One key/value head, attention and MLP in parallel.", FALCON),
    "opt-1.3b": KnownConfig("OPT 1.3B", "The GPT-3 recipe in the open.", OPT),
    "mamba-130m": KnownConfig("Mamba 130M", "State-space model: no attention.", MAMBA),
    "t5-base": KnownConfig("T5 base", "Encoder and decoder with relative positions.", T5),
    "whisper-small": KnownConfig("Whisper small", "Speech to text: convolutions, encoder, decoder.", WHISPER),
    "vit-base": KnownConfig("ViT base", "Images cut into patches of 16 × 16.", {"model_type": "vit", "architectures": ["ViTForImageClassification"]}),
    "resnet-50": KnownConfig("ResNet-50", "Convolutions with residual connections.", {"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}),
    "clip-vit-base": KnownConfig("CLIP ViT base", "An image tower and a text tower.", {"model_type": "clip", "architectures": ["CLIPModel"]}),
    "wav2vec2-base": KnownConfig("wav2vec 2.0 base", "Speech straight from the waveform.", {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]}),
}  # fmt: skip
