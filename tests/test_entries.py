"""One class of nn.Module is enough: its arguments and inputs are guessed, shown in words, and taken from words."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

import pytest
import torch

from graphs.errors import FxscopeError, RequestError, SourceError
from graphs.ladder import climb
from graphs.record import EntryRecord
from graphs.sources.arguments import TensorWords, in_words, made, parse_inputs
from graphs.sources.base import ModelSource
from graphs.sources.upload import form, opened

GPT = """
import torch
from dataclasses import dataclass
from torch import nn

@dataclass
class GPTConfig:
    block_size: int = 32
    vocab_size: int = 100
    layers: int = 2
    width: int = 32

class Block(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.up = nn.Linear(config.width, config.width)

    def forward(self, x):
        return x + self.up(x).relu()

class GPT(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.places = nn.Embedding(config.block_size, config.width)
        self.h = nn.ModuleList(Block(config) for _ in range(config.layers))

    def forward(self, idx, targets=None):
        x = self.words(idx) + self.places(torch.arange(idx.shape[1]))
        for block in self.h:
            x = block(x)
        return x
"""
UNET = """
import torch
from torch import nn

class UNet(nn.Module):
    def __init__(self, in_channels, out_channels=3, base: int = 8):
        super().__init__()
        self.a = nn.Conv2d(in_channels, base, 3, padding=1)
        self.t = nn.Linear(1, base)
        self.b = nn.Conv2d(base, out_channels, 3, padding=1)

    def forward(self, x, t):
        return self.b(torch.relu(self.a(x) + self.t(t[:, None])[:, :, None, None]))
"""
ODD = """
from torch import nn

class Odd(nn.Module):
    def __init__(self, width, act):
        super().__init__()
        self.a, self.act = nn.Linear(width, width), act

    def forward(self, x):
        return self.act(self.a(x))
"""


def shown(record: EntryRecord | None) -> dict[str, tuple[str, str]]:
    assert record is not None
    return {one.name: (one.value, one.how) for one in (*record.arguments, *record.inputs)}


def captured(text: str, options: Mapping[str, str] | None = None, name: str = "net.py") -> ModelSource:
    source = opened(name, text.encode(), options or {}, "training")
    assert isinstance(source, ModelSource)
    standing = climb(source, "training", "cpu")
    assert standing.report.rung == 1
    assert standing.graph.totals.matmul_flops > 0
    return source


def test_the_class_that_no_other_uses_is_taken_with_guessed_arguments_and_inputs() -> None:
    record = form("gpt.py", GPT.encode(), {})
    assert record is not None
    assert (record.builder, record.classes) == ("GPT", ("Block", "GPT"))
    assert shown(record) == {"config": ("GPTConfig()", "guessed"), "idx": ("int64[2,16]<32", "guessed")}
    source = captured(GPT)
    assert "GPT(config=GPTConfig()) called with idx=int64[2,16]<32" in source.notes[0]


def test_words_of_the_form_are_what_is_built_and_called() -> None:
    options = {"class": "GPT", "args": "config=GPTConfig(layers=3, width=64)", "inputs": "idx=int64[4,8]<100"}
    assert shown(form("gpt.py", GPT.encode(), options)) == {
        "config": ("GPTConfig(layers=3, width=64)", "given"),
        "idx": ("int64[4,8]<100", "given"),
    }
    source = captured(GPT, options)
    assert not source.notes
    model, given = source.build(), source.inputs()
    assert len(model.h) == 3  # pyright: ignore[reportArgumentType]
    assert isinstance(given, dict)
    assert given["idx"].shape == (4, 8)
    assert int(given["idx"].max()) < 100


def test_another_class_may_be_chosen() -> None:
    record = form("gpt.py", GPT.encode(), {"class": "Block"})
    assert shown(record)["x"] == ("float32[2,32]", "guessed")


def test_defaults_stay_and_times_and_images_are_told_by_their_names_and_layers() -> None:
    assert shown(form("unet.py", UNET.encode(), {})) == {
        "in_channels": ("3", "guessed"),
        "out_channels": ("", "default"),
        "base": ("", "default"),
        "x": ("float32[2,3,32,32]", "guessed"),
        "t": ("float32[2]", "guessed"),
    }
    captured(UNET)


def test_what_cannot_be_guessed_is_asked_for_and_taken_from_torch_nn() -> None:
    assert shown(form("odd.py", ODD.encode(), {}))["act"] == ("", "missing")
    with pytest.raises(SourceError, match="needs `act`") as caught:
        opened("odd.py", ODD.encode(), {}, "inference")
    assert "args=" in caught.value.help
    captured(ODD, {"args": "act=nn.GELU(approximate='tanh')"})


def test_model_without_inputs_gets_guessed_ones() -> None:
    record = form("gpt.py", (GPT + "\ndef model():\n    return GPT(GPTConfig())\n").encode(), {})
    assert record is not None
    assert (record.builder, record.chosen, [one.value for one in record.inputs]) == ("model", "", ["int64[2,16]<32"])


def test_model_and_inputs_need_no_form() -> None:
    whole = GPT + "\ndef model():\n    return GPT(GPTConfig())\n\ndef inputs():\n    return torch.zeros(1, 4, dtype=torch.long)\n"
    assert form("gpt.py", whole.encode(), {}) is None


def built(text: str, options: Mapping[str, str]) -> None:
    source = opened("net.py", text.encode(), options, "inference")
    assert isinstance(source, ModelSource)
    source.build()


BAD = [
    (GPT, {"class": "Gpt"}, "no class `Gpt`"),
    (GPT, {"args": "config=os.system('true')"}, "may not be named"),
    (GPT, {"args": "config=__import__('os')"}, "may not be named"),
    (GPT, {"args": "config=torch.load('x')"}, "may not be named"),
    (GPT, {"args": "width=3"}, "no argument `width`"),
    (GPT, {"args": "config"}, "list of name=value"),
    (GPT, {"args": "config=GPTConfig(layers=)"}, "cannot be read"),
    (GPT, {"inputs": "idx=int65[2,3]"}, "no dtype"),
    (GPT, {"inputs": "ids=int64[2,3]"}, "no input `ids`"),
    (GPT, {"inputs": "idx=int64[2,-3]"}, "no sizes"),
    (GPT, {"inputs": "idx=int64[99999999999]"}, "elements"),
    (GPT, {"inputs": "idx=open('x')"}, "is no value"),
    (GPT, {"width": "3"}, "no option `width`"),
    ("x = 1", {}, "no class derived from nn.Module"),
]


@pytest.mark.parametrize(("text", "options", "what"), BAD, ids=[what for _, _, what in BAD])
def test_wrong_words_are_told_with_the_way_out(text: str, options: dict[str, str], what: str) -> None:
    with pytest.raises(FxscopeError, match=what) as caught:
        built(text, options)
    assert caught.value.help


def test_inputs_that_do_not_run_say_why_and_the_model_is_shown_all_the_same() -> None:
    text = ODD.replace("return self.act(self.a(x))", "return self.a(x) @ x.reshape(7, 11, 13)")
    source = opened("odd.py", text.encode(), {"args": "act=1"}, "inference")
    assert isinstance(source, ModelSource)
    assert "does not run with them: " in source.notes[0]
    standing = climb(source, "inference", "cpu")
    assert standing.report.rung == 6
    assert standing.report.notes == source.notes


def test_inputs_in_words_are_read_back() -> None:
    text = "x=float32[2,64], ids=int64[3]<10, pair=[bool[2], bfloat16], n=3, name='a b'"
    found = parse_inputs(text)
    assert in_words(found) == text
    assert found["ids"] == TensorWords("int64", (3,), 10)
    values = {name: made(value) for name, value in found.items()}
    assert values["x"].dtype == torch.float32
    assert values["pair"][0].dtype == torch.bool
    assert values["n"] == 3


# ---------------------------------------------------------------- several files

PACKAGE = {
    "net/__init__.py": "",
    "net/blocks.py": "from torch import nn\n\nclass Block(nn.Module):\n    def __init__(self, width):\n        super().__init__()\n"
    "        self.up = nn.Linear(width, width)\n\n    def forward(self, x):\n        return self.up(x).tanh()\n",
    "net/model.py": "import json\nfrom pathlib import Path\n\nfrom torch import nn\n\nfrom .blocks import Block\n\n"
    "SIZES = json.loads((Path(__file__).parent / 'sizes.json').read_text())\n\n\nclass Net(nn.Module):\n    def __init__(self):\n"
    "        super().__init__()\n        self.a, self.b = Block(SIZES['width']), Block(SIZES['width'])\n\n"
    "    def forward(self, x):\n        return self.b(self.a(x))\n",
    "net/sizes.json": '{"width": 24}',
    "train.py": "raise SystemExit('training begins')\n",
}


def packed(files: Mapping[str, str | bytes]) -> bytes:
    made_ = io.BytesIO()
    with zipfile.ZipFile(made_, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return made_.getvalue()


@pytest.mark.parametrize("top", ["", "project-main/"])
def test_a_package_is_imported_from_its_archive(top: str, tmp_path: object) -> None:
    source = opened("net.zip", packed({top + path: text for path, text in PACKAGE.items()}), {}, "training")
    assert isinstance(source, ModelSource)
    standing = climb(source, "training", "cpu")
    assert standing.report.rung == 1
    tanh = [node for node in standing.graph.nodes if node.target == "aten.tanh.default"]
    assert [node.module for node in tanh] == ["a", "b"]
    assert {(node.source.file, node.source.line) for node in tanh if node.source} == {("net/blocks.py", 9)}
    assert standing.report.with_source == 1.0


def test_files_that_import_one_another_with_a_dot_are_a_package() -> None:
    files = {path.removeprefix("net/"): text for path, text in PACKAGE.items() if path != "train.py" and "__init__" not in path}
    source = opened("net.zip", packed(files), {}, "inference")
    assert isinstance(source, ModelSource)
    assert climb(source, "inference", "cpu").report.rung == 1


def test_the_file_with_model_and_inputs_is_the_entry() -> None:
    run = "import torch\nfrom net.model import Net\n\ndef model():\n    return Net()\n\ndef inputs():\n    return torch.ones(5, 24)\n"
    source = opened("net.zip", packed({**PACKAGE, "model.py": run}), {}, "inference")
    assert isinstance(source, ModelSource)
    given = source.inputs()
    assert isinstance(given, tuple)
    assert given[0].shape == (5, 24)


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"a.py": "from torch import nn\nclass N(nn.Module):\n    def forward(self, x:\n"}, "does not parse"),
        ({"model.py": "import nowhere_at_all\ndef model(): ..."}, "`nowhere_at_all` is not installed"),
        ({"model.py": "from missing_part import X\ndef model(): ..."}, "`missing_part` is not installed"),
        ({"graphs.py": "def model(): ..."}, "loaded already"),
        ({"a.txt": "x"}, "nothing that can be opened"),
        ({"a.ipynb": "{}", "b.onnx": "x"}, "2 files that could be meant"),
    ],
)
def test_a_wrong_package_is_told(files: dict[str, str], what: str) -> None:
    with pytest.raises((SourceError, RequestError), match=what) as caught:
        opened("net.zip", packed(files), {}, "inference")
    assert caught.value.help


# ---------------------------------------------------------------- what students bring

GNN = """
import torch
from torch import nn

class GCN(nn.Module):
    def __init__(self, num_features, hidden_channels, num_classes):
        super().__init__()
        self.a, self.b = nn.Linear(num_features, hidden_channels), nn.Linear(hidden_channels, num_classes)

    def spread(self, x, edge_index):
        return torch.zeros_like(x).index_add(0, edge_index[1], x[edge_index[0]])

    def forward(self, x, edge_index):
        return self.b(self.spread(self.a(x).relu(), edge_index))
"""
PARTS = """
from torch import nn

class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, width)

    def forward(self, x):
        return self.up(x)

class Pair(nn.Module):
    def __init__(self, encoder: Encoder, n_answers, device, norm_layer):
        super().__init__()
        self.encoder, self.norm, self.out = encoder, norm_layer(64), nn.Linear(64, n_answers, device=device)

    def forward(self, x):
        return self.out(self.norm(self.encoder(x)))
"""
TRAINING = (
    GPT
    + """
net = GPT(GPTConfig())
loss = net(torch.zeros(1, 4, dtype=torch.long)).mean()
net.to("cuda:99")
for _ in range(1_000_000_000):
    pass
"""
)


def test_indices_fit_what_they_index() -> None:
    assert shown(form("gnn.py", GNN.encode(), {}))["x"] == ("float32[16,64]", "guessed")
    source = captured(GNN)
    source.build()(**source.inputs())  # pyright: ignore[reportCallIssue]


def test_arguments_that_are_models_of_the_file_devices_and_norms_are_guessed() -> None:
    assert shown(form("pair.py", PARTS.encode(), {})) == {
        "encoder": ("Encoder(width=64)", "guessed"),
        "n_answers": ("10", "guessed"),
        "device": ("'cpu'", "guessed"),
        "norm_layer": ("nn.LayerNorm", "guessed"),
        "x": ("float32[2,64]", "guessed"),
    }
    captured(PARTS)


def test_a_script_that_fails_after_it_defined_its_model_is_enough() -> None:
    source = captured(TRAINING)
    assert "what was defined before that is used" in source.notes[0]
    assert "net.py:" in source.notes[0]
    assert source.loss is None  # a tensor of that name is none


def test_layers_that_are_copied_are_captured() -> None:
    text = "import torch\nfrom torch import nn\ndef model():\n    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)\n"
    captured(text + "def inputs():\n    return torch.randn(2, 8, 32)\n")


def test_inputs_of_any_number_are_asked_for() -> None:
    text = "from torch import nn\nclass Sum(nn.Module):\n    def forward(self, *xs):\n        return sum(xs)\n"
    with pytest.raises(SourceError, match=r"takes \*xs") as caught:
        opened("net.py", text.encode(), {}, "inference")
    assert "inputs()" in caught.value.help
