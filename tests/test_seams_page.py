"""Graph breaks on the Explore page and on the command line: asked for, shown in words, and a row leads into the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
from streamlit.testing.v1 import AppTest

import jobs.client
from graphs.errors import CaptureError
from graphs.record import Seam, SeamReport, Source
from jobs.__main__ import main
from jobs.client import Client
from jobs.experiment import parse
from jobs.record import Seams, SeamsResult
from pages.ui import seams
from pages.ui.seams import frame, in_full, query
from tests.test_pages import click, opened, settle

CUT = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        x = self.a(x)
        print("half way")
        if x.sum() > -1e9:
            x = x * 2
        return self.b(x)


def model():
    return Net()


def inputs():
    return (torch.ones(4, 8),)
"""
STUCK = CUT.replace('print("half way")', "raise ValueError('no')")
DRAWN = '{"graphs": [{"id": "g", "nodes": [{"id": "a", "label": "input"}]}]}'


pytestmark = pytest.mark.usefixtures("default_client")


def asked(client: Client, text: str, name: str = "net.py") -> AppTest:
    """Explore, with the button pressed where the answer is not kept from an earlier test."""
    app = opened(f"model=source/{client.keep_source(text.encode(), name)}")
    if "ask seams" in [button.key for button in app.button]:
        click(app, "ask seams")
    return app


def said(app: AppTest) -> str:
    shown = [*app.success, *app.warning, *app.error, *app.caption, *app.markdown]
    return "\n".join(element.value for element in shown).replace("\\", "")


# ---------------------------------------------------------------- the page


def test_nothing_is_searched_before_it_is_asked_for(client: Client) -> None:
    app = opened("model=zoo/attention&seq=16")
    assert app.button(key="ask seams").label == "Where would torch.compile break?"
    assert client.state(client_id("model=zoo/attention&seq=16")).status == "failed"  # not known: nobody asked
    assert "graph break" in said(app)


def client_id(words: str) -> str:
    return jobs.client.request_hash(Seams(parse(words).words))


def test_a_model_without_seams_is_told_to_be_one_graph() -> None:
    app = opened("model=zoo/attention&seq=16")
    click(app, "ask seams")
    assert "One graph: torch.compile takes the whole model." in said(app)
    assert "22 operators" in said(app)
    assert not [table for table in app.dataframe if "way out" in table.value.columns]


def test_seams_are_a_table_of_lines_reasons_and_ways_out(client: Client) -> None:
    app = asked(client, CUT)
    assert "torch.compile makes 3 graphs of this model" in said(app)
    table = next(table.value for table in app.dataframe if "way out" in table.value.columns)
    assert table["line"].tolist() == ["net.py:12", "net.py:13"]
    assert table["code"].tolist() == ['print("half way")', "if x.sum() > -1e9:"]
    assert "print is called" in table["why"][0]
    assert "depends on a tensor's value" in table["why"][1]
    assert "torch.where" in table["way out"][1]
    nodes = app.dataframe[0].value
    after = nodes.set_index("node").loc[table["then"].tolist(), "operator"].tolist()
    assert after == ["sum", "mul"]
    counts = next(table.value for table in app.dataframe if "runs" in table.value.columns)
    assert counts["graph"].tolist() == [1, 2, 3]
    assert counts["runs"].tolist() == [1, 1, 1]


def test_a_row_leads_to_the_node_after_the_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    known = Seam("why", "", "", Source("net.py", 3, "print(1)"), "forward", node="relu")
    unknown = Seam("why", "", "", Source("net.py", 4, "print(2)"), "forward")
    went: list[str] = []
    for row in (0, 1, 7):
        monkeypatch.setattr(seams.st, "session_state", {"table": {"selection": {"rows": [row]}}})
        seams._chosen("table", (known, unknown), went.append)
    assert went == ["relu"]


def test_the_seams_are_lit_in_the_graph(client: Client) -> None:
    app = asked(client, CUT)
    table = next(table.value for table in app.dataframe if "way out" in table.value.columns)
    before = "turn" in app.session_state and app.session_state["turn"]
    click(app, "light seams")
    assert app.session_state["query"] == query(table["then"].tolist())
    assert app.session_state["turn"] == before + 1


def test_a_model_low_on_the_ladder_points_to_its_graph_breaks(client: Client) -> None:
    app = opened(f"model=source/{client.keep_source((CUT + '# never asked').encode(), 'net.py')}")
    assert "Graph breaks" in app.info[0].value
    assert app.button(key="ask seams")


@pytest.mark.parametrize(("text", "name", "what"), [(STUCK, "net.py", "ValueError: no"), (DRAWN, "graph.json", "there is no code")])
def test_what_cannot_be_searched_is_explained_and_the_rest_of_the_page_stays(client: Client, text: str, name: str, what: str) -> None:
    app = opened(f"model=source/{client.keep_source(text.encode(), name)}")
    before = len(app.dataframe), len(app.metric)
    click(app, "ask seams")
    assert what.lower() in said(app).lower()
    assert "Traceback" not in said(app)
    assert (len(app.dataframe), len(app.metric)) == before
    settle(app)


def test_words_of_a_seam_that_ends_a_function_and_has_no_node() -> None:
    seam = Seam("`print` is called", "", "No [rule](x)", Source("net.py", 3, "print(1)"), "forward", whole=True)
    assert "from there all of `forward` runs as plain Python" in in_full(seam)
    assert "cannot be told" in in_full(seam)
    assert "[rule](x)" not in in_full(seam)
    assert frame([seam])["then"].tolist() == ["cannot be told"]


# ---------------------------------------------------------------- jobs and command line


def test_a_pipeline_does_not_matter_to_seams(client: Client) -> None:
    plain, stepped = (Seams(f"model=zoo/attention&mode=training{more}") for more in ("", "&pipeline=fuse-attention"))
    assert client.submit(plain) == client.submit(stepped)


def test_seams_know_the_nodes_of_the_explored_graph(client: Client) -> None:
    report: SeamReport = cast(SeamsResult, client.run(Seams(f"model=source/{client.keep_source(CUT.encode(), 'net.py')}"))).report
    assert all(seam.node for seam in report.seams)


def test_a_picture_has_no_seams(client: Client) -> None:
    with pytest.raises(CaptureError, match="no code"):
        client.run(Seams(f"model=source/{client.keep_source(DRAWN.encode(), 'graph.json')}"))


def test_breaks_are_printed_after_the_report(client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = tmp_path / "net.py", tmp_path / "report.json"
    path.write_text(CUT)
    assert main(["run", f"model=file:{path}", "--breaks", "--json", str(report)], client) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("torch.compile:"))
    assert lines[at] == "torch.compile: 3 graphs, 2 seams"
    assert lines[at + 1].split() == ["seam", "line", "then", "why"]
    assert lines[at + 2].split()[:2] == ["1", "net.py:12"]
    assert "`print` is called" in lines[at + 2]
    found = json.loads(report.read_text())["breaks"]
    assert [seam["line"] for seam in found["seams"]] == ["net.py:12", "net.py:13"]
    assert found["graphs"] == [{"operators": 1, "runs": 1}, {"operators": 2, "runs": 1}, {"operators": 2, "runs": 1}]


def test_a_whole_model_is_said_to_be_one_graph(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "model=zoo/attention", "--breaks"], client) == 0
    assert "torch.compile: one graph takes the whole model (22 operators)" in capsys.readouterr().out
