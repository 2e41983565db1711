"""Which architectures become graphs, on which rung of the ladder, and whether the graph computes what the model does.

python -m benchmarks.coverage                every architecture, both modes; writes docs/coverage.md
python -m benchmarks.coverage NAME …         some of them, with the whole error
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
from graphs.sources.base import ModelSource
from graphs.sources.hugging_face import config_source
from graphs.trace import tensors_in

PAGE = Path(__file__).parent.parent / "docs" / "coverage.md"
MODES = ("inference", "training")
LIMIT = 90.0  # seconds for one capture
OPTIONS = {"batch": "2", "seq": "16"}
CLOSE = 1e-4  # of the largest value: different kernels of the same sum


def architectures(every: bool = False) -> list[str]:
    return [*(families() if every else chosen()), *BY_HAND]


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
    """(`bitwise`, `close`, `different` or why it could not be compared, largest error as a share of the largest value)."""
    try:
        made = program.tensors(0)
        got = [value for value, spec in zip(program.run(program.materialize(0)), program.outputs, strict=True) if spec.role == "output"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, args = source.build().eval(), source.inputs()
            with torch.no_grad():
                for name, parameter in (*model.named_parameters(), *model.named_buffers()):
                    parameter.copy_(made.get(("parameter", name), made.get(("buffer", name), parameter)))
                torch.manual_seed(0)
                expected = tensors_in(model(**args) if isinstance(args, dict) else model(*args))
    except Exception as error:
        return f"not compared: {type(error).__name__}: {' '.join(str(error).split())[:160]}", 0.0
    return _difference([value for value in got if value is not None], expected)


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
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if words == ["--list"]:
        print(*architectures(every=True), sep="\n")
        return
    start, results = time.perf_counter(), []
    for result in measured(words or architectures(), loud=bool(words)):
        results.append(result)
        print(result.line(), flush=True)
        if words:
            print(*(f"    {reason}" for reason in result.reasons), sep="\n")
    if not words:
        PAGE.write_text(page(results, time.perf_counter() - start))


if __name__ == "__main__":
    main(sys.argv[1:])
