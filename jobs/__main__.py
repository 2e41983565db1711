"""The command line: `python -m jobs run 'model=zoo/mlp&mode=training&pipeline=fold-constants'`.

Prints what every step of the pipeline did. Exit codes: 0 every step holds, 1 a step is refuted, 2 the request cannot be
answered (one line on standard error says what, where, and the way out).
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, cast

import msgspec

from graphs.errors import FxscopeError, RequestError, SourceError
from graphs.record import GraphSnapshot
from graphs.sources.kinds import BINARY_LIMIT
from graphs.sources.safetensors_header import LENGTH_BYTES, header_length
from jobs.client import Client
from jobs.experiment import Experiment, parse
from jobs.exporting.command import check_export, export
from jobs.record import Measure, MeasureResult, Optimize, OptimizeResult, Progress, Seams, SeamsResult
from jobs.report import breaks_text, exit_code, report, text
from jobs.settings import Settings
from optimizers.record import StepRecord

WRONG, INTERRUPTED = 2, 130
FILE = "file:"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with the arguments in one line."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(message, help=f"See {self.prog} --help.")


def main(arguments: list[str], client: Client | None = None) -> int:
    """Runs the command and returns its exit code."""
    own: Client | None = None
    try:
        given = _arguments(arguments)
        experiment = parse(given.words)
        own = None if client else Client(settings=Settings(trust_uploads=True))  # it is the reader's own machine, and own file
        return _run(given, experiment, cast(Client, client or own))
    except FxscopeError as error:
        _show_progress(None)
        print(" ".join(f"python -m jobs: {error}".split()), file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        return INTERRUPTED
    finally:
        if own:
            own.close()


def _arguments(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m jobs", description=__doc__.partition("\n")[0] if __doc__ else "")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    run = commands.add_parser("run", help="apply and verify the pipeline of an experiment")
    run.add_argument("words", help="model=zoo/NAME or model=file:PATH, joined by & with mode=, options, pipeline=, device=")
    run.add_argument("--json", metavar="FILE", type=Path, help="write the report to this file too")
    run.add_argument(
        "--export",
        metavar="FILE",
        type=Path,
        help="write the session: .py and .ipynb run without fxscope; .html opens in a browser; .json, .csv (its steps)",
    )
    run.add_argument("--step", metavar="NUMBER", type=int, default=0, help="with --export: this step alone, before and after, from 1")
    run.add_argument("--measure", action="store_true", help="measure time and peak memory, before and after the pipeline")
    run.add_argument("--run-proven", action="store_true", help="run also the steps that are proven to keep every bit")
    run.add_argument("--breaks", action="store_true", help="say where torch.compile would cut the model, and why")
    run.add_argument("--limit", metavar="SECONDS", type=_seconds, help="give up after this long (default 300; measuring 600)")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (seconds := float(text)) < float("inf"):
            return seconds
    raise argparse.ArgumentTypeError(f"`{text}` is not a number of seconds above 0")


def _run(given: argparse.Namespace, experiment: Experiment, client: Client) -> int:
    if given.json and not given.json.absolute().parent.is_dir():
        raise RequestError("there is no folder to write the report to", where=str(given.json), help="Make it first.")
    if given.export:
        check_export(given.export, given.step)
    elif given.step:
        raise RequestError("a step alone is only written to a file", where="--step", help="Give --export FILE as well.")
    words = _with_kept_source(experiment, client).words
    show = _show_progress if sys.stderr.isatty() else None
    result = cast(OptimizeResult, client.run(Optimize(words, given.run_proven), show, given.limit))
    measurement = None
    if given.measure:
        measurement = cast(MeasureResult, client.run(Measure(words), show, given.limit, fresh=True)).measurement
    breaks = cast(SeamsResult, client.run(Seams(words), show, given.limit)).report if given.breaks else None
    if show:
        show(None)
    print(text(experiment, result, measurement))
    if breaks:
        print("\n".join(["", *breaks_text(breaks)]))
    if given.json:
        _write(given.json, msgspec.json.format(msgspec.json.encode(report(experiment, result, measurement, breaks)), indent=2))
    if given.export:
        _write(given.export, export(client, words, result, given.export.suffix, given.step, given.limit, _page))
    return exit_code(result.steps)


def _page(graphs: Sequence[GraphSnapshot], steps: Sequence[StepRecord], words: str) -> str:
    """The session as a web page, drawn as the app draws it; loaded where one is asked for, since nothing else here needs Streamlit."""
    from pages.ui.web_page import session_page

    return session_page(graphs, steps, words)


def _with_kept_source(experiment: Experiment, client: Client) -> Experiment:
    """`file:PATH` -> `source/HASH`: the file is read here, and the worker gets its text."""
    if not experiment.model.startswith(FILE):
        return experiment
    shown = experiment.model.removeprefix(FILE)
    return msgspec.structs.replace(experiment, model=f"source/{client.keep_source(_content(Path(shown)), shown)}")


def _content(path: Path) -> bytes:
    """What of a file, is needed.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            if path.suffix != ".safetensors":
                return stream.read(BINARY_LIMIT + 1)
            head = stream.read(LENGTH_BYTES)  # such a file may be larger than memory
            return head + stream.read(header_length(head, path.name))
    except OSError as error:
        way_out = "Give the path of a Python file, or of another kind of model."
        raise SourceError(f"the file cannot be read: {error.strerror}", where=str(path), help=way_out) from error


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content if content.endswith(b"\n") else content + b"\n")
    except OSError as error:
        raise RequestError(f"the file cannot be written: {error.strerror}", where=str(path), help="Give another file.") from error


def _show_progress(progress: Progress | None) -> None:
    """One line on the terminal that replaces itself; None clears it."""
    if sys.stderr.isatty():
        line = f"{progress.share:4.0%} {progress.text}" if progress else ""
        print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
