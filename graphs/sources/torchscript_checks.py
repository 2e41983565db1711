"""What is checked of a TorchScript file before torch loads it, since loading runs some of its code.

TorchScript has no way to the system but two operators that name a file, `save` and `from_file`. A file whose code says either is
refused; the sandbox that a worker runs in is what holds.
"""

from __future__ import annotations

import io
import tokenize

import torch

from graphs.errors import SourceError

FORBIDDEN = ("save", "from_file")


def check_code(content: bytes, name: str) -> None:
    """Looks at the code of all classes and functions in the file.

    Raises:
        SourceError: not an archive, or code that reads or writes a file.
    """
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        records = [record for record in reader.get_all_records() if record.startswith("code/") and record.endswith(".py")]
        pieces = [reader.get_record(record) for record in records]
    except (RuntimeError, ValueError) as error:
        help = "Save it again: torch.jit.save(torch.jit.script(model), path)."
        raise SourceError("the file is not TorchScript, or it is cut off", where=name, help=help) from error
    for piece in pieces:
        found = _said(piece)
        if found:
            what = f"the code in the file calls `{found}`, which reads or writes a file"
            raise SourceError(what, where=name, help="Take it out of the model, and save it again.")


def _said(code: bytes) -> str:
    """The first forbidden word that is not in a text or a comment; in code that is no Python, anywhere."""
    try:
        words = [token.string for token in tokenize.tokenize(io.BytesIO(code).readline) if token.type == tokenize.NAME]
    except (tokenize.TokenError, SyntaxError, ValueError):
        words = [word for word in FORBIDDEN if word.encode() in code]
    return next((word for word in words if word in FORBIDDEN), "")
