"""`python -m jobs run`: what it prints, the report it writes, and how it exits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from jobs.__main__ import main
from jobs.client import Client
from jobs.experiment import parse
from jobs.record import OptimizeResult
from jobs.report import COLUMNS, amount, exit_code, size, table
from jobs.version import ROOT
from optimizers.record import Verdict, WorstTensor
from tests.test_jobs import MODEL

WORDS = "mode=training&model=zoo/mlp&device=cpu&pipeline=merge-common-subexpressions,recompute-activations(every=1)"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(tmp_path_factory.mktemp("data"))
    yield made
    made.close()


class Refuting:
    """Answers as the client does, with the last step refuted: what a wrong optimization leads to."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, *arguments: Any, **settings: Any) -> OptimizeResult:
        found = cast(OptimizeResult, self._client.run(*arguments, **settings))
        verdict = Verdict("refuted", WorstTensor("gradient fc1.weight", float("inf"), 0.0), "gradient fc1.weight is off")
        wrong = msgspec.structs.replace(found.steps[-1], verdict=verdict)
        return msgspec.structs.replace(found, steps=(*found.steps[:-1], wrong))


def test_steps_that_hold_exit_with_0_and_a_line_each(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", WORDS], client) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == parse(WORDS).words
    header = next(line for line in lines if line.startswith("counted"))
    assert header.split() == ["counted", *" ".join(COLUMNS).split()]
    assert [line.split()[0] for line in lines[-2:]] == ["merge-common-subexpressions", "recompute-activations(every=1)"]
    assert "FLOP" in lines[-1]
    assert "iB" in lines[-1]


def test_a_step_alone_needs_a_file_to_go_to(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", WORDS, "--step", "1"], client) == 2
    assert "Give --export FILE as well." in capsys.readouterr().err


def test_the_report_holds_exactly_what_it_promises(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert main(["run", WORDS, "--json", str(path), "--measure"], client) == 0
    report = json.loads(path.read_text())
    assert set(report) == {"experiment", "hash", "capture", "steps", "measured"}
    assert (report["experiment"], report["hash"]) == (parse(WORDS).words, parse(WORDS).hash)
    assert set(report["capture"]) == {"method", "nodes", "parameters", "seconds"}
    counted = {"nodes", "launches", "flops", "bytes_moved", "peak_bytes"}
    for step in report["steps"]:
        assert set(step) == {"optimization", "parameters", "matches", "misses", "verdict", "how", "worst", "before", "after"}
        assert isinstance(step["matches"], int)
        assert all(set(miss) == {"node", "reason"} for miss in step["misses"])
        assert set(step["before"]) == set(step["after"]) == counted
    assert report["steps"][1]["parameters"]["every"] == 1
    assert set(report["measured"]) == {"device", "before", "after", "ratio", "interval", "verdict", "conditions"}
    for side in ("before", "after"):
        timing = report["measured"][side]
        assert set(timing) == {"median_ms", "interval_ms", "peak_bytes", "runs"}
        assert timing["interval_ms"][0] <= timing["median_ms"] <= timing["interval_ms"][1]
        assert timing["peak_bytes"] > 0


def test_measured_is_left_out_unless_asked_for(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    main(["run", WORDS, "--json", str(path)], client)
    assert "measured" not in json.loads(path.read_text())


def test_a_refuted_step_exits_with_1_and_says_why(client: Client, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    assert main(["run", WORDS, "--json", str(path)], cast(Client, Refuting(client))) == 1
    assert "gradient fc1.weight is off" in capsys.readouterr().out
    step = json.loads(path.read_text())["steps"][-1]
    assert step["verdict"] == "refuted"
    assert step["worst"] == {"tensor": "gradient fc1.weight", "error": None}  # JSON knows no infinity


def test_no_steps_hold() -> None:
    assert exit_code(()) == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "arguments are required"),
        (["run"], "arguments are required: words"),
        (["run", "mode=training"], "no model is named [model] — Write"),
        (["run", "model=zoo/mlp&mode=play"], "mode=play is unknown"),
        (["run", "model=zoo/mlpp"], "there is no model `zoo/mlpp` [model] — Did you mean zoo/mlp"),
        (["run", "model=zoo/mlp&pipeline=faster"], "there is no optimization `faster` [pipeline] — "),
        (["run", "model=file:/no/such/file.py"], "cannot be read: No such file or directory [/no/such/file.py] — "),
        (["run", "model=zoo/mlp", "--limit", "-1"], "`-1` is not a number of seconds above 0"),
        (["run", "model=zoo/mlp", "--json", "/no/such/folder/report.json"], "no folder to write the report to"),
    ],
)
def test_a_wrong_request_exits_with_2_and_one_line(
    client: Client, capsys: pytest.CaptureFixture[str], arguments: list[str], what: str
) -> None:
    assert main(arguments, client) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert what in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("def model(:", "does not parse"),
        ("1 / 0", "ZeroDivisionError"),
        ("x = 1", "no function model()"),
        ("import os\nos._exit(7)", "exit code 7"),
        ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
    ],
)
def test_a_file_that_is_no_model_exits_with_2_and_one_line(
    client: Client, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, what: str
) -> None:
    path = tmp_path / "model.py"
    path.write_text(text)
    assert main(["run", f"model=file:{path}"], client) == 2
    err = capsys.readouterr().err
    assert what in err
    assert "Traceback" not in err
    assert err.count("\n") == 1


def test_a_file_of_ones_own_runs_from_a_shell_and_its_path_stays_in_the_report(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("print('hello')\n" + MODEL)
    command = [sys.executable, "-m", "jobs", "run", "model=file:mine.py&device=cpu", "--json", "report.json"]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), "FXSCOPE_DATA": str(tmp_path / "data")}
    done = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "hello" not in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["experiment"] == "model=file:mine.py&mode=inference&device=cpu"
    assert report["capture"]["parameters"] == 8 * 16 + 16 + 16 * 4 + 4


def test_numbers_carry_units() -> None:
    assert [size(n) for n in (0, 1023, 1024, 3 << 20, 5 << 30)] == ["0 B", "1023 B", "1.0 KiB", "3.0 MiB", "5.00 GiB"]
    assert [amount(n, "FLOP") for n in (7, 2_500, 3 * 10**9, 4 * 10**15)] == ["7 FLOP", "2,500 FLOP", "3.00 GFLOP", "4,000.00 TFLOP"]


def test_columns_are_aligned() -> None:
    assert table([("a", "bb"), ("long", "c")]) == ["a     bb", "long  c"]
