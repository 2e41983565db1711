"""Exported Python files, run where there is torch and nothing of this project: the app's bits, and the app's verdicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphs.capture import capture
from graphs.errors import RequestError, TooLargeError
from graphs.exporting.inputs import sample
from graphs.options import CaptureOptions
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.base import ModelSource
from graphs.sources.zoo import zoo_source
from jobs.experiment import Experiment, parse
from jobs.exporting.checks import exactly
from jobs.exporting.job import chapters
from jobs.exporting.python_file import Chapter, python_file
from optimizers.catalog import named
from optimizers.pipeline import Applied, apply
from optimizers.verify import Judge
from tests.exported_sessions import OWN_OPERATORS, SESSIONS
from tests.run_exported import digest, opened

RUNNER = Path(__file__).parent / "run_exported.py"


@dataclass(frozen=True)
class Session:
    """An exported session: what the app says and computes of the file's own inputs, and what the file did alone."""

    applied: Sequence[Applied]
    digests: list[str]
    verdicts: list[str]
    alone: Mapping[str, Any]


def with_inputs_of(program: Program, path: Path) -> Program:
    """The program, fed with what an exported file makes."""
    module = opened(str(path))
    return replace(program, tensors=lambda seed: {tuple(name.split(" ", 1)): value for name, value in module.inputs(seed).items()})


def in_the_app(programs: Sequence[Chapter], path: Path) -> tuple[list[str], list[str]]:
    """Hashes of every program's outputs, and verdicts of the app's judge."""
    fed = [with_inputs_of(one.program, path) for one in programs]
    judge = Judge(fed[0])
    verdicts = [judge.by_running(fed[at], fed[at + 1], one.exactness).kind for at, one in enumerate(programs[1:])]
    digests = []
    for one in fed:
        given = [value.clone() for value in one.materialize(0)]
        digests.append(digest([value for value in one.run(given, 0) if value is not None]))
    return digests, verdicts


def alone(paths: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    """Runs files in a clean process elsewhere; one start of torch for all."""
    kept = {name: os.environ[name] for name in ("PATH", "TORCHINDUCTOR_CACHE_DIR") if name in os.environ}
    command = [sys.executable, "-I", str(RUNNER), *map(str, paths)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**kept, "OMP_NUM_THREADS": "1"}, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    *found, last = [json.loads(line) for line in done.stdout.splitlines()]
    assert last == {"ours": []}
    return found


def walked(experiment: Experiment) -> tuple[Program, list[Applied]]:
    """The captured program and every step of a zoo model's pipeline, unjudged."""
    options = dict(experiment.options)
    update = options.pop("update", "none")
    program = capture(zoo_source(experiment.model.removeprefix("zoo/"), options), experiment.mode, "cpu", CaptureOptions(update)).program
    done: list[Applied] = []
    for step in experiment.pipeline:
        last, graph = (done[-1].program, done[-1].snapshot) if done else (program, snapshot(program))
        done.append(apply(last, graph, step.name, dict(step.settings)))
    return program, done


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Session]:
    folder = tmp_path_factory.mktemp("exported")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made: dict[str, tuple[Path, list[Applied], list[str], list[str]]] = {}
    for words in SESSIONS:
        experiment = parse(words)
        program, done = walked(experiment)
        found = chapters(program, done, -1, every_step=True)
        path = folder / f"{experiment.model.removeprefix('zoo/')}.py"
        path.write_text(python_file(found, words))
        made[words] = (path, done, *in_the_app(found, path))
    torch.set_num_threads(threads)
    reports = alone([path for path, *_ in made.values()], folder)
    return {
        words: Session(done, digests, verdicts, one)
        for (words, (_, done, digests, verdicts)), one in zip(made.items(), reports, strict=True)
    }


@pytest.mark.parametrize("words", SESSIONS, ids=lambda words: words.partition("&")[0])
def test_an_exported_session_computes_the_bits_of_the_app_and_says_its_verdicts(words: str, sessions: dict[str, Session]) -> None:
    session = sessions[words]
    assert "error" not in session.alone, session.alone
    assert session.alone["digests"] == session.digests
    assert session.alone["verdicts"] == session.verdicts
    assert "refuted" not in session.verdicts
    assert len(session.verdicts) == 5


def test_the_sessions_rewrite_something_in_nearly_every_step(sessions: dict[str, Session]) -> None:
    steps = [one.step for session in sessions.values() for one in session.applied]
    assert len(steps) == 60
    assert sum(bool(step.matches) for step in steps) >= 55


def test_a_mask_is_written_out_for_drawn_anew_it_could_hide_a_whole_row() -> None:
    mask = torch.ones(20, 20, dtype=torch.bool).tril()
    made = eval(sample("input", mask), {"exactly": exactly, "torch": torch})
    assert torch.equal(made, mask)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[str], list[str], Mapping[str, Any]]]:
    """The first example of optimizations whose graphs call operators of this project."""
    folder = tmp_path_factory.mktemp("examples")
    made = {}
    for name in OWN_OPERATORS:
        optimization = named(name)
        example = next((one for one in optimization.examples if one.mode == "training"), optimization.examples[0])
        program = capture(example.source(), example.mode, "cpu", example.options).program
        applied = apply(program, snapshot(program), name, example.settings)
        found = chapters(program, [applied], 0, every_step=True)
        path = folder / f"{name.replace('-', '_')}.py"
        path.write_text(python_file(found, name))
        made[name] = (path, *in_the_app(found, path))
    reports = alone([path for path, *_ in made.values()], folder)
    return {name: (digests, verdicts, one) for (name, (_, digests, verdicts)), one in zip(made.items(), reports, strict=True)}


@pytest.mark.parametrize("name", OWN_OPERATORS)
def test_operators_of_this_project_are_written_out(name: str, examples: Any) -> None:
    digests, verdicts, found = examples[name]
    assert "error" not in found, found
    assert (found["digests"], found["verdicts"]) == (digests, verdicts)


class Odd(nn.Module):
    """Constants that are easily lost on the way through text."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor([float("inf"), float("-inf"), float("nan"), -0.0, 1e-45, 0.1]))

    def forward(self, x: Tensor) -> Tensor:
        shown = torch.where(x > 0, x, float("-inf")) + self.table * -0.0
        return torch.maximum(shown, torch.tensor([float("nan"), -0.0, 0.0, 1.0, 2.0, float("inf")]))


def program_of(model: type[nn.Module], *shape: int, name: str = "model") -> Program:
    return capture(ModelSource(name, model, lambda: (torch.randn(*shape),), None, ()), "inference", "cpu").program


def test_infinities_what_is_no_number_and_negative_zeros_survive(tmp_path: Path) -> None:
    program = program_of(Odd, 3, 6)
    path = tmp_path / "odd.py"
    path.write_text(python_file([Chapter("captured", program)], "odd"))
    module = opened(str(path))
    fed = with_inputs_of(program, path).run(with_inputs_of(program, path).materialize(0), 0)
    assert digest([value for value in fed if value is not None]) == digest(module.run(module.captured, module.inputs(0)))
    assert digest([program.materialize(0)[0]]) == digest([module.inputs(0)["buffer table"]])


def test_names_and_words_of_anybody_stay_text(tmp_path: Path) -> None:
    """Quotes, line breaks and markup in words and node names; names that Python needs itself."""
    program = program_of(Odd, 3, 6).clone()
    for node, name in zip(
        (one for one in program.gm.graph.nodes if one.op == "call_function"), ("lambda", "aten", "float", "torch", "given"), strict=False
    ):
        node.name = name
    hostile = 'a"""\nraise SystemExit(9)\n"""\\ <script>alert(1)</script> \u2028 {curly} \x00'
    path = tmp_path / "hostile.py"
    path.write_text(python_file([Chapter("captured", program), Chapter(hostile, program, verdict=hostile)], hostile, name="x.py"))
    module = opened(str(path))
    given = module.inputs(0)
    assert len({digest(module.run(run, given)) for run, _ in module.PROGRAMS.values()}) == 1


def test_a_graph_of_two_thousand_nodes_is_a_file_that_compiles(tmp_path: Path) -> None:
    program = program_of(Odd, 3, 6).clone()
    output = program.gm.graph.output_node()
    (last,) = output.args[0]
    for _ in range(2000):
        with program.gm.graph.inserting_before(output):
            added = program.gm.graph.call_function(torch.ops.aten.add.Tensor, (last, 1))
        added.meta = dict(last.meta)
        last = added
    output.args = ((last,),)
    path = tmp_path / "long.py"
    path.write_text(python_file([Chapter("captured", program)], "long"))
    module = opened(str(path))
    assert path.read_text().count("aten.add.Tensor") >= 2000
    assert float(module.run(module.captured, module.inputs(0))[0][0, 3]) >= 1999


class Branching(nn.Module):
    """A branch and a loop, with graphs of their own."""

    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.cond(x.sum() > 0, lambda y: y.sin() * 2, lambda y: y.cos(), (x,))
        count, found = torch.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, y * 1.5), (torch.tensor(0), chosen))
        return found + count


def test_branches_and_loops_are_functions(tmp_path: Path) -> None:
    program = program_of(Branching, 4)
    path = tmp_path / "branching.py"
    path.write_text(python_file([Chapter("captured", program)], "branching"))
    module = opened(str(path))
    fed = with_inputs_of(program, path)
    for seed in range(4):
        outputs = [value for value in fed.run(fed.materialize(seed), 0) if value is not None]
        assert digest(outputs) == digest(module.run(module.captured, module.inputs(seed)))


def test_a_wrong_program_is_refuted_and_the_exit_code_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = program_of(Odd, 3, 6)
    path = tmp_path / "broken.py"
    text = python_file([Chapter("captured", program), Chapter("step", program)], "broken")
    head, last = text.split("def after_1_step")
    broken = head + "def after_1_step" + last.replace("aten.maximum.default", "aten.minimum.default", 1)
    assert broken != text
    path.write_text(broken)
    module = opened(str(path))
    made_by = module.MADE_BY
    assert module.main(module.PROGRAMS, module.inputs, module.OUTPUTS, made_by, ["--rounds", "0"]) == 1
    assert "after_1_step: refuted" in capsys.readouterr().out
    path.write_text(text)
    module = opened(str(path))
    assert module.main(module.PROGRAMS, module.inputs, module.OUTPUTS, made_by, ["--rounds", "3"]) == 0
    out = capsys.readouterr().out
    assert "after_1_step: bitwise" in out
    assert "ratio:" in out


def test_a_constant_too_large_for_a_text_is_refused() -> None:
    class Large(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.ops.aten.alias(LARGE)

    with pytest.raises(TooLargeError, match="MiB of text"):
        python_file([Chapter("captured", program_of(Large, 1))], "large")


LARGE = torch.randn(2_000_000)


def test_a_step_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match="no step 3"):
        chapters(program_of(Odd, 3, 6), [], 2, every_step=True)
