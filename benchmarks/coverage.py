"""Which architectures become graphs, on which rung of the ladder, and whether the graph computes what the model does.

python -m benchmarks.coverage                every architecture, both modes; writes docs/coverage.md
python -m benchmarks.coverage NAME …         some of them, with the whole error
python -m benchmarks.coverage --results FILE [NAME …]   the same as the first, kept in FILE; some of them again, and the page anew
python -m benchmarks.coverage --list         the names of all, also of those that are not measured unless they are named

Architectures are the families of `transformers`, each from a small config.json as a reader would paste it (`small_configs.py`), and
models written by hand (`by_hand.py`). Each capture runs in a process of its own with a time limit, so that one that hangs or crashes
is a line of the table. Where the graph runs, an inference is compared with the model itself, run eagerly on the same values.
"""

from __future__ import annotations

import io
import json
import logging
import multiprocessing
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import torch

from benchmarks.by_hand import BY_HAND, by_hand_source
from benchmarks.coverage_page import Result, page
from benchmarks.small_configs import chosen, families, kind_of, small_config
from graphs.errors import FxscopeError
from graphs.ladder import Standing, climb
from graphs.program import Program
from graphs.sources.base import ModelSource, as_if_exporting
from graphs.sources.hugging_face import config_source
from graphs.trace import tensors_in

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
MODES = ("inference", "training")
LIMIT = 90.0  # seconds for one capture
OPTIONS = {"batch": "2", "seq": "16"}
CLOSE = 1e-4  # of the largest value: different kernels of the same sum


def architectures(every: bool = False) -> list[str]:
    return [*BY_HAND, *(families() if every else chosen())]


def source_of(name: str, mode: str) -> ModelSource:
    """By hand, or what one gets who pastes the config.json."""
    if name in BY_HAND:
        return by_hand_source(name)
    return config_source(json.dumps(small_config(name)), f"{name}/config.json", OPTIONS, mode)


def examined(name: str, mode: str) -> Result:
    """One capture, and for an inference the comparison with the model."""
    start = time.perf_counter()
    torch.manual_seed(0)
    kind = BY_HAND[name].kind if name in BY_HAND else kind_of(name)
    try:
        source = source_of(name, mode)
        standing = climb(source, mode, "cpu")
    except FxscopeError as error:
        return Result(name, kind, mode, 0, 0, time.perf_counter() - start, (f"{error.what} ({error.where})",))
    seconds = time.perf_counter() - start
    same, error = _compared(source, standing.program) if mode == "inference" and standing.program else ("", 0.0)
    return _result(name, kind, mode, seconds, standing, same, error)


def _result(name: str, kind: str, mode: str, seconds: float, standing: Standing, same: str, error: float) -> Result:
    nodes = standing.graph.nodes
    unknown = tuple(sorted({node.target for node in nodes if not node.cost.known}))
    report = standing.report
    return Result(
        name, kind, mode, report.rung, len(nodes), seconds, report.refused, unknown, report.with_source, report.with_module, same, error
    )


def _compared(source: ModelSource, program: Program) -> tuple[str, float]:
    """How the graph's outputs compare with the model's, and the largest error as a share of the largest value.

    `bitwise`, `close`, `different`, `as exported` where the model itself computes otherwise while it is exported, or why not compared.
    """
    try:
        ran = zip(program.run(program.materialize(0)), program.outputs, strict=True)
        got = [value for value, spec in ran if spec.role == "output" and value is not None]
        same, error = _difference(got, _eager(source, program))
        if same == "different":
            with as_if_exporting():
                again, _ = _difference(got, _eager(source, program))
            same = "as exported" if again in ("bitwise", "close") else same
    except Exception as error:
        return f"not compared: {type(error).__name__}: {' '.join(str(error).split())[:160]}", 0.0
    return same, error


def _eager(source: ModelSource, program: Program) -> list[torch.Tensor]:
    """Outputs of the model itself on the values that the program ran with."""
    made = program.tensors(0)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model, args = source.build().eval(), source.inputs()
        for role, tensors in (("parameter", model.named_parameters()), ("buffer", model.named_buffers())):
            for name, value in tensors:
                value.copy_(made.get((role, name), value))
        torch.manual_seed(0)
        return tensors_in(model(**args) if isinstance(args, dict) else model(*args))


def _difference(got: list[torch.Tensor], expected: list[torch.Tensor]) -> tuple[str, float]:
    if [value.shape for value in got] != [value.shape for value in expected]:
        return "different", float("inf")
    if all(torch.equal(mine.nan_to_num(), theirs.nan_to_num()) for mine, theirs in zip(got, expected, strict=True)):
        return "bitwise", 0.0
    errors = [
        float((mine - theirs).abs().nan_to_num().max() / theirs.abs().nan_to_num().max().clamp(min=1e-12))
        for mine, theirs in ((mine.to(torch.complex128), theirs.to(torch.complex128)) for mine, theirs in zip(got, expected, strict=True))
        if mine.numel()
    ]
    return ("close" if max(errors) <= CLOSE else "different"), max(errors)


def _job(name: str, mode: str, pipe: Connection, loud: bool) -> None:
    if not loud:  # torch prints the graph that it gives up on
        sys.stdout = sys.stderr = io.StringIO()
        logging.disable(logging.CRITICAL)
    try:
        result = examined(name, mode)
    except BaseException as error:
        if loud:
            traceback.print_exc()
        result = Result(name, "", mode, 0, 0, 0.0, (f"{type(error).__name__}: {' '.join(str(error).split())[:300]}",))
    pipe.send_bytes(msgspec.msgpack.encode(result))


def guarded(name: str, mode: str, loud: bool = False) -> Result:
    """The result from a process of its own; a hang or a crash is a result too."""
    fork = multiprocessing.get_context("fork")  # torch and transformers are imported once
    here, there = fork.Pipe()
    worker = fork.Process(target=_job, args=(name, mode, there, loud))
    start = time.perf_counter()
    worker.start()
    there.close()
    try:
        if here.poll(LIMIT):
            return msgspec.msgpack.decode(here.recv_bytes(), type=Result)
        said = f"no graph within {LIMIT:.0f} seconds"
    except EOFError:
        said = "the process that captured it died"
    finally:
        worker.kill()
        worker.join()
    return Result(name, "", mode, 0, 0, time.perf_counter() - start, (said,))


def measured(names: list[str], loud: bool = False) -> Iterator[Result]:
    for name in names:
        for mode in MODES:
            yield guarded(name, mode, loud)


def main(words: list[str]) -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    if words == ["--list"]:
        print(*architectures(every=True), sep="\n")
        return
    if words[:1] == ["--results"]:
        _write_page(Path(words[1]), words[2:])
        return
    if not words:
        with tempfile.TemporaryDirectory() as folder:
            _write_page(Path(folder) / "results", [])
        return
    for result in measured(words, loud=True):
        print(result.line(), *result.reasons, sep="\n    ", flush=True)


def _write_page(kept: Path, names: list[str]) -> None:
    """Measures and adds to what was kept; the page shows the latest of each."""
    for result in measured(names or architectures()):
        print(result.line(), flush=True)
        with kept.open("ab") as file:
            file.write(msgspec.json.encode(result) + b"\n")
    latest = {(one.name, one.mode): one for one in (msgspec.json.decode(line, type=Result) for line in kept.read_bytes().splitlines())}
    PAGE.write_text(page(list(latest.values())))


if __name__ == "__main__":
    main(sys.argv[1:])
