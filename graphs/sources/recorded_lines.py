"""Lines and module paths as torch records them in a saved program."""

from __future__ import annotations

import re
from typing import Any

from graphs.origin import FRAME
from graphs.sources.interpreted import Line, one_line

LIBRARY = re.compile(r"(site|dist)-packages/torch/|/torch/nn/|/torch/_|/torch/utils/|^<")
TRACES_LIMIT = 20_000  # characters


def line_of(trace: Any) -> Line | None:
    """The innermost frame outside torch, whose paths are those of the machine that saved the program."""
    if not isinstance(trace, str):
        return None
    frames = [frame for frame in FRAME.findall(trace[-TRACES_LIMIT:]) if not LIBRARY.search(frame[0].replace("\\", "/"))]
    if not frames:
        return None
    file, number, text = frames[-1]
    return Line(shown(file), int(number[:9]), one_line(text))


def shown(file: str) -> str:
    """The name of the file, or where installed packages are the path from there on."""
    path = one_line(file.replace("\\", "/"), 300)
    packaged = re.split(r"(?:site|dist)-packages/", path)
    return f"site-packages/{packaged[-1]}" if len(packaged) > 1 else path.rsplit("/", 1)[-1]


def path_of(stack: Any) -> str | None:
    """The path of the innermost module; None where it is not known."""
    if not isinstance(stack, dict) or not stack:
        return None
    innermost = list(stack.values())[-1]
    path = str(innermost[0]) if isinstance(innermost, tuple) else str(innermost)
    path = re.sub(r"^L\['self'\]\.?|^L__self__\.?", "", path).replace("_modules.", "")
    path = re.sub(r"\['?([^'\]]+)'?\]", r".\1", path).strip(".")
    return ".".join(part for part in path.split(".") if re.fullmatch(r"[\w@\-]{1,100}", part))
