"""Models from their configurations: exact counts, every mode, and what is wrong with a wrong configuration."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from graphs.errors import FxscopeError, RequestError, SourceError
from graphs.ladder import climb
from graphs.sources.hugging_face import config_source, hf_source
from graphs.sources.known_configs import KNOWN

COUNTS = {  # course_cases P3-01 and P3-07, and the models' own papers
    "gpt2": 124_439_808,
    "bert-base": 109_514_298,
    "llama-2-7b": 6_738_415_616,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "llama-3-405b": 405_853_388_800,
    "mixtral-8x7b": 46_702_792_704,
    "deepseek-v3": 671_026_419_200,
    "qwen3-30b-a3b": 30_532_122_624,
    "gemma-2-9b": 9_241_705_984,
    "t5-base": 222_903_552,
    "mamba-130m": 129_135_360,
}
LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(COUNTS))
def test_parameters_are_counted_to_the_unit(name: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = hf_source(name, {}, "inference").build()
    # The bias that balances DeepSeek's experts is a buffer to transformers and a parameter to the paper.
    biases = sum(value.numel() for key, value in model.named_buffers() if key.endswith("e_score_correction_bias"))
    assert sum(value.numel() for value in model.parameters()) + biases == COUNTS[name]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_known_configuration_builds_and_takes_its_inputs(name: str) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        source = hf_source(name, {"layers": "2"}, "inference")
        model, given = source.build(), source.inputs()
    assert given
    assert sum(value.numel() for value in model.parameters()) > 1_000_000


def test_operations_of_llama_are_those_of_the_course() -> None:
    """course_cases A67 and P3-02: matmuls only; the forward of 32 layers at 4,096 tokens, and of one layer at 2,048."""
    whole = climb(hf_source("llama-2-7b", {"seq": "4096", "dtype": "float16"}, "inference"), "inference", "cpu").graph
    assert whole.totals.matmul_flops / 1e12 == pytest.approx(62.921, abs=0.0005)
    few = {"seq": "4096", "layers": "2"}
    forward = climb(hf_source("llama-2-7b", few, "inference"), "inference", "cpu").graph
    training = climb(hf_source("llama-2-7b", {**few, "attention": "eager"}, "training"), "training", "cpu").graph
    assert training.totals.matmul_flops / forward.totals.matmul_flops == pytest.approx(3.0, abs=0.001)
    one = climb(hf_source("llama-2-7b", {"seq": "2048", "layers": "1"}, "inference"), "inference", "cpu").graph
    layer = sum(node.cost.matmul_flops for node in one.nodes if node.module.startswith("model.layers.0"))
    assert layer / 1e12 == pytest.approx(0.897648, abs=1e-6)
    assert whole.totals.unknown == training.totals.unknown == 0


def test_attention_stays_one_operator_per_layer() -> None:
    graph = climb(hf_source("llama-3-8b", {"seq": "128"}, "inference"), "inference", "cpu").graph
    fused = [node for node in graph.nodes if "scaled_dot_product" in node.target]
    assert len(fused) == 32
    assert all(node.cost.known and node.cost.matmul_flops == 4 * 32 * 128 * 128 * 128 for node in fused)


def test_decode_continues_what_prefill_began() -> None:
    text = json.dumps(LLAMA)
    found = {mode: climb(config_source(text, "config.json", {"seq": "6"}, mode), mode, "cpu") for mode in ("prefill", "decode")}
    model = config_source(text, "config.json", {}, "inference").build().eval()
    tokens = torch.randint(0, 64, (1, 7))
    with torch.no_grad():
        expected = model(input_ids=tokens, use_cache=False).logits[:, -1]
    held = {f"model.{name}": value.detach() for name, value in model.named_parameters()}
    held |= {f"model.{name}": value for name, value in model.named_buffers()}
    cache: dict[str, torch.Tensor] = {}
    outputs: list[Any] = []
    for mode, ids in (("prefill", tokens[:, :6]), ("decode", tokens[:, 6:])):
        program = found[mode].program
        assert program is not None
        made = program.tensors(0)
        given = [
            held[spec.target]
            if spec.target in held
            else ids
            if spec.target == "input_ids"
            else cache.get(spec.target, made[spec.role, spec.target])
            for spec in program.inputs
        ]
        outputs = program.run(given)
        cache = {f"cache.{at // 2}.{at % 2}": value for at, value in enumerate(outputs[1:]) if value is not None}
    torch.testing.assert_close(outputs[0], expected, rtol=1e-4, atol=1e-5)
    assert {node.shape for node in found["decode"].graph.nodes if node.role == "input" and "cache" in node.target} == {(1, 2, 6, 8)}


BAD: list[tuple[str, dict[str, str], str, str]] = [
    ('{"model_type": ', {}, "inference", "not JSON"),
    ('{"vocab_size": 3}', {}, "inference", "no `model_type`"),
    ('{"model_type": "lama"}', {}, "inference", "no model_type `lama`"),
    (json.dumps(LLAMA | {"hidden_size": "wide"}), {}, "inference", "does not fit llama"),
    (json.dumps(LLAMA), {"sequence": "4"}, "inference", "no option `sequence`"),
    (json.dumps(LLAMA), {"seq": "0"}, "inference", "is no seq"),
    (json.dumps({"model_type": "bert"}), {}, "decode", "no causal language model"),
]


@pytest.mark.parametrize(("text", "options", "mode", "what"), BAD, ids=[what for *_, what in BAD])
def test_a_wrong_configuration_is_told_in_one_sentence(text: str, options: dict[str, str], mode: str, what: str) -> None:
    with pytest.raises((SourceError, RequestError)) as caught:
        config_source(text, "config.json", options, mode)
    assert what in caught.value.what
    assert caught.value.help


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(RequestError, match="llama-3-8") as caught:
        hf_source("llama-3-8", {}, "inference")
    assert "hf/llama-3-8b" in caught.value.help


def test_a_state_that_is_no_cache_of_keys_and_values_is_refused() -> None:
    with pytest.raises(FxscopeError, match="no keys and values"):
        climb(hf_source("mamba-130m", {"layers": "2", "seq": "4"}, "prefill"), "prefill", "cpu")


@pytest.mark.parametrize(("kind", "name"), [("metaclip_2_text_model", "MetaClip2TextModel"), ("janus_vision_model", "JanusVisionModel")])
def test_a_part_of_a_model_is_built_by_the_class_beside_its_configuration(kind: str, name: str) -> None:
    source = config_source(json.dumps({"model_type": kind}), "config.json", {"layers": "2", "seq": "16"}, "inference")
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert type(source.build()).__name__ == name
    assert climb(source, "inference", "cpu").report.rung == 1
