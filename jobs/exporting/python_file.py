"""A step or a session as one Python file that needs nothing but torch: programs, inputs by seed, checks, timing.

The programs are written by `graphs/exporting`; what checks them is the text of `checks.py`, taken along with the functions of `optimizers/verify.py`
that it reads, so that the file judges by the rule of the app.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch._inductor.cpu_vec_isa import pick_vec_isa
from torch._library.custom_ops import OPDEFS

from graphs.errors import TooLargeError
from graphs.exporting.functions import LOOPS, Writer
from graphs.exporting.inputs import sample
from graphs.exporting.literals import one_line
from graphs.exporting.written_out import Carried
from graphs.program import Program
from optimizers.verify import _available_bytes  # pyright: ignore[reportPrivateUsage]

CHECKS = "jobs.exporting.checks"
WORD = re.compile(r"[^a-z0-9]+")
GIB = 1 << 30
OPENING = '''"""Programs of an experiment as plain Python, and what shows that they give the same answers.

    python {name}                   checks on the CPU, then timing
    python {name} --device cuda     the same on a GPU{only}
    python {name} --plain           fused parts operator by operator, without generated code

It needs torch ({version} wrote it) and nothing else. Every program takes its inputs by role and name and gives a list of outputs; every line is one
node of the graph, with its dtype and shape behind it, and `aten.NAME.OVERLOAD` is an operator of torch. `del` frees what is read no more.

Inputs are drawn from a seed, with the range, mean and spread that the real ones had: they are not the weights of the model as the app
initialises them, and on other numbers a verdict of `rounding` may come out as `bitwise`, or the other way round. What a program computes of given inputs is what the app's graph computes, bit for bit on a CPU.{differs}

{steps}
"""
'''
DIFFERS = """

Fused parts run as code that torch's Inductor generated for one kind of processor and one version of torch. Where this file meets another, and on another
device, they run operator by operator: then last bits may differ from those in the app, and fusing them gains nothing."""


@dataclass(frozen=True)
class Chapter:
    """One program of the file.

    Attributes:
        title: the step's words, or `captured`; verdict: what the app said of it.
        exactness: what the step asked for.
        notes: of the step for a reader, plain text.
    """

    title: str
    program: Program
    exactness: str = "bitwise"
    verdict: str = ""
    notes: str = ""


@dataclass(frozen=True)
class Parts:
    """The text of a file in pieces, in their order: for the file itself and for the cells of a notebook.

    Attributes:
        imports, carried: what everything needs.
        programs: (name, text), one for each chapter.
        bodies: functions and kernels that programs call.
        inputs: the function that makes inputs; tables: which programs there are, and their outputs.
    """

    imports: str
    programs: tuple[tuple[str, str], ...]
    carried: str
    bodies: str
    inputs: str
    tables: str
    generated: bool


def parts(chapters: Sequence[Chapter]) -> Parts:
    """Writes every program, and gathers what they need.

    Raises:
        RequestError: a graph has something in it that Python has no words for.
        TooLargeError: inputs that do not fit in memory here, or constants that do not fit in a text.
    """
    first = chapters[0].program
    _check_size(first)
    carried = Carried(names={("", "aten"): "aten"}, texts={("", "aten"): "aten = torch.ops.aten"})
    carried.add(CHECKS, "main")
    ours = {name.partition("::")[2] for name in OPDEFS}
    taken = {"torch", "aten", "operator", "math", "given", "inputs", *LOOPS.values(), *ours, *carried.names.values()}
    writer = Writer(first.device, carried, taken)
    names = [writer.fresh(_function_name(at, chapter.title)) for at, chapter in enumerate(chapters)]
    programs = [writer.program(name, one.program, _doc(one)) for name, one in zip(names, chapters, strict=True)]
    for name in ("exactly", "laid_out", *sorted(writer.used)):
        carried.add(CHECKS, name)
    imports = [
        "from __future__ import annotations",
        *sorted({*carried.imports, "import math", "import operator", "import sys", "import torch"}),
    ]
    return Parts(
        "\n".join(imports),
        tuple(zip(names, programs, strict=True)),
        carried.text(),
        "\n\n\n".join(writer.functions),
        _inputs(first, writer),
        _tables(names, chapters),
        "Kernel" in writer.used,
    )


def python_file(chapters: Sequence[Chapter], words: str, name: str = "program.py") -> str:
    """The whole file.

    Args:
        words: the experiment, for the reader.
    """
    written = parts(chapters)
    end = f'{written.tables}\n\n\nif __name__ == "__main__":\n    sys.exit(main(PROGRAMS, inputs, OUTPUTS, MADE_BY, sys.argv[1:]))'
    sections = [
        opening(chapters, name, written.generated) + f"# {one_line(words)}\n\n" + written.imports,
        _section("programs") + "\n\n\n".join(text for _, text in written.programs),
        _section("operators that are not torch's, and checks") + written.carried,
        *([_section("parts that programs call") + written.bodies] if written.bodies else []),
        _section("inputs") + written.inputs,
        end,
    ]
    return "\n\n\n".join(sections) + "\n"


def opening(chapters: Sequence[Chapter], name: str, generated: bool) -> str:
    """What the file is, how to run it, and what of it differs from the app."""
    steps = "\n".join(f"{at}. {_doc(chapter)}" for at, chapter in enumerate(chapters))
    only = _one_device_only(chapters)
    text = OPENING.format(name=name, version=torch.__version__, only=only, differs=DIFFERS if generated else "", steps="{steps}")
    return text.replace("{steps}", _quiet(steps))


def _one_device_only(chapters: Sequence[Chapter]) -> str:
    nodes = [node for one in chapters for node in one.program.gm.graph.nodes]
    bound = sorted({str(node.target) for node in nodes if re.search(r"for_cpu|mkldnn|cudnn", str(node.target))})
    return f"; not here, for {bound[0]} is of one kind of device" if bound else ""


def _doc(chapter: Chapter) -> str:
    verdict = f"; in the app: {chapter.verdict}" if chapter.verdict else ""
    return _quiet(one_line(f"{chapter.title}{verdict}"))


def _quiet(text: str) -> str:
    """Text that cannot end a docstring."""
    return text.replace("\\", "/").replace('"', "'")


def _function_name(at: int, title: str) -> str:
    word = WORD.sub("_", title.partition("(")[0].lower()).strip("_")
    return f"after_{at}_{word}" if at else word or "captured"


def _section(title: str) -> str:
    return f"# {'-' * 16} {title}\n\n\n"


def _inputs(program: Program, writer: Writer) -> str:
    values = program.materialize(0)
    lines = [
        f"        {f'{spec.role} {spec.target}'!r}: {sample(spec.role, value)}," for spec, value in zip(program.inputs, values, strict=True)
    ]
    lines += [f"        {key!r}: {text}," for key, text in writer.constants.items()]
    head = [
        "def inputs(seed):",
        '    """Every input and constant by role and name, the same for the same seed."""',
        "    torch.manual_seed(seed)",
    ]
    return "\n".join([*head, "    return {", *lines, "    }"])


def _tables(names: Sequence[str], chapters: Sequence[Chapter]) -> str:
    first = chapters[0].program
    programs = "".join(f"    {name!r}: ({name}, {one.exactness!r}),\n" for name, one in zip(names, chapters, strict=True))
    outputs = "".join(f"    {f'{spec.role} {spec.target}'!r},\n" for spec in first.outputs)
    writing = sorted(name for name, one in zip(names, chapters, strict=True) if one.program.overwrites())
    lines = [f"DEVICE.now = torch.device({first.device!r})"]
    lines += [f"OVERWRITING.update({writing})"] if writing else []
    lines.append(f"MADE_BY = ({torch.__version__!r}, {str(pick_vec_isa())!r})  # what generated code is for")
    return "\n".join([f"PROGRAMS = {{\n{programs}}}", f"OUTPUTS = [\n{outputs}]", *lines])


def _check_size(program: Program) -> None:
    need, have = 2 * program.input_bytes(), _available_bytes()
    if need > have:
        what = f"to see what its inputs are like takes {need / GIB:.1f} GiB and {have / GIB:.1f} GiB are free"
        raise TooLargeError(what, help="Choose fewer layers or a smaller batch; a file of the small model reads the same.")
