"""A kernel's code: every line linked to the nodes that it computes, the code itself unchanged, and code for a GPU that is not here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from graphs import described_gpu, kernel_source
from graphs.described_gpu import sourced_for
from graphs.errors import JobError, RequestError
from graphs.gpus import GPUS
from graphs.inductor import lower
from graphs.kernel_source import MARK, Sourced, caller, sourced

needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux alone")


def body(function: Callable[..., Any], *inputs: Tensor) -> fx.GraphModule:
    with FakeTensorMode() as mode, torch.no_grad():
        return make_fx(function)(*map(mode.from_tensor, inputs))


def rows(*shape: int) -> Tensor:
    return torch.randn(*shape)


def lines_of(found: Sourced, node: str) -> list[str]:
    source = found.lowered.source.split("\n")
    return [source[line - 1].strip() for link in found.links if link.node == node for line in link.lines]


def test_the_lines_of_a_small_kernel_are_those_of_its_nodes() -> None:
    found = sourced(body(lambda x, y: torch.relu(x * 2 + y).exp(), rows(8, 32), rows(8, 32)))
    assert found.exact
    assert any("in_ptr0" in line for line in lines_of(found, "mul"))
    assert lines_of(found, "mul")[-1].endswith("= tmp0 * tmp2;")
    assert any("in_ptr1" in line for line in lines_of(found, "add"))
    assert lines_of(found, "add")[-1].endswith("= tmp3 + tmp4;")
    assert len(lines_of(found, "relu")) == 1
    assert "clamp_min" in lines_of(found, "relu")[0]
    assert [part in line for part, line in zip((".exp()", ".store("), lines_of(found, "exp"), strict=True)] == [True, True]


BODIES = [
    (lambda x, y: F.gelu(F.layer_norm(x + y, (64,))), (rows(32, 64), rows(32, 64))),
    (lambda x, y: (x / 4 + y).softmax(-1), (rows(32, 64), rows(32, 64))),
    (lambda x, y: torch.where(x > 0, x, y).to(torch.bfloat16).float().sum(-1), (rows(8, 8), rows(8, 8))),
    (lambda x, y: torch.cat([x.sin(), y.cos()]).exp(), (rows(8, 8), rows(8, 8))),
    (lambda x, y: (x.sin() * y, x.sin() + 1), (rows(8, 8), rows(8, 8))),
    (lambda x, y: F.pad(x, (1, 1))[:, 1:-1] + y.t(), (rows(8, 8), rows(8, 8))),
]


@pytest.mark.parametrize(("function", "inputs"), BODIES)
def test_every_node_that_computes_has_a_line_and_the_code_is_what_it_is_without_links(function: Any, inputs: Any) -> None:
    graph = body(function, *inputs)
    found = sourced(graph)
    assert found.exact
    assert found.lowered == lower(graph)
    assert not MARK.search(found.lowered.source)
    exact = {link.node for link in found.links if not link.whole_loop}
    views = {"t", "slice_1", "slice_2", "getitem", "getitem_1", "getitem_2"}
    assert {node.name for node in graph.graph.nodes if node.op == "call_function"} - views <= exact


def test_a_line_that_two_nodes_need_belongs_to_both() -> None:
    found = sourced(body(lambda x: (x.sin() * 2, x.sin() + 1), rows(8, 8)))
    assert set(lines_of(found, "sin")) & set(lines_of(found, "sin_1"))


def test_a_view_has_the_loop_that_goes_along_it_and_a_library_its_name() -> None:
    found = sourced(body(lambda x: (x @ x).t().contiguous() + x, rows(8, 8)))
    (view,) = [link for link in found.links if link.node == "t"]
    assert view.whole_loop
    assert [nest.library for nest in found.nests] == ["aten.mm.default", ""]
    assert "extern_kernels.mm(" in caller(found.lowered.module)
    assert caller(found.lowered.module).startswith("def call(")
    assert caller(found.lowered.module).splitlines()[-1].strip().startswith("return")


def test_marks_that_change_the_code_are_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    generate = kernel_source.lower_twice

    def differing(graph: fx.GraphModule, within: Any) -> Any:
        plain, marked = generate(graph, within)
        return plain, type(marked)(marked.launches, marked.source + "\nint more;", marked.module, marked.nests)

    monkeypatch.setattr(kernel_source, "lower_twice", differing)
    found = sourced(body(lambda x: x.sin().exp(), rows(8, 8)))
    assert not found.exact
    assert all(link.whole_loop for link in found.links)
    assert {link.node for link in found.links} == {"sin", "exp"}


def test_inductor_is_as_it_was_afterwards() -> None:
    from torch._inductor import ir, loop_body
    from torch._inductor.codegen.common import CSE
    from torch._inductor.utils import IndentedBuffer

    def state() -> tuple[Any, ...]:
        return (
            ir.Loops.__post_init__,
            loop_body.LightTracer.create_node,
            loop_body.InterpreterShim.run_node,
            CSE.generate,
            IndentedBuffer.writeline,
        )

    before = state()
    sourced(body(lambda x: x.sin().exp(), rows(8, 8)))
    with kernel_source._marking(kernel_source._Marks("//")):
        assert state() != before
    assert state() == before
    assert "create_node" not in vars(loop_body.LightTracer)


# ---------------------------------------------------------------- a GPU that is not here


def test_without_triton_a_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(described_gpu.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(JobError, match="Triton is not installed") as caught:
        sourced_for(body(lambda x: x.sin(), rows(8)), "h100")
    assert "pip install triton" in caught.value.help


def test_an_unknown_gpu_names_those_that_are_described() -> None:
    with pytest.raises(RequestError) as caught:
        sourced_for(body(lambda x: x.sin(), rows(8)), "h1000")
    assert caught.value.help == f"There is: {', '.join(GPUS)}."


def test_a_body_on_a_gpu_keeps_shapes_strides_and_names() -> None:
    graph = body(lambda x: x.t().sin() + 1, rows(4, 8))
    moved = described_gpu.on_cuda(graph)
    for old, new in zip(graph.graph.nodes, moved.graph.nodes, strict=True):
        assert old.name == new.name
        if "val" in old.meta:
            assert new.meta["val"].device == torch.device("cuda", 0)
            assert new.meta["val"].stride() == old.meta["val"].stride()
    assert graph.graph.find_nodes(op="placeholder")[0].meta["val"].device.type == "cpu"


def test_what_goes_wrong_in_the_other_process_is_said_here() -> None:
    def fails() -> Sourced:
        raise ValueError("no such thing")

    with pytest.raises(described_gpu.RewriteError, match="ValueError: no such thing"):
        described_gpu._forked(fails)


def test_a_process_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(described_gpu, "LIMIT_S", 0.3)
    with pytest.raises(described_gpu.RewriteError, match="longer than 0.3 s"):
        described_gpu._forked(lambda: time.sleep(60))  # type: ignore[arg-type, return-value]


@needs_triton
@pytest.mark.parametrize("gpu", ["h100", "t4"])
def test_triton_for_a_described_gpu_has_its_links_and_nothing_here_believes_in_it(gpu: str) -> None:
    assert not torch.cuda.is_available()
    found = sourced_for(body(lambda x, y: F.gelu(F.layer_norm(x + y, (256,))), rows(64, 256), rows(64, 256)), gpu)
    assert "@triton.jit" in found.lowered.source
    assert found.exact
    assert found.lowered.launches == 1
    assert any("tl.load" in line for line in lines_of(found, "add"))
    assert any("rsqrt" in line for line in lines_of(found, "native_layer_norm"))
    assert lines_of(found, "gelu")[-1].startswith("tl.store(")
    assert not torch.cuda.is_available()
    assert torch.cuda.device_count() == 0
    assert "async_compile.triton" in found.lowered.module


def test_what_is_rounded_between_two_operators_is_rounded_in_the_loop_on_a_gpu_too() -> None:
    """To bfloat16 and back: Triton would go on with the float32 that it computes in, which changes the answer by 1 in 256."""
    there_and_back = body(lambda x, y: x.relu().to(torch.bfloat16).float() * y, rows(8, 64), rows(8, 64))
    assert ".to(tl.bfloat16)" in sourced_for(there_and_back, "h100").lowered.source
    short = body(lambda x: (x * 3).exp(), rows(8, 64).to(torch.bfloat16))
    assert sourced_for(short, "h100").lowered.source.count(".to(tl.bfloat16)") >= 2  # after each of the two, as in eager runs
