"""A body of ATen operators -> code, by torch's Inductor: what it generates, how many kernels that is, and the compiled function.

Inductor's scheduler decides which loops of a body share a kernel. On a CPU a kernel is one loop nest (a parallel loop over the same rows); Inductor
puts several into one C++ function, but each walks over memory by itself, so each is counted as a launch. Before it compares the loops of
two operators, Inductor merges the dimensions of each alone as far as they are contiguous; an addition over 8 × 32 × 64 becomes one loop over 16,384
and no longer fits the sum over rows of 64 that follows. `_Loops` keeps dimensions apart where a reduction of the same body cuts them, and of
several ways to cut takes the one with the fewest kernels.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from graphs.kernel_traffic import Traffic, beyond_one_loop
from graphs.loop_text import text_of_loop
from graphs.outer_loops import row_by_row
from graphs.products import DECOMPOSITIONS, has_product, why_called
from graphs.rms_norm import rms_norm_backward

SOURCE = re.compile(r"async_compile\.\w+\(.*?r?'''(.*?)'''", re.DOTALL)
SHORT_FLOATS = (torch.bfloat16, torch.float16)
UNROLLED = 8  # a reduction over so few elements is written out: its loop is the one over its results
_one_at_a_time = threading.RLock()  # Inductor's state is the process's
_bests: weakref.WeakKeyDictionary[fx.GraphModule, tuple[_Way, Lowered]] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Lowered:
    """What Inductor makes of a body.

    Attributes:
        launches: kernels that run for one call: loop nests on a CPU, Triton kernels on a GPU, and library calls.
        source: the generated kernels alone.
        module: the whole generated Python module, kernels and the function that calls them.
        nests: for each kernel the names of the body's nodes that it computes.
        beyond: bytes that several kernels move and one would not.
        called: why a matmul is left to a library although it could be generated with the rest; empty where it is not.
        loops: for each kernel Inductor's loops as text, before they become code; written only where somebody asks for the source.
    """

    launches: int
    source: str
    module: str
    nests: tuple[tuple[str, ...], ...]
    beyond: Traffic = Traffic()
    called: str = ""
    loops: tuple[str, ...] = ()


Call = Callable[[list[Tensor]], Sequence[Tensor]]


def lower(body: fx.GraphModule) -> Lowered:
    """Generates code for a body, without compiling it. Placeholders carry fake tensors of the device to generate for.

    Raises:
        Exception: of Inductor's, where it cannot lower the body.
    """
    with _one_at_a_time:
        return _best(body)[1]


def lower_twice(body: fx.GraphModule, within: Callable[[], contextlib.AbstractContextManager[None]]) -> tuple[Lowered, Lowered]:
    """The same, and once more, loops merged in the same way, inside of a context that watches or marks what is generated."""
    with _one_at_a_time:
        way, found = _best(body)
        with within():
            return found, _generated(body, way, write_loops=True)


def compiled(body: fx.GraphModule, like: Sequence[Tensor]) -> Call:
    """The compiled function for arguments laid out like these; takes a list, gives a sequence."""
    with _one_at_a_time:
        fits = [_same_layout(node.meta["val"], value) for node, value in zip(body.graph.find_nodes(op="placeholder"), like, strict=True)]
        given = body if all(fits) else _laid_out(body, like)
        way, _ = _best(given)
        with _lowering(given, way) as (graph, inputs), row_by_row():
            graph.run(*inputs)
            return graph.compile_to_module().call  # type: ignore[return-value]


def _rms_norm(x: Tensor, shape: list[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    rate = torch.rsqrt(wide.square().mean(tuple(range(-len(shape), 0)), keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps))
    normal = wide * rate
    return (normal if weight is None else normal * weight).to(x.dtype)


def _cast(otherwise: Callable[..., Tensor], x: Tensor, *, dtype: torch.dtype | None = None, **others: Any) -> Tensor:
    """A cast to bfloat16 that rounds even where a cast back follows in the same loop, which Inductor's C++ would take for nothing.
    To nearest, ties to even, on the bits; what is no number stays so."""
    if dtype is not torch.bfloat16 or x.dtype is not torch.float32 or x.device.type != "cpu":
        return otherwise(x, dtype=dtype, **others)
    bits = x.view(torch.int32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).view(torch.float32)
    return torch.ops.prims.convert_element_type(torch.where(x != x, x, rounded), torch.bfloat16)


def _nll_loss_backward(
    gradient: Tensor, given: Tensor, target: Tensor, weight: Tensor | None, reduction: int, ignored: int, total_weight: Tensor
) -> Tensor:
    """Element by element, so that what reads it can be the same loop; torch's writes zeros and scatters into them."""
    dim = 0 if given.dim() < 2 else 1
    value = -(gradient / total_weight if reduction == 1 else gradient)
    value = value.unsqueeze(dim) if value.dim() else value
    classes = torch.arange(given.shape[dim], device=given.device).view(-1, *[1] * (given.dim() - dim - 1))
    value = value if weight is None else value * weight.view_as(classes)
    chosen = target.unsqueeze(dim)
    return torch.where((classes == chosen) & (chosen != ignored), value, 0.0).to(given.dtype)


# Operators of our own, in torch's, and torch's that are better loops in other words.
OWN = {
    torch.ops.aten.nll_loss_backward.default: _nll_loss_backward,
    torch.ops.fxscope.rms_norm.default: _rms_norm,
    torch.ops.fxscope.rms_norm_backward.default: rms_norm_backward._init_fn,
}


def _same_layout(one: Tensor, other: Tensor) -> bool:
    return one.stride() == other.stride() and one.shape == other.shape


def _laid_out(body: fx.GraphModule, like: Sequence[Tensor]) -> fx.GraphModule:
    """The same body for operands with other strides."""
    copy = fx.GraphModule(body, fx.Graph())
    copied: dict[fx.Node, fx.Node] = {}
    copy.graph.output(copy.graph.graph_copy(body.graph, copied))
    for old, new in copied.items():
        new.meta = dict(old.meta)
    for node, value in zip(copy.graph.find_nodes(op="placeholder"), like, strict=True):
        with FakeTensorMode() as mode:
            node.meta["val"] = mode.from_tensor(value)
    return copy


def _best(body: fx.GraphModule) -> tuple[_Way, Lowered]:
    """The way with the fewest kernels; looked for once for each body, because counting, compiling and showing one all begin here."""
    if body not in _bests:
        _bests[body] = _best_of_all(body)
    return _bests[body]


def _best_of_all(body: fx.GraphModule) -> tuple[_Way, Lowered]:
    best: tuple[_Way, Lowered] | None = None
    refused = why_called(body)
    for way in _ways(body):
        try:
            found = _generated(body, way)
        except Exception as error:
            if not way.template:
                raise
            refused = _in_short(error)
            continue  # what the template cannot do, a library can
        if best is None or (found.launches, way.template) < (best[1].launches, best[0].template):
            best = way, found
        if best[1].launches == 1:
            break
    assert best is not None
    return best[0], replace(best[1], called=refused)


def _in_short(error: Exception) -> str:
    """What the template said, without Inductor's words around it."""
    while error.__cause__ is not None:
        error = error.__cause__  # type: ignore[assignment]
    said = str(error).strip().partition("\n")[0].removeprefix("NotImplementedError: ")[:200]
    return f"{said[:1].upper()}{said[1:]}."


@dataclass(frozen=True)
class _Way:
    """How loops are merged: as Inductor does (None), or never across these inner sizes (empty: only where nothing is between); and
    whether matmuls are generated too, or called."""

    cuts: frozenset[int] | None
    unrolled: bool = False
    template: bool = False

    def allows(self, inner: int) -> bool:
        return self.cuts is None or (bool(self.cuts) and inner not in self.cuts)


def _ways(body: fx.GraphModule) -> list[_Way]:
    """Merged but where reductions cut, as Inductor does, and not merged at all."""
    cuts = frozenset(_reduction_cuts(body))
    ways = [*([_Way(cuts)] if cuts else []), _Way(None), _Way(frozenset())]
    if has_product(body):
        ways.insert(0, _Way(None, template=True))
    return [*ways, *(_Way(way.cuts, True) for way in ways if _has_small_rows(body))]


def _has_small_rows(body: fx.GraphModule) -> bool:
    return any(1 < cut <= UNROLLED for cut in _reduction_cuts(body))


def _reduction_cuts(body: fx.GraphModule) -> Iterator[int]:
    """The number of elements of one row, for every operator that reduces or normalizes rows."""
    for node in body.graph.nodes:
        value = node.meta.get("val")
        reads = [read.meta["val"] for read in node.all_input_nodes if isinstance(read.meta.get("val"), Tensor)]
        if node.op != "call_function" or not reads:
            continue
        packet = getattr(node.target, "overloadpacket", None)
        if packet in NORMALIZED:
            yield int(torch.Size(node.args[NORMALIZED[packet]]).numel())
        elif packet in OVER_ONE_DIM:
            source = reads[0]
            yield int(source.shape[node.args[OVER_ONE_DIM[packet]]]) if source.dim() else 1
        elif isinstance(value, Tensor) and value.numel() and value.numel() < reads[0].numel():
            yield reads[0].numel() // value.numel()


aten = torch.ops.aten
NORMALIZED = {aten.native_layer_norm: 1, aten.native_layer_norm_backward: 2}
OVER_ONE_DIM = {aten._softmax: 1, aten._log_softmax: 1, aten._softmax_backward_data: 2, aten._log_softmax_backward_data: 2}


def _generated(body: fx.GraphModule, way: _Way, write_loops: bool = False) -> Lowered:
    with _lowering(body, way) as (graph, inputs), row_by_row() as outer:
        graph.run(*inputs)
        module = graph.codegen()[0].value
        loops = [loop for node in graph.scheduler.nodes if not _is_nothing(node) for loop in outer.loops(node)]
        sources = "\n\n".join(text.strip() for text in SOURCE.findall(module))
        beyond = beyond_one_loop(loops, frozenset(graph.get_output_names()))
        nests = tuple(tuple(sorted(_origins(loop))) for loop in loops)
        names = [node.name for node in body.graph.find_nodes(op="placeholder")]
        written = tuple(text_of_loop(loop, names) for loop in loops) if write_loops else ()
        return Lowered(len(loops), sources, module, nests, beyond, loops=written)


def _is_nothing(node: Any) -> bool:
    """Scheduler nodes that run nothing: views of results, parts of tuples."""
    from torch._inductor.scheduler import NopKernelSchedulerNode

    inner = getattr(node, "node", None)
    return isinstance(node, NopKernelSchedulerNode) or type(inner).__name__ == "MultiOutput"


def _origins(node: Any) -> set[str]:
    found: set[str] = set()
    for each in node.get_nodes():
        for origin in getattr(each.node, "origins", ()):
            found.update(origin.meta.get("body_nodes", ()))
    return found


@contextlib.contextmanager
def _lowering(body: fx.GraphModule, way: _Way) -> Iterator[tuple[Any, list[Tensor]]]:
    """Inductor's graph for a body, in the state in which it can be run and generate code."""
    from torch._inductor import config
    from torch._inductor.compile_fx import record_original_output_strides
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    mode = FakeTensorMode()
    with mode:
        inputs = [_empty_like(node.meta["val"]) for node in body.graph.find_nodes(op="placeholder")]
        gm = _decomposed(body, inputs, way)
    output = gm.graph.output_node()
    output.meta["user_visible_output_idxs"] = list(range(len(output.args[0])))  # type: ignore[arg-type]
    record_original_output_strides(gm)
    graph = GraphLowering(gm, example_inputs=inputs, shape_env=ShapeEnv(), is_inference=True)
    settings = {
        "force_pointwise_cat": True,
        "split_reductions": False,
        "unroll_reductions_threshold": UNROLLED + 1 if way.unrolled else 8,
        "realize_reads_threshold": 32,
        "realize_opcount_threshold": 400,
        "fallback_random": True,
        "comprehensive_padding": False,
        "cpp.max_horizontal_fusion_size": 64,
    }
    with (
        config.patch(settings),
        _loops(way),
        _templates() if way.template else contextlib.nullcontext(),
        V.set_debug_handler(DebugContext()),
        V.set_fake_mode(mode),
        V.set_graph_handler(graph),
        torch.no_grad(),
    ):
        yield graph, inputs


def _templates() -> contextlib.AbstractContextManager[None]:
    from graphs.matmul_template import templates

    return templates()


def _empty_like(value: Tensor) -> Tensor:
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=value.device)


def _decomposed(body: fx.GraphModule, inputs: Sequence[Tensor], way: _Way) -> fx.GraphModule:
    """The body in Inductor's operators; each node knows which node of the body it computes."""
    from torch.fx.experimental.proxy_tensor import make_fx

    interpreter = _Marking(body)

    def run(*args: Tensor) -> tuple[Tensor, ...]:
        value = interpreter.run(*args)
        return tuple(value) if isinstance(value, tuple | list) else (value,)

    table = _table() | DECOMPOSITIONS if way.template else _table()
    with torch.no_grad():
        gm = make_fx(run, decomposition_table=table)(*inputs)
    made: list[str] = interpreter.made
    computing = [node for node in gm.graph.nodes if node.op == "call_function"]
    last: dict[str, fx.Node] = {}
    for node, name in zip(computing, made[-len(computing) :] if computing else [], strict=False):
        node.meta["body_nodes"] = (name,)
        last[name] = node
    _rounded_as_apart(last.values())
    gm.graph.eliminate_dead_code()
    _reductions_last(gm.graph)
    gm.recompile()
    return gm


def _rounded_as_apart(results: Iterable[fx.Node]) -> None:
    """What an operator of the body gives in a short float is rounded to it on a GPU too: Triton would go on with the float32 that it computes in."""
    for node in results:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and value.device.type == "cuda" and value.dtype in SHORT_FLOATS:
            node.meta["low_precision_pointwise_barrier"] = True  # Inductor's own mark


def _reductions_last(graph: fx.Graph) -> None:
    """Puts every reduction behind the elementwise operators that do not need it: Inductor lets a reduction join the loop of what
    comes before it, and not the other way round."""
    level: dict[fx.Node, int] = {}
    for node in graph.nodes:
        above = max((level[read] + (level[read] % 2) for read in node.all_input_nodes), default=0)
        level[node] = above + _reduces(node)
    output = graph.output_node()
    for node in sorted((node for node in graph.nodes if node.op == "call_function"), key=lambda node: level[node]):
        output.prepend(node)


def _reduces(node: fx.Node) -> bool:
    value = node.meta.get("val")
    value = value[0] if isinstance(value, tuple | list) and value else value
    reads = [read.meta["val"] for read in node.all_input_nodes if isinstance(read.meta.get("val"), Tensor)]
    return node.op == "call_function" and isinstance(value, Tensor) and any(value.numel() < read.numel() for read in reads[:1])


@functools.cache
def _table() -> dict[Any, Any]:
    from torch._inductor.decomposition import select_decomp_table

    torchs = select_decomp_table()
    copy = torch.ops.aten._to_copy.default
    return {**torchs, **OWN, copy: functools.partial(_cast, torchs[copy])}


class _Marking(fx.Interpreter):
    """Runs a body under a tracer and notes, for every operator that is traced, the body's node that asked for it."""

    def __init__(self, body: fx.GraphModule) -> None:
        super().__init__(body)
        self.made: list[str] = []

    def run_node(self, n: fx.Node) -> Any:
        from torch.fx.experimental.proxy_tensor import get_proxy_mode

        mode = get_proxy_mode()
        before = len(mode.tracer.graph.nodes) if mode else 0  # type: ignore[union-attr]
        value = super().run_node(n)
        after = len(mode.tracer.graph.nodes) if mode else 0  # type: ignore[union-attr]
        self.made += [n.name] * (after - before)
        return value


@contextlib.contextmanager
def _loops(way: _Way) -> Iterator[None]:
    """Makes Inductor merge loops in this way while it runs."""
    from torch._inductor import ir
    from torch._inductor.virtualized import V

    original = ir.ComputedBuffer.simplify_and_reorder

    @functools.wraps(original)
    def patched(self: Any, *args: Any, **kwargs: Any) -> Any:
        sizevars = V.graph.sizevars
        merging = sizevars._simplify_loops
        sizevars._simplify_loops = functools.partial(_merged, way, merging)  # type: ignore[method-assign]
        try:
            return original(self, *args, **kwargs)
        finally:
            sizevars._simplify_loops = merging  # type: ignore[method-assign]

    if way.cuts is not None:
        ir.ComputedBuffer.simplify_and_reorder = patched  # type: ignore[method-assign]
    try:
        yield
    finally:
        ir.ComputedBuffer.simplify_and_reorder = original  # type: ignore[method-assign]


def _merged(way: _Way, merging: Any, variables: Sequence[Any], sizes: Sequence[Any], formulas: Any) -> Any:
    """Inductor's merging, done apart for the dimensions on either side of a cut."""
    parts: list[list[int]] = []
    inner = 1
    for at in reversed(range(len(sizes))):
        if not parts or not way.allows(inner):
            parts.insert(0, [])
        parts[0].insert(0, at)
        inner *= int(sizes[at])
    found = [merging([variables[at] for at in part], [sizes[at] for at in part], formulas) for part in parts]
    lengths = [len(new) for new, _, _ in found]

    def reindex(index: Sequence[Any]) -> list[Any]:
        out, start = [], 0
        for (_, back, _), length in zip(found, lengths, strict=True):
            out += back(index[start : start + length])
            start += length
        return out

    def prune(index: Sequence[Any]) -> list[Any]:
        out: list[Any] = []
        for (_, _, shorten), part in zip(found, parts, strict=True):
            out += shorten([index[at] for at in part])
        return out

    return [size for new, _, _ in found for size in new], reindex, prune
