"""Where a node comes from: phase, module path, source line, and the captured nodes behind it.

Every node carries an Origin in `meta["origin"]`, written once at capture and passed on by every rewrite.
"""

from __future__ import annotations

import functools
import os
import re
import sysconfig
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import fx

from graphs.record import Source

FRAME = re.compile(r'File "([^"]+)", line (\d+), in [^\n]*\n\s*([^\n]*)')
TORCH = os.path.dirname(torch.__file__)
HERE = os.path.dirname(__file__)
WRAPPER = "._checkpoint_wrapped_module"  # torch's module around a checkpointed one, which says nothing to a reader
LOSS = os.path.join(HERE, "trace.py")
PYTHON = sysconfig.get_paths()["stdlib"]

Frame = tuple[str, int, str]  # path, line, text


@dataclass(frozen=True)
class Origin:
    """Phase, module path, source line, and names of captured nodes."""

    phase: str
    module: str
    source: Source | None
    names: tuple[str, ...]

    def into(self, phase: str) -> Origin:
        return replace(self, phase=phase)


def merged(origins: Iterable[Origin]) -> Origin:
    """One origin out of several: the place of the first that has one, and every name once."""
    known = list(origins)
    names = tuple(dict.fromkeys(name for origin in known for name in origin.names))
    placed = next((origin for origin in known if origin.source), known[0])
    return replace(placed, names=names)


def mark_origins(graph: fx.Graph) -> None:
    """Writes an Origin on every node of a freshly captured graph."""
    nodes = list(graph.nodes)
    modules = _modules(nodes)
    for node in nodes:
        module = modules.get(node, "")
        in_loss = module == "loss" or module.startswith("loss.")
        phase = "backward" if _is_backward(node) else "loss" if in_loss else "forward"
        source = source_of_trace(node.meta.get("stack_trace") or "")
        node.meta["origin"] = Origin(phase, module, source, (node.name,))
        node.meta["placed"] = node in modules  # the path of the model itself is empty, and known all the same


def originate(graph: fx.Graph) -> None:
    """Every node of a captured graph comes from itself, under the name that it has by now."""
    for node in graph.nodes:
        node.meta["origin"] = replace(node.meta["origin"], names=(node.name,))


def _is_backward(node: fx.Node) -> bool:
    if node.op == "placeholder":
        return node.name.startswith("tangents")
    return node.meta.get("partitioner_tag") == "is_backward" or bool(node.meta.get("autograd_backward"))


def _modules(nodes: list[fx.Node]) -> dict[fx.Node, str]:
    """Module path by node. A backward node has its forward node's, found by autograd's sequence number;
    a sum of gradients has that of the node that reads it; an input has the common path of its readers."""
    found: dict[fx.Node, str] = {}
    by_number: dict[int, str] = {}
    for node in nodes:
        stack = node.meta.get("nn_module_stack")
        if stack:
            found[node] = _path(list(stack.values())[-1][0])
            by_number.setdefault(node.meta.get("seq_nr", -1), found[node])
    for node in nodes:
        if node not in found and _is_backward(node) and not node.meta.get("is_gradient_acc"):
            path = by_number.get(node.meta.get("seq_nr", -1))
            if path is not None:
                found[node] = path
    for node in reversed(nodes):
        if node not in found and node.op != "output":
            readers = [found[user] for user in node.users if user in found]
            if readers:
                found[node] = _common(readers) if node.op in ("placeholder", "get_attr") else readers[0]
    for node in nodes:  # sums of gradients that only the output reads
        if node not in found and node.op == "call_function":
            read = [found[one] for one in node.all_input_nodes if one in found]
            if read:
                found[node] = _common(read)
    return found


def _path(stack_path: str) -> str:
    """`L['self'].model.h.0` or `model.h.0` -> `h.0`; the wrapper itself -> ''."""
    path = re.sub(r"^L\['self'\]\.?", "", stack_path).replace("_modules.", "")
    path = re.sub(r"\['?([^'\]]+)'?\]", r".\1", path).replace(WRAPPER, "").strip(".")
    return "" if path == "model" else path.removeprefix("model.")


def _common(paths: list[str]) -> str:
    return ".".join(os.path.commonprefix([path.split(".") for path in paths]))


@functools.lru_cache(maxsize=20_000)
def source_of_trace(trace: str) -> Source | None:
    """The innermost frame outside torch: the line that a reader of the model would point at."""
    return source_of_frames([(path, int(line), text) for path, line, text in FRAME.findall(trace)])


def source_of_frames(frames: Sequence[tuple[str, int, str]]) -> Source | None:
    """The innermost of (path, line, text) outside torch and fxscope's tracing, or the innermost of the default loss."""
    outside = [f for f in frames if not f[0].startswith(TORCH) and not f[0].startswith("<") and os.path.dirname(f[0]) != HERE]
    ours = [f for f in frames if f[0] == LOSS]  # the default loss is fxscope's own line
    chosen = outside[-1] if outside else ours[-1] if ours else None
    return Source(short_path(chosen[0]), chosen[1], chosen[2].strip()) if chosen else None


def short_path(path: str) -> str:
    """A path as readers know it: from the package on for installed code; what is not a path on this machine stays as it is."""
    if not os.path.isabs(path):
        return path
    if "site-packages" in path:
        return path.split("site-packages" + os.sep)[-1]
    return os.sep.join(path.split(os.sep)[-2:]) if path.startswith(os.path.dirname(HERE)) else os.path.basename(path)


def place_of_frames(frames: Sequence[Frame], files: Sequence[str]) -> Source | None:
    """The innermost frame in the user's files; without any, the innermost outside torch; without that, the line of torch's layers.
    None where only Python's library or torch's inside ran."""
    mine = [frame for frame in frames if frame[0] in files]
    outside = mine or [frame for frame in frames if not _is_inside(frame[0])]
    if not outside:
        return None
    path, line, text = outside[-1]
    return source_of_frames(outside) or Source(short_path(path), line, text.strip())


def _is_inside(path: str) -> bool:
    if path.startswith(TORCH):
        return not path.startswith(os.path.join(TORCH, "nn"))
    return path.startswith("<frozen") or (path.startswith(PYTHON) and "site-packages" not in path)


def line_of_frames(frames: Sequence[Frame], files: Sequence[str]) -> str:
    """`model.py:12: if x.sum() > 0:` for the place of these frames; empty where there is none."""
    place = place_of_frames(frames, files)
    return f"{place.file}:{place.line}: {place.text}" if place else ""


def where_in_user_code(error: BaseException, files: Sequence[str]) -> str:
    """`model.py:12: if x.sum() > 0:` for the innermost frame in the user's files, else in code that is neither torch's nor ours;
    empty where there is none."""
    frames: list[traceback.FrameSummary] = []
    chain: BaseException | None = error
    while chain is not None:
        frames += reversed(traceback.extract_tb(chain.__traceback__))
        chain = chain.__cause__ or chain.__context__
    for wanted in (lambda path: path in files, _is_elsewhere):
        found = next((frame for frame in frames if wanted(frame.filename)), None)
        if found:
            return f"{short_path(found.filename)}:{found.lineno}: {(found.line or '').strip()}"
    return ""


def _is_elsewhere(path: str) -> bool:
    """Code of neither torch nor fxscope nor Python: a package that the model is built from."""
    return "site-packages" in path and not path.startswith(TORCH)
