"""Archives are checked before they are opened, and tensors without code are shown as what they are."""

from __future__ import annotations

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphs.errors import SourceError
from graphs.ladder import climb
from graphs.sources import archive
from graphs.sources.base import ModelSource, TensorTree
from graphs.sources.kinds import BINARY_LIMIT, kept_part
from graphs.sources.upload import opened

LLAMA: dict[str, Any] = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64,
}  # fmt: skip


def packed(write: Callable[[zipfile.ZipFile], None]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as opened_:
        write(opened_)
    return made.getvalue()


def named(path: str, content: bytes = b"x", mode: int = 0o100644) -> bytes:
    def write(into: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo("placeholder")
        entry.filename = path
        entry.external_attr = mode << 16
        entry.compress_type = zipfile.ZIP_DEFLATED
        into.writestr(entry, content)

    return packed(write)


def many(count: int) -> bytes:
    return packed(lambda into: [into.writestr(f"{index}.py", "") for index in range(count)] and None)


def twice(into: zipfile.ZipFile) -> None:
    into.writestr("a.py", "x = 1")
    with warnings.catch_warnings(action="ignore"):
        into.writestr("a.py", "x = 2")


def lying(declared: int) -> bytes:
    """An archive whose directory says that an entry is smaller than it is."""
    content = bytearray(named("a.py", b"#" * 5000))
    at = content.index(b"PK\x01\x02")
    struct.pack_into("<L", content, at + 24, declared)
    return bytes(content)


def encrypted() -> bytes:
    content = bytearray(named("a.py"))
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def damaged() -> bytes:
    content = bytearray(packed(lambda into: into.writestr("a.py", "x = 1\n" * 1000)))
    content[45] ^= 0xFF
    return bytes(content)


HOSTILE = {
    "points outside": named("../evil.py"),
    "points outside ": named("/etc/passwd"),
    "points outside  ": named("C:/evil.py"),
    "points outside   ": named("a/../../evil.py"),
    "is a link": named("link.py", b"/etc/passwd", 0o120777),
    "is encrypted": encrypted(),
    "times its size": named("zeros.py", bytes(50 << 20)),
    "entries": many(20_001),
    "two entries": packed(twice),
    "damaged": damaged(),
    "is damaged|larger than it says": lying(10),
    "cannot be read": named("a.py")[:-30],
    "not a zip file": b"just words",
}


@pytest.mark.parametrize(("what", "content"), HOSTILE.items(), ids=[what.strip() or str(at) for at, what in enumerate(HOSTILE)])
def test_a_hostile_or_broken_archive_is_refused(what: str, content: bytes) -> None:
    with pytest.raises(SourceError, match=what.strip()) as caught:
        opened("net.zip", content, {}, "inference")
    assert caught.value.help


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is_read() -> None:
    content = bytearray(named("a.py", b"#" * 5000))
    at = content.index(b"PK\x01\x02")
    struct.pack_into("<LL", content, at + 20, 0xFFFFFF00, 0xFFFFFF00)
    with pytest.raises(SourceError, match="unpacks to 4.0 GiB"):
        archive.members(bytes(content), "net.zip")


def saved(value: Any, **how: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made, **how)
    return made.getvalue()


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_state_dict_is_a_tree_of_tensors_that_asks_for_code(legacy: bool) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    checkpoint = {"model": model.state_dict(), "epoch": 3, "moments": [torch.zeros(2)]}
    standing = climb(opened("w.pth", saved(checkpoint, _use_new_zipfile_serialization=not legacy), {}, "inference"), "inference", "cpu")
    assert (standing.report.rung, standing.program) == (6, None)
    found = {node.target: (node.shape, node.dtype) for node in standing.graph.nodes}
    assert found["model.0.weight"] == ((8, 4), "float32")
    assert found["model.1.num_batches_tracked"] == ((), "int64")
    assert found["moments.0"] == ((2,), "float32")
    assert "no graph in it" in standing.report.notes[0]
    assert "code" in standing.report.notes[0]


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.ckpt", "w.bin"])
@pytest.mark.parametrize("legacy", [False, True])
def test_other_objects_in_a_pickle_are_refused_and_never_made(name: str, legacy: bool, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    content = saved({"a": torch.zeros(1), "b": Payload(mark)}, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(SourceError, match="more than tensors") as caught:
        opened(name, content, {}, "inference")
    assert "could run code" in caught.value.help
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists()  # so the payload would have worked


@pytest.mark.parametrize("content", [b"", b"\x80\x02garbage", saved({"a": torch.zeros(9)})[:200], saved({"a": 1})])
def test_a_file_without_readable_tensors_is_told(content: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        opened("w.pth", content, {}, "inference")
    assert caught.value.help


def tensors(**held: tuple[int, ...]) -> bytes:
    from safetensors.torch import save

    return save({name.replace("__", "."): torch.zeros(shape, dtype=torch.bfloat16) for name, shape in held.items()})


def test_of_a_safetensors_file_only_the_header_is_kept() -> None:
    content = tensors(h__0__weight=(512, 256), h__0__bias=(512,))
    kept = kept_part("w.safetensors", content)
    assert len(kept) < 400 < len(content)
    source = opened("w.safetensors", kept, {}, "inference")
    assert isinstance(source, TensorTree)
    assert source.tensors == {"h.0.bias": ((512,), "bfloat16"), "h.0.weight": ((512, 256), "bfloat16")}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 20,
        (5).to_bytes(8, "little") + b"[1,2]",
        (2).to_bytes(8, "little") + b"{",
        (30).to_bytes(8, "little") + b'{"a":{"dtype":"F32","shape":-1',
    ],
)
def test_a_broken_safetensors_header_is_told(content: bytes) -> None:
    with pytest.raises(SourceError) as caught:
        opened("w.safetensors", content, {}, "inference")
    assert "safetensors" in caught.value.help


def bundle(weights: bytes) -> bytes:
    def write(into: zipfile.ZipFile) -> None:
        into.writestr("llama/config.json", json.dumps(LLAMA))
        into.writestr("llama/model.safetensors", weights)

    return packed(write)


def weights_of_llama(width: int = 32) -> bytes:
    from safetensors.torch import save
    from transformers import LlamaConfig, LlamaForCausalLM

    fields = {key: value for key, value in LLAMA.items() if key not in ("model_type", "architectures")} | {"hidden_size": width}
    model = LlamaForCausalLM(LlamaConfig(**fields)).to(torch.bfloat16)
    return save({name: value.contiguous() for name, value in model.state_dict().items()})


def test_a_configuration_with_its_weights_is_a_graph_in_their_precision() -> None:
    source = opened("llama.zip", bundle(weights_of_llama()), {"seq": "8"}, "inference")
    assert isinstance(source, ModelSource)
    assert "21 of 21 tensors" in source.notes[0]
    graph = climb(source, "inference", "cpu").graph
    assert {node.dtype for node in graph.nodes if node.role == "parameter"} == {"bfloat16"}


@pytest.mark.parametrize(
    ("weights", "what"), [(weights_of_llama(64), "in the file and"), (tensors(other=(3,)), "none of the file's tensors")]
)
def test_weights_of_another_model_are_told(weights: bytes, what: str) -> None:
    with pytest.raises(SourceError, match=what):
        opened("llama.zip", bundle(weights), {}, "inference")


def test_too_large_a_file_and_an_unknown_kind_are_refused() -> None:
    with pytest.raises(SourceError, match="larger than 100 MB"):
        kept_part("w.pth", bytes(BINARY_LIMIT + 1))
    with pytest.raises(SourceError, match="cannot be opened") as caught:
        kept_part("run.exe", b"MZ")
    assert ".py" in caught.value.help


def test_a_file_that_is_cut_off_says_so_by_its_kind() -> None:
    whole = tensors(h__0__weight=(512, 256))
    with pytest.raises(SourceError, match="cut off: 1,000 of"):
        kept_part("w.safetensors", whole[:1000])
    assert kept_part("w.safetensors", kept_part("w.safetensors", whole)) == kept_part("w.safetensors", whole)
    with pytest.raises(SourceError) as caught:
        opened("w.pth", saved({"a": torch.zeros(2000)})[:3000], {}, "inference")
    assert "upload it, again" in caught.value.help
    with pytest.raises(SourceError, match="not what torch.save writes") as caught:
        opened("w.pt", b"\x08\x07\x12\x07pytorch", {}, "inference")
    assert ".onnx" in caught.value.help
