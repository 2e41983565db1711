"""The reader's own model on the page: code, files, and the form for what builds and calls it."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import torch
from streamlit.testing.v1 import AppTest

from graphs.errors import SourceError
from jobs.client import Client
from jobs.experiment import parse
from jobs.process import WorkerProcess
from pages.ui import own_file
from tests.test_archives import Payload, bundle, saved, tensors, weights_of_llama
from tests.test_entries import GPT, ODD, PACKAGE, packed
from tests.test_pages import opened, settle, texts, words

pytestmark = pytest.mark.usefixtures("default_client")


def address(client: Client, content: bytes, name: str, more: str = "") -> str:
    return f"model=source/{client.keep_source(content, name)}{more}"


def press(app: AppTest, label: str) -> None:
    next(button for button in app.button if button.label == label).click()
    settle(app)


def title(app: AppTest) -> str:
    return next(expander.label for expander in app.expander if expander.label.startswith("Your model")).replace("\\", "")


def test_a_class_is_enough_and_the_guess_is_said(client: Client) -> None:
    app = opened(address(client, GPT.encode(), "gpt.py"))
    assert not app.error
    assert title(app) == "Your model: gpt.py · GPT(config=GPTConfig()) called with idx=int64[2,16]<32"
    assert [metric for metric in app.metric if metric.label.startswith("Launches")]
    assert "Guessed, and to be changed in the form" in texts(app).replace("\\", "")


@pytest.mark.parametrize("page", ["", "optimize", "memory", "predict"])
def test_where_only_modules_are_known_nothing_is_counted(client: Client, page: str) -> None:
    code = "from torch import nn, randn\ndef model(): return nn.Linear(8, 8)\ndef inputs(): return (randn(4, 9),)\n"
    app = opened(address(client, code.encode(), "wrong.py"), page)
    assert "No operator is known" in app.warning[0].value or not page
    assert "a and b must have same reduction dim" in app.warning[0].value
    assert not [metric for metric in app.metric if not metric.label.startswith("Nodes")]
    assert not any(button.key == "add fuse-loops" for button in app.button)


def test_the_form_writes_words_and_the_words_build_the_model(client: Client) -> None:
    app = opened(address(client, GPT.encode(), "gpt.py"))
    before = {metric.label: metric.value for metric in app.metric}
    field = next(one for one in app.text_input if one.label == "config")
    field.set_value("GPTConfig(layers=4)")
    press(app, "Show its graph")
    assert not app.error
    asked = dict(parse(words(app)).options)
    assert asked == {"args": "config=GPTConfig(layers=4)"}  # what was guessed is no wish
    assert {metric.label: metric.value for metric in app.metric} != before
    again = opened(words(app))
    assert title(again) == title(app)


def test_another_class_is_chosen_in_the_form(client: Client) -> None:
    app = opened(address(client, GPT.encode(), "gpt.py"))
    next(one for one in app.selectbox if one.label == "Class").set_value("Block")
    settle(app)
    assert not app.error
    assert dict(parse(words(app)).options) == {"class": "Block"}
    assert "Block(" in title(app)


def test_what_is_missing_is_asked_for_beside_the_error(client: Client) -> None:
    app = opened(address(client, ODD.encode(), "odd.py"))
    assert "needs `act`" in app.error[0].value
    field = next(one for one in app.text_input if one.label == "act")
    assert field.placeholder == "needed"
    field.set_value("nn.ReLU()")
    press(app, "Show its graph")
    assert not app.error
    assert "act=nn.ReLU()" in title(app)


def test_an_edit_keeps_what_the_form_says_and_the_form_takes_the_edit(client: Client) -> None:
    app = opened(address(client, ODD.encode(), "odd.py", "&args=act%3Dnn.ReLU()"))
    app.text_area[0].set_value(ODD.replace("return self.act", "return 2 * self.act"))
    next(one for one in app.text_input if one.label == "width").set_value("48")
    press(app, "Show its graph")
    assert not app.error
    assert title(app) == "Your model: odd.py · Odd(width=48, act=nn.ReLU()) called with x=float32[2,48]"
    assert "2 * self.act" in app.text_area[0].value
    app.text_area[0].set_value(app.text_area[0].value.replace("act):", "action):").replace("act\n", "action\n"))
    press(app, "Show its graph")
    assert "no argument `act`" in app.error[0].value
    assert {"width", "action"} <= {one.label for one in app.text_input}


def test_wrong_words_in_the_form_are_explained_and_stay(client: Client) -> None:
    app = opened(address(client, ODD.encode(), "odd.py", "&args=act%3Dnn.ReLU()"))
    assert not app.error
    before = [metric.value for metric in app.metric]
    next(one for one in app.text_input if one.label == "x").set_value("float33[2,64]")
    press(app, "Show its graph")
    assert "float33" in app.error[0].value
    assert [metric.value for metric in app.metric] == before
    assert "float33" in parse_qs(words(app))["inputs"][0]


@pytest.mark.parametrize("name", ["net.zip", "w.pth", "w.safetensors", "llama.zip"])
def test_each_kind_of_file_shows_a_graph_or_what_there_is(client: Client, name: str) -> None:
    content = {
        "net.zip": packed(PACKAGE),
        "w.pth": saved({"a.weight": torch.zeros(3, 4)}),
        "w.safetensors": tensors(h__0__weight=(512, 256)),
        "llama.zip": bundle(weights_of_llama()),
    }[name]
    app = opened(address(client, content, name))
    assert not app.error
    nodes = next(metric.value for metric in app.metric if metric.label.startswith("Nodes"))
    assert int(nodes.replace(",", "")) >= 1
    if name.startswith("w."):
        assert "no graph in it" in app.warning[0].value
    assert title(app).startswith(f"Your model: {name}")


def test_a_pickle_with_other_objects_is_explained(client: Client, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    app = opened(address(client, saved(Payload(mark)), "w.pt"))
    assert "more than tensors" in app.error[0].value
    assert "could run code" in app.error[0].value
    assert not mark.exists()


def test_write_code_instead_of_a_file(client: Client) -> None:
    app = opened(address(client, saved({"a": torch.zeros(3)}), "w.pth"))
    press(app, "Write code instead")
    assert app.text_area[0].value == own_file.STARTER


def test_several_files_are_one_archive() -> None:
    content, name = own_file._together([("config.json", b"{}"), ("a/model.safetensors", tensors(w=(999, 99)))])
    assert name == "files.zip"
    with zipfile.ZipFile(BytesIO(content)) as archive:
        assert archive.namelist() == ["config.json", "model.safetensors"]
        assert len(archive.read("model.safetensors")) < 200  # the values stay behind
    assert own_file._together([("net.py", b"x")]) == (b"x", "net.py")
    with pytest.raises(SourceError, match="cannot be opened"):
        own_file._together([("a.py", b""), ("b.exe", b"")])


def test_a_worker_s_folder_goes_with_it(tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path, "v", True, tmp_path / "kernels")
    inside = list(tmp_path.iterdir())
    assert len(inside) == 1
    (inside[0] / "left.txt").write_text("x")
    worker.kill()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["pt2", "onnx", "scripted", "traced"])
def test_graphs_of_other_programs_are_brought_like_any_file(client: Client, kind: str, tmp_path: Path) -> None:
    model, x = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval(), torch.randn(5, 6)
    path = tmp_path / f"net.{'pt' if kind in ('scripted', 'traced') else kind}"
    if kind == "pt2":
        torch.export.save(torch.export.export(model, (x,)), path)
    elif kind == "onnx":
        torch.onnx.export(model, (x,), str(path), dynamo=False)
    else:
        (torch.jit.script(model) if kind == "scripted" else torch.jit.trace(model, x)).save(str(path))
    app = opened(address(client, path.read_bytes(), path.name, "&mode=training"))
    assert not app.error
    assert not app.warning  # the first step of the ladder
    matmuls = {metric.label: metric.value for metric in app.metric}
    assert int(next(value for label, value in matmuls.items() if label.startswith("Launches"))) > 8
    if kind in ("scripted", "traced"):
        assert title(app) == "Your model: net.pt · forward() called with input=float32[2,6]"
        next(one for one in app.text_input if one.label == "input").set_value("float32[7,6]")
        press(app, "Show its graph")
        assert not app.error
        assert dict(parse(words(app)).options) == {"inputs": "input=float32[7,6]"}


DRAWN = '{"graphs": [{"id": "g", "nodes": [{"id": "a", "label": "input"}, {"id": "b", "label": "relu", "incomingEdges": [{"sourceNodeId": "a"}]}]}]}'


@pytest.mark.parametrize("page", ["optimize", "measure", "profile_nodes"])
def test_what_needs_a_graph_that_runs_is_not_offered_for_one_to_look_at(client: Client, page: str) -> None:
    """Twice: the second run is that of a reader who presses something."""
    app = opened(address(client, DRAWN.encode(), "graph.json"), page)
    settle(app)
    said = texts(app) + " ".join(warning.value for warning in app.warning)
    if page == "optimize":
        assert not [button for button in app.button if (button.key or "").startswith("add ")]
        assert not [expander for expander in app.expander if "Looked for when you ask" in expander.label]
        assert "Add one from the list" not in said
        return
    assert "cannot run, so nothing can be" in said
    assert "Add steps" not in said
    (begin,) = [button for button in app.button if button.label in ("Measure", "Profile")]
    assert begin.disabled


def test_the_name_of_a_file_stays_with_its_text_and_goes_with_it(client: Client) -> None:
    app = opened(address(client, GPT.encode(), "gpt.py"))
    app.text_area[0].set_value(GPT + "\n# one line more\n")
    press(app, "Show its graph")
    assert title(app).startswith("Your model: gpt.py")
    app.text_area[0].set_value(own_file.STARTER)
    press(app, "Show its graph")
    assert title(app).startswith("Your model: model.py")


def test_a_saved_page_bears_the_name_of_the_file(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made: dict[str, Any] = {}
    monkeypatch.setattr("streamlit.download_button", lambda label, data, *rest, **more: made.update({label: data}))
    opened(address(client, GPT.encode(), "gpt.py"))
    saved_page = made["Web page"]()
    assert "<title>fxscope: gpt.py" in saved_page
    assert "source/" not in saved_page
    assert "gpt.py" in made["Model Explorer"]()
