"""Runs exported files in a process that has torch and nothing of this project: `python -I run_exported.py FILE …`.

Prints a line of JSON for each: the verdict on every program, and a hash of every program's outputs.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def opened(path: str) -> ModuleType:
    """A file as a module.

    Compiled from its text: Python's cache of compiled files knows a file by size and second, and a test that writes two files
    of one size under one name within a second would be given the first.
    """
    name = Path(path).stem
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = path
    exec(compile(Path(path).read_text(), path, "exec"), module.__dict__)
    return module


def digest(outputs: list[Any]) -> str:
    """Of the bits of all outputs, in row-major order."""
    import torch

    found = hashlib.sha256()
    for value in outputs:
        found.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def report(path: str) -> dict[str, Any]:
    """Verdicts and hashes of one file."""
    module = opened(path)
    module.DEVICE.plain = not module.same_machine(*module.MADE_BY)
    given = module.inputs(0)
    outputs = {name: digest(module.run(program, given)) for name, (program, _) in module.PROGRAMS.items()}
    found = module.checks(module.PROGRAMS, module.inputs, module.OUTPUTS, 0)
    return {"path": path, "verdicts": [check.kind for check in found.values()], "digests": list(outputs.values())}


if __name__ == "__main__":
    for each in sys.argv[1:]:
        try:
            print(json.dumps(report(each)), flush=True)
        except Exception as error:
            print(json.dumps({"path": each, "error": f"{type(error).__name__}: {error}"}), flush=True)
    ours = [name for name in sys.modules if name.partition(".")[0] in ("graphs", "optimizers", "jobs", "profiler", "pages", "msgspec")]
    print(json.dumps({"ours": ours}))
