"""A model from an archive of `torch.export.save` (.pt2): its graph, its weights, the lines and modules of the code it came from.

`torch.export.load` would run what is hidden in such a file: pickled sample inputs and constants, and expressions of sizes that are
evaluated as Python. None of these are touched here. Sample inputs stay closed, since the shapes in the graph are enough; weights are
read as plain bytes or with `weights_only=True`; the expressions are replaced by the sizes that the model was exported with; every
name must be a name, and every operator one of torch's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch._export.serde import schema, serialize
from torch.export.pt2_archive import constants as places

from graphs.errors import SourceError
from graphs.sources.base import Arguments, ModelSource
from graphs.sources.exported_checks import check_program, plain_numbers
from graphs.sources.exported_graph import foreign_graph
from graphs.sources.foreign_inputs import arguments, check_sizes
from graphs.sources.interpreted import Interpreted, remember_lines

SAVE_AGAIN = "Save it again with torch.export.save of a current torch."
BYTES_LIMIT = 8 << 30


def exported_source(content: bytes, name: str) -> ModelSource:
    """The model in an archive. Only ever called in a worker.

    Raises:
        SourceError: cut off, of another version, or with something in it that only unpickling could read; says what and the way out.
    """
    records = _records(content, name)
    program = _program(records, name)
    weights = _tensors(records, places.WEIGHTS_CONFIG_FILENAME_FORMAT, places.WEIGHTS_DIR, name)
    constants = _tensors(records, places.CONSTANTS_CONFIG_FILENAME_FORMAT, places.CONSTANTS_DIR, name)
    foreign, wanted = foreign_graph(program, {**constants, **weights}, name)
    check_sizes(wanted, name)
    files = remember_lines(foreign.graph)

    def build() -> nn.Module:
        return Interpreted(foreign)

    def inputs() -> Arguments:
        return arguments(wanted)

    return ModelSource(name, build, inputs, None, files)


@dataclass(frozen=True)
class _Records:
    """The parts of an archive by name, and the name of the model in it."""

    names: frozenset[str]
    read: Callable[[str], bytes]
    model: str


def _records(content: bytes, name: str) -> _Records:
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        names = frozenset(reader.get_all_records())
    except (RuntimeError, ValueError) as error:
        raise SourceError("the file is no archive of torch.export, or it is cut off", where=name, help=SAVE_AGAIN) from error
    if "serialized_exported_program.json" in names:
        raise SourceError("the archive was written by torch 2.7 or older", where=name, help=SAVE_AGAIN)
    found = sorted(one for one in names if one.startswith("models/") and one.endswith(".json"))
    if not found and any(one.startswith(places.AOTINDUCTOR_DIR) for one in names):
        raise SourceError("the archive holds compiled code and no graph", where=name, help="Save the program before it is compiled.")
    if not found or places.ARCHIVE_FORMAT_PATH not in names:
        raise SourceError("the file is no archive of torch.export", where=name, help=SAVE_AGAIN)
    chosen = "models/model.json" if "models/model.json" in found else found[0]

    def read(record: str) -> bytes:
        if record not in names:
            raise SourceError(f"the archive lacks {record[:100]}", where=name, help=SAVE_AGAIN)
        try:
            return reader.get_record(record)
        except RuntimeError as error:
            raise SourceError(f"{record[:100]} in the archive is damaged", where=name, help=SAVE_AGAIN) from error

    version = read(places.ARCHIVE_VERSION_PATH)
    if version.strip() != places.ARCHIVE_VERSION_VALUE.encode():
        raise SourceError(f"the archive is of version {version[:20]!r}, which this torch does not read", where=name, help=SAVE_AGAIN)
    return _Records(names, read, chosen.removeprefix("models/").removesuffix(".json"))


def _json(content: bytes, what: str, name: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{what} in the archive is not JSON", where=name, help=SAVE_AGAIN) from error


def _program(records: _Records, name: str) -> schema.ExportedProgram:
    """The graph as data; nothing in it has run, and nothing in it can."""
    found = _json(records.read(f"models/{records.model}.json"), "the graph", name)
    try:
        major = found["schema_version"]["major"]
        if major != schema.SCHEMA_VERSION[0]:
            what = f"the graph is of version {str(major)[:20]}, and this torch reads {schema.SCHEMA_VERSION[0]}"
            raise SourceError(what, where=name, help=SAVE_AGAIN)
        check_program(found, name)
        program: Any = serialize._dict_to_dataclass(schema.ExportedProgram, plain_numbers(found))
        return program
    except SourceError:
        raise
    except Exception as error:  # torch's reader trusts what it reads
        _damaged(error, name)


def _damaged(error: Exception, name: str) -> NoReturn:
    what = f"the graph in the archive cannot be read: {type(error).__name__}: {str(error)[:150]}"
    raise SourceError(what, where=name, help=SAVE_AGAIN) from error


def _tensors(records: _Records, config: str, folder: str, name: str) -> dict[str, Tensor]:
    """Tensors by name; those that share their bytes are one tensor."""
    if f"{folder}{records.model}.pt" in records.names:
        raise SourceError("the weights are pickled, as older versions of torch did it", where=name, help=SAVE_AGAIN)
    listed = _json(records.read(config.format(records.model)), "the list of weights", name)
    made: dict[str, Tensor] = {}
    found: dict[str, Tensor] = {}
    try:
        for key, entry in listed["config"].items():
            same = json.dumps({part: entry[part] for part in ("path_name", "tensor_meta")})
            if same not in made:
                made[same] = _tensor(records, entry, folder, key, name)
            found[key] = made[same]
    except SourceError:
        raise
    except Exception as error:
        _damaged(error, name)
    return found


def _tensor(records: _Records, entry: Mapping[str, Any], folder: str, key: str, name: str) -> Tensor:
    path = str(entry["path_name"])
    if path.startswith((places.CUSTOM_OBJ_FILENAME_PREFIX, places.OPAQUE_OBJ_FILENAME_PREFIX)):
        what = f"the archive holds an object that is no tensor: `{key[:80]}`"
        raise SourceError(what, where=name, help="Export the model without custom objects, or bring its Python file.")
    content = records.read(f"{folder}{path}")
    if entry["use_pickle"]:
        return _weights_only(content, key, name)
    meta: Any = serialize._dict_to_dataclass(schema.TensorMeta, plain_numbers(entry["tensor_meta"]))
    dtype = serialize.deserialize_scalar_type(meta.dtype)
    sizes, strides = ([int(size.as_int) for size in listed] for listed in (meta.sizes, meta.strides))
    elements = 1
    for size in sizes:
        elements *= size
    if elements * dtype.itemsize > BYTES_LIMIT or min(sizes, default=0) < 0:
        raise SourceError(f"`{key[:80]}` of shape {sizes[:8]} does not fit", where=name, help="Export a smaller configuration.")
    if not content:
        return torch.zeros(sizes, dtype=dtype)  # a program that was exported under fake tensors has no weights
    flat = torch.frombuffer(bytearray(content), dtype=torch.uint8).view(dtype)
    return flat.as_strided(sizes, strides, int(meta.storage_offset.as_int))


def _weights_only(content: bytes, key: str, name: str) -> Tensor:
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a hostile pickle makes it raise
        what = f"`{key[:80]}` is pickled, and more than a tensor"
        raise SourceError(what, where=name, help="Save the program with plain tensors as weights.") from error
    if not isinstance(found, Tensor) or type(found.data) is not Tensor:
        raise SourceError(f"`{key[:80]}` is not a tensor", where=name, help="Save the program with plain tensors as weights.")
    return found.detach()
