"""The code cells of a Jupyter notebook, in order, as pieces of one program; magics are left out."""

from __future__ import annotations

import json
from typing import Any

from graphs.errors import SourceError

MAGICS = ("%", "!", "?")


def notebook_cells(text: str, shown_path: str) -> list[tuple[str, str]]:
    """(name, code) of every code cell; names are `net.ipynb cell 3`, as a reader counts cells that hold code.

    Raises:
        SourceError: not a notebook.
    """
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise SourceError(
            f"the notebook is not JSON: {error.msg}", where=f"{shown_path}:{error.lineno}", help="Save it again from Jupyter."
        ) from error
    cells = found.get("cells") if isinstance(found, dict) else None
    if not isinstance(cells, list):
        raise SourceError("the file is no notebook: it has no cells", where=shown_path, help="Upload an .ipynb of format 4.")
    code = [_code(cell) for cell in cells if isinstance(cell, dict) and cell.get("cell_type") == "code"]
    kept = [(f"{shown_path} cell {number}", text) for number, text in enumerate(code, start=1)]
    if not kept:
        raise SourceError("the notebook has no code cells", where=shown_path, help="Define model() and inputs() in a cell.")
    return kept


def _code(cell: dict[str, Any]) -> str:
    """A cell's code, its lines where they were; magics and shell lines become comments."""
    source = cell.get("source", "")
    text = "".join(map(str, source)) if isinstance(source, list) else str(source)
    lines = text.splitlines()
    if lines and lines[0].lstrip().startswith("%%"):
        return "\n".join(f"# {line}" for line in lines)
    return "\n".join(f"# {line}" if line.lstrip().startswith(MAGICS) else line for line in lines)
