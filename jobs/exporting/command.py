"""`--export FILE` of the command line: which format a file's ending asks for, and its content. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from graphs.errors import RequestError
from graphs.export import to_json
from graphs.record import GraphSnapshot
from jobs.client import Client
from jobs.exporting.tables import steps_csv
from jobs.record import Export, ExportResult, OptimizeResult
from optimizers.record import StepRecord

PROGRAMS = {".py": "python", ".ipynb": "notebook"}
RECORDS = (".json", ".csv", ".html")
Page = Callable[[Sequence[GraphSnapshot], Sequence[StepRecord], str], str]


def check_export(path: Path, step: int) -> None:
    """Before the work begins.

    Raises:
        RequestError: an ending that stands for no format, a format that has no single steps, or a folder that is not there.
    """
    if path.suffix not in (*PROGRAMS, *RECORDS):
        endings = ", ".join((*PROGRAMS, *RECORDS))
        raise RequestError(f"`{path.suffix}` is no format to export to", where=str(path), help=f"End the file's name in one of {endings}.")
    if step < 0 or (step and path.suffix in RECORDS):
        raise RequestError(
            f"there is no step {step} to export so", where="--step", help="Give the number of a step, from 1, with .py or .ipynb."
        )
    if not path.absolute().parent.is_dir():
        raise RequestError("there is no folder to write the file to", where=str(path), help="Make it first.")


def export(client: Client, words: str, result: OptimizeResult, ending: str, step: int, limit: float | None, page: Page) -> bytes:
    """The file's content.

    Args:
        ending: of the file's name, with its dot.
        step: from 1; 0 for the session.
        page: draws a session as a web page; pages know how.

    Raises:
        FxscopeError: as the worker says.
    """
    if ending == ".json":
        return to_json(result.graphs, ["captured", *(one.words for one in result.steps)], words)
    if ending == ".html":
        return page(result.graphs, result.steps, words).encode()
    if ending == ".csv":
        return steps_csv(result.graphs[0].totals, result.steps).encode()
    kind = PROGRAMS[ending]
    request = Export(words, "notebook" if kind == "notebook" else "python", step - 1)
    return cast(ExportResult, client.run(request, None, limit)).content
