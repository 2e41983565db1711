"""What an `Export` asks for, made from live programs."""

from __future__ import annotations

from collections.abc import Sequence

from graphs.errors import RequestError
from graphs.program import Program
from jobs.experiment import Experiment
from jobs.exporting.notebook import notebook
from jobs.exporting.python_file import Chapter, python_file
from jobs.record import Export, ExportResult
from optimizers.catalog import named
from optimizers.pipeline import Applied


def exported(request: Export, experiment: Experiment, captured: Program, applied: Sequence[Applied]) -> ExportResult:
    """The file, and a name for it.

    Raises:
        RequestError: a step that is not there, or a graph that has no words in Python.
        TooLargeError: it does not fit on this machine, or in a file.
    """
    found = chapters(captured, applied, request.step, request.every_step)
    stem = "fxscope_session" if request.step < 0 else f"fxscope_step_{request.step + 1}"
    if request.kind == "notebook":
        return ExportResult(notebook(found, experiment.words).encode(), f"{stem}.ipynb")
    return ExportResult(python_file(found, experiment.words, f"{stem}.py").encode(), f"{stem}.py")


def chapters(captured: Program, applied: Sequence[Applied], step: int, every_step: bool) -> list[Chapter]:
    """The captured program, which every verdict looks back to, and the programs asked for."""
    if step >= len(applied):
        raise RequestError(f"there is no step {step + 1}", where="step", help=f"The pipeline has {len(applied)}.")
    session = range(len(applied)) if every_step else range(len(applied))[-1:]
    chosen = session if step < 0 else range(max(0, step - 1), step + 1)
    found, at = [Chapter("captured", captured)], 0
    for index in chosen:
        done = applied[at : index + 1]  # the steps between this program and the one before it in the file
        title = ", ".join(one.step.words for one in done)
        found.append(Chapter(title, applied[index].program, _exactness(done), _verdict(done), _lessons(done)))
        at = index + 1
    return found


def _exactness(steps: Sequence[Applied]) -> str:
    ranks = ("bitwise", "rounding", "approximate")
    return max((named(one.step.optimization).exactness for one in steps), key=ranks.index)


def _verdict(steps: Sequence[Applied]) -> str:
    return ", ".join(one.step.verdict.kind for one in steps)


def _lessons(steps: Sequence[Applied]) -> str:
    """What the student reads of each optimization, its headings below those of the file."""
    names = dict.fromkeys(one.step.optimization for one in steps)
    return "\n\n".join(named(name).record.lesson.replace("\n## ", "\n### ") for name in names)
