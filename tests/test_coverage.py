"""Architectures of every kind reach their rung; small configurations are consistent; the page says what its table says."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.by_hand import by_hand_source
from benchmarks.coverage import examined, guarded
from benchmarks.coverage_page import MODES, Result, page
from benchmarks.small_configs import VOCAB, chosen, families, kind_of, small_config
from graphs.ladder import climb
from graphs.sources.hugging_face import config_source

pytestmark = pytest.mark.usefixtures("one_thread")
PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
RUNGS = [
    ("llama", 1), ("bert", 1), ("qwen2_moe", 1), ("linear-recurrence", 1), ("resnet", 1), ("clip", 1), ("whisper", 1),
    ("gan-discriminator", 1), ("dlrm", 1), ("lstm", 1), ("torch-cond", 1), ("branch-on-value", 3), ("numpy-inside", 4), ("masked-rows", 5),
]  # fmt: skip


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small models are not faster on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "rung"), RUNGS)
def test_an_architecture_reaches_its_rung_and_computes_what_the_model_does(name: str, rung: int) -> None:
    for mode in MODES:
        result = examined(name, mode)
        assert result.rung == rung, result.reasons
        assert result.nodes > 3
        assert len(result.reasons) == (rung - 1)
        assert not set(result.unknown) - {"cond"}  # what a branch costs depends on which one runs
        if mode == "inference" and rung < 5:
            assert result.same in ("bitwise", "close"), result.error


def _parts(fields: dict[str, Any]) -> list[dict[str, Any]]:
    inner = [part for value in fields.values() if isinstance(value, dict) and "model_type" in value for part in _parts(value)]
    return [fields, *inner]


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen2_moe", "deepseek_v3", "clip", "llava", "t5", "swin", "whisper", "qwen2_vl"])
def test_a_small_configuration_is_consistent(family: str) -> None:
    for part in _parts(small_config(family)):
        width, heads = part.get("hidden_size"), part.get("num_attention_heads")
        if isinstance(width, int) and isinstance(heads, int):
            assert width % heads == 0
            assert heads % (part.get("num_key_value_heads") or 1) == 0
        vocabulary = part.get("vocab_size") or VOCAB
        tokens = [value for name, value in part.items() if name.endswith("_token_id") and isinstance(value, int)]
        assert all(token < vocabulary for token in tokens)
        if part.get("layer_types"):
            assert len(part["layer_types"]) == part["num_hidden_layers"]


def test_every_kind_of_layer_stays() -> None:
    assert set(small_config("gemma3")["text_config"]["layer_types"]) == {"sliding_attention", "full_attention"}
    assert len(set(small_config("qwen3_next")["layer_types"])) == 2


def test_equal_special_tokens_stay_equal_and_others_differ() -> None:
    fields = small_config("llava")
    tokens = [fields["image_token_index"], fields["text_config"].get("eos_token_id")]
    assert len(set(tokens)) == 2
    assert max(tokens) < VOCAB


def test_the_families_are_no_parts_and_their_kinds_are_told() -> None:
    assert {"llama", "vit", "clip"} <= set(chosen()) <= set(families())
    assert not any(family.endswith(("_vision_model", "_text_model")) for family in families())
    told = {family: kind_of(family) for family in ("llama", "vit", "wav2vec2", "clip", "t5", "mixtral", "mamba", "vivit")}
    assert list(told.values()) == ["text", "vision", "audio", "multimodal", "encoder-decoder", "mixture of experts", "state space", "video"]


@pytest.mark.parametrize(
    ("family", "name", "sizes"), [("dac", "input_values", 3), ("vivit", "pixel_values", 5), ("clip", "pixel_values", 4)]
)
def test_a_guess_that_the_model_refuses_gives_way_to_one_that_it_takes(family: str, name: str, sizes: int) -> None:
    source = config_source(json.dumps(small_config(family)), "config.json", {"seq": "8"}, "inference")
    given = source.inputs()
    assert isinstance(given, dict)
    assert given[name].dim() == sizes
    with torch.no_grad():
        source.build().eval()(**given)


def test_text_holds_no_token_that_stands_for_an_image() -> None:
    fields = small_config("llava") | {"image_token_index": 77}
    source = config_source(json.dumps(fields), "config.json", {"batch": "8", "seq": "64"}, "inference")
    given = source.inputs()
    assert isinstance(given, dict)
    assert not bool((given["input_ids"] == 77).any())


def test_labels_of_a_language_model_are_its_ids() -> None:
    given = config_source(json.dumps(small_config("llama")), "config.json", {"seq": "8"}, "training").inputs()
    assert isinstance(given, dict)
    assert torch.equal(given["labels"], given["input_ids"])
    assert given["labels"] is not given["input_ids"]


def test_a_loss_for_each_example_is_averaged() -> None:
    source = config_source(json.dumps({"model_type": "llama"}), "config.json", {}, "training")
    assert source.loss is not None
    outputs = type("Outputs", (), {"loss": torch.tensor([1.0, 3.0])})()
    assert source.loss(outputs) == 2.0


def test_a_process_that_dies_is_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    import benchmarks.coverage as coverage

    monkeypatch.setattr(coverage, "examined", lambda *_: os._exit(3))
    assert guarded("llama", "inference").reasons == ("the process that captured it died",)


def test_the_reason_names_the_size_and_the_way_out() -> None:
    refused = climb(by_hand_source("masked-rows"), "inference", "cpu").report.refused
    assert "the size of a result depends on values" in refused[0]
    assert "torch.where" in refused[0]


def _row(name: str, mode: str, rung: int, **more: Any) -> Result:
    return Result(name, "text", mode, rung, 5, 0.1, **more)


def test_the_page_counts_what_is_missing_apart() -> None:
    results = [
        *(_row("one", mode, 1, same="bitwise") for mode in MODES),
        *(_row("two", mode, 6, reasons=("torch.export: no", "eager run: no")) for mode in MODES),
        *(_row("three", mode, 0, reasons=("a package is missing: timm",)) for mode in MODES),
    ]
    text = page(results)
    assert "Operator graph for inference: **1 of 2 (50.0 %)**" in text
    assert "Equal bit for bit: 1 of 1 (100.0 %)" in text
    assert "| three | a package is missing: timm |" in text


def test_the_figures_of_the_page_are_those_of_its_table() -> None:
    text = PAGE.read_text()
    table = text.split("## Every architecture")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 120
    for mode, column in (("inference", 2), ("training", 6)):
        rungs = [int(row[column]) for row in rows]
        said = re.search(rf"Operator graph for {mode}: \*\*(\d+) of (\d+)", text)
        assert said is not None
        assert [int(one) for one in said.groups()] == [sum(1 <= rung <= 5 for rung in rungs), len(rows)]
        place = MODES.index(mode) + 2
        by_rung = {line.split("|")[1].strip(): int(line.split("|")[place + 1]) for line in text.split("## Rungs")[1].splitlines()[4:11]}
        assert by_rung == {str(rung) if rung else "—": Counter(rungs)[rung] for rung in range(7)}
