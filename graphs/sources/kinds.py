"""What a reader may bring, by the ending of its name: is it text, how large may it be, which modes can be captured. Without torch."""

from __future__ import annotations

from dataclasses import dataclass

from graphs.errors import SourceError
from graphs.sources.safetensors_header import header_only, refuse_cut_off

PLAIN_MODES = ("inference", "training")
TEXT_LIMIT = 2 << 20
BINARY_LIMIT = 100 << 20


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        text: can it be shown in an editor?
        says: what it is, for the page.
    """

    ending: str
    says: str
    text: bool = False

    @property
    def limit_bytes(self) -> int:
        """Code is never large; a saved graph may be."""
        return TEXT_LIMIT if self.ending == "py" else BINARY_LIMIT


KINDS = (
    Kind("py", "Python with a model", text=True),
    Kind("ipynb", "a notebook with a model", text=True),
    Kind("json", "a Hugging Face config.json, or a graph saved by fxscope or Model Explorer", text=True),
    Kind("zip", "a package of Python files, or a config.json with its safetensors"),
    Kind("pt2", "an archive of torch.export"),
    Kind("onnx", "an ONNX model"),
    Kind("pt", "TorchScript, or a state dict"),
    Kind("pth", "a state dict, or TorchScript"),
    Kind("bin", "a state dict"),
    Kind("ckpt", "a checkpoint"),
    Kind("safetensors", "tensors by name; of a large file only the header is kept"),
)
ENDINGS = tuple(kind.ending for kind in KINDS)
_BY_ENDING = {kind.ending: kind for kind in KINDS}


def kind_of(name: str) -> Kind:
    """The kind of a file by its name.

    Raises:
        SourceError: none that can be opened.
    """
    found = _BY_ENDING.get(name.rpartition(".")[2].lower())
    if found is None:
        raise SourceError("this kind of file cannot be opened", where=name, help=f"Bring one of: {', '.join('.' + e for e in ENDINGS)}.")
    return found


def kept_part(name: str, content: bytes) -> bytes:
    """What of a file is worth keeping.

    Raises:
        SourceError: an unknown kind, or larger than is allowed.
    """
    kind = kind_of(name)
    if kind.ending == "safetensors":
        refuse_cut_off(content, name)
        return header_only(content, name)
    if len(content) > kind.limit_bytes:
        way_out = (
            "Keep the code; weights are not needed." if kind.text else "Save the model without weights, or in a smaller configuration."
        )
        raise SourceError(f"the file is larger than {kind.limit_bytes >> 20} MB", where=name, help=way_out)
    return content
