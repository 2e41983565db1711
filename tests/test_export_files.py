"""Sessions as a notebook, as tables and as a web page; the command line and the page that offer them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest
from playwright.sync_api import Browser

from jobs.__main__ import main
from jobs.client import Client
from jobs.experiment import parse
from jobs.exporting.job import chapters
from jobs.exporting.notebook import notebook
from jobs.exporting.tables import nodes_csv, steps_csv
from jobs.record import Optimize, OptimizeResult
from pages.ui.graph_view.page import Told, page
from pages.ui.web_page import session_page
from tests.test_export_python import walked

WORDS = "model=zoo/mlp&mode=training&batch=4&depth=2&width=16&pipeline=merge-common-subexpressions,cancel-views"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(tmp_path_factory.mktemp("data"))
    yield made
    made.close()


def test_a_notebook_is_of_format_4_and_its_cells_check_the_session(capsys: pytest.CaptureFixture[str]) -> None:
    program, applied = walked(parse(WORDS))
    content = json.loads(notebook(chapters(program, applied, -1, every_step=True), WORDS))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    cells = content["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    module = sys.modules["exported_notebook"] = ModuleType("exported_notebook")
    for cell in cells:
        assert cell["cell_type"] in ("code", "markdown")
        assert all(isinstance(line, str) and line.endswith("\n") for line in cell["source"][:-1])
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            exec(compile("".join(cell["source"]).replace('"--rounds", "15"', '"--rounds", "0"'), cell["id"], "exec"), vars(module))
    assert capsys.readouterr().out.count("bitwise") == 2
    lessons = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "## merge-common-subexpressions" in lessons
    assert "### When it does not apply" in lessons


def test_tables_have_every_node_and_every_step(gpt2: OptimizeResult) -> None:
    names = ["captured", *(step.words for step in gpt2.steps)]
    head, *nodes = csv.reader(io.StringIO(nodes_csv(gpt2.graphs, names)))
    assert len(nodes) == sum(len(graph.nodes) for graph in gpt2.graphs)
    assert {len(row) for row in nodes} == {len(head)}
    launches = [int(row[-1]) for row in nodes if row[0] == "captured" and row[-1]]
    assert sum(launches) == gpt2.graphs[0].totals.launches
    head, first, *steps = csv.reader(io.StringIO(steps_csv(gpt2.graphs[0].totals, gpt2.steps)))
    assert first[0] == "captured"
    assert [row[head.index("verdict")] for row in steps] == [step.verdict.kind for step in gpt2.steps]
    assert [int(row[-1]) for row in steps] == [step.after.peak_bytes for step in gpt2.steps]


def test_no_cell_of_a_table_is_a_formula(gpt2: OptimizeResult) -> None:
    text = nodes_csv(gpt2.graphs[:1], ["=HYPERLINK(1)"])
    assert "\n'=HYPERLINK(1)," in text
    assert "\n=" not in text


def test_the_saved_page_tells_steps_and_escapes_them() -> None:
    told = Told("<b>step</b>", ["same bits & more"], {"places: 1": ["<script>alert(1)</script>"]})
    text = page({"digest": ""}, "t", "w", [], [told])
    assert "&lt;b&gt;step" in text
    assert "<script>alert" not in text
    assert "<details><summary>places: 1</summary>" in text


def test_the_command_line_writes_a_file_that_runs(client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "step.py"
    assert main(["run", WORDS, "--export", str(path), "--step", "2"], client) == 0
    done = subprocess.run([sys.executable, "-I", path, "--rounds", "0"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("bitwise") == 2
    table = tmp_path / "steps.csv"
    assert main(["run", WORDS, "--export", str(table)], client) == 0
    assert len(table.read_text().splitlines()) == 4
    capsys.readouterr()


def test_the_command_line_writes_the_web_page_that_the_app_saves(client: Client, tmp_path: Path, chromium: Browser) -> None:
    path = tmp_path / "session.html"
    assert main(["run", WORDS, "--export", str(path)], client) == 0
    found = cast(OptimizeResult, client.run(Optimize(parse(WORDS).words)))
    assert path.read_text() == session_page(found.graphs, found.steps, parse(WORDS).words)
    context = chromium.new_context(offline=True)
    opened = context.new_page()
    errors: list[str] = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(path.as_uri())
    opened.locator("g.leaf").first.wait_for(timeout=30_000)
    assert [text for text in opened.locator("h2").all_inner_texts() if text] == [step.words for step in found.steps]
    assert opened.locator("tr").count() == 1 + len(found.graphs)
    context.close()
    assert not errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--export", "x.exe"], "no format to export to"),
        (["--export", "x.csv", "--step", "1"], "no step 1"),
        (["--export", "x.html", "--step", "1"], "no step 1"),
        (["--export", "x.py", "--step", "9"], "no step 9"),
        (["--export", "/nowhere/x.py"], "no folder"),
    ],
)
def test_the_command_line_refuses_what_cannot_be_exported(
    arguments: list[str], said: str, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", WORDS, *arguments], client) == 2
    assert said in capsys.readouterr().err
