"""Epilogues in the kernels of matmuls and convolutions: what is fused, what is refused and why, and that the kernels are what they say."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from benchmarks.epilogues import mobilenet
from graphs.capture import capture
from graphs.cost import cost
from graphs.origin import Origin
from graphs.program import Program
from graphs.snapshot import snapshot
from graphs.sources.zoo import zoo_source
from optimizers.base import Example, Match
from optimizers.fusion import fuse_convolution_epilogue as of_convolution
from optimizers.fusion import fuse_matmul_epilogue as of_matmul
from optimizers.patterns.elementwise_functions import Activation, written_by_hand
from optimizers.pipeline import Applied, apply, apply_optimization
from optimizers.record import StepRecord
from optimizers.verify import Judge
from profiler.peak import peak_bytes
from tests.gpu_graphs import as_if_on_gpu
from tests.work import grows_in_proportion

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn
POINTWISE: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("relu", torch.relu),
    ("sigmoid", torch.sigmoid),
    ("tanh", torch.tanh),
    ("swish", functional.silu),
    ("gelu", functional.gelu),
    ("gelu", lambda x: functional.gelu(x, approximate="tanh")),
    ("hardswish", functional.hardswish),
    ("hardsigmoid", functional.hardsigmoid),
    ("leaky_relu", lambda x: functional.leaky_relu(x, 0.2)),
    ("hardtanh", functional.relu6),
    ("hardtanh", lambda x: x.clamp(-0.5, 0.25)),
]


class After(nn.Module):
    """A layer, and a function of its result and its input."""

    def __init__(self, layer: nn.Module, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = layer, function

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        return self.function(self.layer(x), x if other is None else other)


def stepped(model: nn.Module, x: Tensor | tuple[Tensor, ...], optimization: object, mode: str = "inference") -> Applied:
    """The optimization applied to a captured model, and judged."""
    inputs = x if isinstance(x, tuple) else (x,)
    program = capture(Example(lambda: model, lambda: inputs).source(), mode, "cpu").program
    found = apply_optimization(program, snapshot(program), optimization.OPTIMIZATION, {}, Judge(program))  # type: ignore[attr-defined]
    assert found.step.verdict.kind in ("bitwise", "rounding"), found.step.verdict
    assert found.step.claim_broken == ()
    check_layouts(found.program)
    return found


def check_layouts(program: Program) -> None:
    """Every real value has the shape, dtype and strides that its fake one promised."""

    class Compare(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            value, promised = super().run_node(n), n.meta.get("val")
            if isinstance(value, Tensor) and isinstance(promised, Tensor) and value.layout is torch.strided:
                assert (value.shape, value.dtype) == (promised.shape, promised.dtype), n.name
                steps = zip(value.shape, value.stride(), promised.stride(), strict=True)
                assert all(real == fake for size, real, fake in steps if size > 1), (n.name, value.stride(), promised.stride())
            return value

    with torch.no_grad():
        Compare(program.gm).run(*program.materialize())


def targets(program: Program) -> list[str]:
    return [str(node.target) for node in program.gm.graph.nodes if node.op == "call_function"]


def reasons(step: StepRecord) -> str:
    return " ".join(miss.reason for miss in step.misses)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "function"), POINTWISE)
def test_a_layer_and_its_activation_are_one_kernel(name: str, function: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    if dtype is torch.bfloat16 and not mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no bfloat16")
    linear = stepped(After(nn.Linear(24, 40), lambda y, _x: function(y)).to(dtype), torch.randn(3, 5, 24, dtype=dtype), of_matmul)
    assert [match.note for match in linear.step.matches] == [f"with {name}"]
    assert linear.step.after.launches == 1
    image = torch.randn(2, 6, 9, 7, dtype=dtype)
    convolution = stepped(After(nn.Conv2d(6, 20, 3), lambda y, _x: function(y)).to(dtype), image, of_convolution)
    assert [match.note for match in convolution.step.matches] == [f"with {name}"]
    assert convolution.step.after.launches == 1


LAYERS: list[tuple[nn.Module, tuple[int, ...]]] = [
    (nn.Conv2d(8, 16, 1), (2, 8, 1, 1)),
    (nn.Conv2d(8, 1, 3), (2, 8, 5, 5)),
    (nn.Conv2d(1, 16, 3, bias=False), (1, 1, 5, 5)),
    (nn.Conv2d(8, 16, 3), (2, 8, 3, 3)),
    (nn.Conv2d(16, 16, 3, 2, 1, groups=16), (2, 16, 9, 9)),
    (nn.Conv2d(16, 32, (3, 5), (2, 1), (1, 0), dilation=(1, 2), groups=4), (2, 16, 9, 19)),
    (nn.Conv1d(8, 12, 5, 2, 2), (2, 8, 21)),
    (nn.Conv1d(8, 12, 3, groups=2, dilation=2), (1, 8, 21)),
    (nn.Conv3d(4, 8, 3, padding=1), (2, 4, 5, 6, 7)),
]


@pytest.mark.parametrize("binary", [False, True], ids=["relu", "add and relu"])
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value))
def test_every_kind_of_convolution_gives_what_its_fake_value_promised(layer: nn.Module, shape: tuple[int, ...], binary: bool) -> None:
    x = torch.randn(*shape)
    if binary:
        found = stepped(After(layer, lambda y, other: torch.relu(y + other)), (x, torch.randn(layer(x).shape)), of_convolution)
    else:
        found = stepped(After(layer, lambda y, _x: torch.relu(y)), x, of_convolution)
    assert len(found.step.matches) == 1
    assert found.step.after.launches == 1


def test_an_image_with_channels_last_and_a_strided_residual_are_read_as_they_are() -> None:
    layer = nn.Conv2d(6, 6, 3, padding=1)
    for x in (
        torch.randn(2, 6, 8, 8).to(memory_format=torch.channels_last),
        torch.randn(2, 6, 8, 8).transpose(2, 3),
        torch.randn(2, 12, 8, 8)[:, ::2],
    ):
        stepped(After(layer, lambda y, x: y - x), x, of_convolution)
    for x in (torch.randn(12, 8).t(), torch.randn(8, 24)[:, 3:15], torch.randn(1, 12).expand(8, 12)):
        stepped(After(nn.Linear(12, 12), lambda y, x: y * x), x, of_matmul)


def test_the_residual_is_not_written_to() -> None:
    found = stepped(After(nn.Linear(8, 8), lambda y, x: y + x), torch.randn(4, 8), of_matmul)
    inputs = found.program.materialize()
    before = [value.clone() for value in inputs]
    found.program.run(inputs)
    assert all(torch.equal(one, other) for one, other in zip(before, inputs, strict=True))


def test_of_two_products_that_are_added_the_later_one_does_the_sum() -> None:
    class Two(nn.Module):
        def __init__(self, make: Callable[[], nn.Module]) -> None:
            super().__init__()
            self.one, self.other = make(), make()

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.one(x) + self.other(x))

    linear = stepped(Two(lambda: nn.Linear(8, 8)), torch.randn(4, 8), of_matmul).step
    assert [(match.anchor, match.note) for match in linear.matches] == [("addmm_1", "with add")]
    assert "done in the kernel of the other product" in reasons(linear)
    convolution = stepped(Two(lambda: nn.Conv2d(4, 4, 3)), torch.randn(1, 4, 8, 8), of_convolution).step
    assert [(match.anchor, match.note) for match in convolution.matches] == [("convolution_1", "with add, relu")]
    assert convolution.after.launches == 2


def test_matches_that_read_each_others_results_are_rewritten_one_after_another() -> None:
    class Chain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(6))

        def forward(self, x: Tensor) -> Tensor:
            for one, other in zip(self.layers[::2], self.layers[1::2], strict=True):
                x = x + other(functional.gelu(one(x)))
            return x

    found = stepped(Chain(), torch.randn(4, 8), of_matmul)
    assert [match.note for match in found.step.matches] == ["with gelu", "with add"] * 3
    assert found.step.after.launches == 6


BY_HAND: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("swish", lambda x: x * torch.sigmoid(x)),
    ("swish", lambda x: x / (1 + torch.exp(-x))),
    ("gelu none", lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))),
    ("gelu none", lambda x: x * 0.5 * (1 + torch.erf(x * 0.7071067811865475))),
    ("gelu tanh", lambda x: 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))),
    ("gelu tanh", lambda x: 0.5 * x * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x)))),
    ("hardswish", lambda x: x * functional.relu6(x + 3) / 6),
    ("hardsigmoid", lambda x: functional.relu6(x + 3) / 6),
    ("", lambda x: x * torch.sigmoid(1.702 * x)),
    ("", lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.0447 * x**3)))),
    ("", lambda x: x * torch.tanh(x)),
]


@pytest.mark.parametrize(("name", "function"), BY_HAND)
def test_an_activation_written_by_hand_is_known_by_what_it_computes(name: str, function: Callable[[Tensor], Tensor]) -> None:
    found = stepped(After(nn.Linear(8, 8), lambda y, _x: function(y)), torch.randn(4, 8), of_matmul)
    assert found.step.after.launches == (1 if name else found.step.before.launches)
    if name:
        product = capture(
            Example(lambda: After(nn.Linear(8, 8), lambda y, _x: function(y)), lambda: (torch.randn(4, 8),)).source(), "inference", "cpu"
        )
        node = next(node for node in product.program.gm.graph.nodes if node.target is aten.addmm.default)
        hand = written_by_hand(node)
        assert hand is not None
        assert hand[1] == Activation(name.split()[0], formula=name.removeprefix("gelu").strip() if "gelu" in name else "")


def test_training_fuses_what_backward_does_not_read() -> None:
    relu = stepped(After(nn.Linear(8, 8), lambda y, _x: torch.relu(y).square()), torch.randn(4, 8), of_matmul, "training")
    assert [match.note for match in relu.step.matches] == ["with relu"]
    assert not any("prepared" in target for target in targets(relu.program)), "weights change in every step"
    gelu = stepped(After(nn.Linear(8, 8), lambda y, _x: functional.gelu(y)), torch.randn(4, 8), of_matmul, "training")
    assert gelu.step.matches == ()
    assert "Backward reads addmm, the value before gelu" in reasons(gelu.step)


REFUSED: list[tuple[Callable[[Tensor, Tensor], Tensor], str]] = [
    (lambda y, x: x - y, "subtracts the result from something"),
    (lambda y, x: torch.add(y, x, alpha=2), "scales its second operand"),
    (lambda y, x: y * x[:, :1], "not laid out as the product"),
    (lambda y, x: y + x.double(), "another dtype"),
    (lambda y, x: y + y, "twice"),
    (lambda y, x: (y.view(2, 4, 4) + 1).relu(), "in another shape"),
    (lambda y, x: y * 0.0, "weights cannot take up"),
    (lambda y, x: torch.stack([y.relu(), y.sigmoid()]), "so it must exist"),
]


@pytest.mark.parametrize(("function", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_kernel_cannot_do_is_refused_with_the_reason(function: Callable[[Tensor, Tensor], Tensor], reason: str) -> None:
    found = stepped(After(nn.Linear(8, 8), function), torch.randn(4, 8), of_matmul)
    assert found.step.matches == ()
    assert reason in reasons(found.step)


def test_a_scale_and_a_bias_go_into_the_weights_in_their_order() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(6))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(((x @ self.weight) / 3 + self.bias) * 0.5)

    found = stepped(Scaled(), torch.randn(4, 8), of_matmul)
    assert [match.note for match in found.step.matches] == ["with scale, bias, scale, tanh"]
    assert found.step.after.launches == 1


def test_a_filter_that_is_written_to_is_packed_again() -> None:
    found = stepped(After(nn.Conv2d(4, 4, 3), lambda y, _x: torch.relu(y)), torch.randn(1, 4, 6, 6), of_convolution)
    inputs = found.program.materialize()
    first = found.program.run(inputs)[0]
    assert torch.equal(first, found.program.run(inputs)[0])  # type: ignore[arg-type]
    for spec, value in zip(found.program.inputs, inputs, strict=True):
        if spec.role == "parameter":
            value.neg_()
    second = found.program.run(inputs)[0]
    assert not torch.equal(first, second)  # type: ignore[arg-type]
    assert peak_bytes(found.program, inputs, 0) >= first.numel() * 4  # type: ignore[union-attr]


def test_a_value_that_is_no_number_is_hidden_by_a_relu_as_the_lesson_says() -> None:
    """oneDNN's ReLU of NaN is 0. If this fails, its kernels became stricter: strike the sentence from both lessons."""
    found = stepped(After(nn.Linear(8, 8), lambda y, _x: torch.relu(y)), torch.randn(4, 8), of_matmul)
    inputs = [torch.full_like(value, torch.nan) for value in found.program.materialize()]
    assert bool((found.program.run(inputs)[0] == 0).all())  # type: ignore[union-attr]
    for lesson in (of_matmul.__doc__, of_convolution.__doc__):
        assert "NaN" in (lesson or "")


def test_channels_last_stops_where_a_view_wants_them_first() -> None:
    class Parts(nn.Module):
        def __init__(self, pooled: bool) -> None:
            super().__init__()
            self.filters, self.pooled = nn.Conv2d(3, 8, 3), pooled

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.filters(x)) * 2
            y = functional.adaptive_avg_pool2d(y, 1) if self.pooled else y
            return y.flatten(1)

    image = torch.randn(2, 3, 8, 8)
    assert len(stepped(Parts(True), image, of_convolution).step.matches) == 1
    refused = stepped(Parts(False), image, of_convolution).step
    assert refused.matches == ()
    assert "needs the channels first" in reasons(refused)
    rows = stepped(After(nn.Conv2d(3, 8, 3), lambda y, _x: y.relu().permute(0, 2, 3, 1).reshape(2, 36, 8)), image, of_convolution)
    assert len(rows.step.matches) == 1


def test_networks_for_images_have_nothing_left_between_their_convolutions() -> None:
    for source in (zoo_source("resnet18", {"batch": "2", "image": "32"}), mobilenet(2, 32)):
        program = capture(source, "inference", "cpu").program
        graph = snapshot(program)
        for name in ("fold-batch-norm", "fuse-convolution-epilogue"):
            applied = apply(program, graph, name, {})
            program, graph = applied.program, applied.snapshot
            assert applied.step.claim_broken == ()
        assert graph.totals.launches <= 60
        left = targets(program)
        assert not any(name in target for target in left for name in ("relu", "add.", "hardtanh"))
        check_layouts(program)


def test_costs_count_the_product_and_each_element_after_it() -> None:
    with FakeTensorMode():
        x, w, b, y = (torch.empty(*shape) for shape in ((4, 8), (16, 8), (16,), (4, 16)))
        image, filters, result = torch.empty(2, 6, 5, 5), torch.empty(4, 3, 3, 3), torch.empty(2, 4, 3, 3)
        moved = ([0, 0], [1, 1], [1, 1], 2)

        def everything(x: Tensor, w: Tensor, b: Tensor, y: Tensor, image: Tensor, filters: Tensor, result: Tensor) -> object:
            return (
                mkldnn._linear_pointwise.default(x, w, b, "none", [], ""),
                mkldnn._linear_pointwise.default(x, w, b, "relu", [], ""),
                mkldnn._linear_pointwise.binary(x, y, w, b, "add"),
                aten._addmm_activation.default(b, x, w.t()),
                mkldnn._convolution_pointwise.default(image, filters, None, *moved, "relu", [], ""),
                mkldnn._convolution_pointwise.binary(image, result, filters, None, *moved, "add", None, "relu", [], None),
            )

        graph = make_fx(everything)(x, w, b, y, image, filters, result)
    found = [cost(node) for node in graph.graph.nodes if node.op == "call_function" and node.target.__name__ != "t.default"]
    linear, size = 2 * 4 * 16 * 8, 4 * 16
    convolution, places = 2 * 2 * 4 * 9 * 3 * 9, 2 * 4 * 9
    assert [each.matmul_flops for each in found] == [linear] * 4 + [convolution] * 2
    assert [each.flops - each.matmul_flops for each in found] == [0, size, size, size, places, 2 * places]
    assert [each.launches for each in found] == [1] * 6
    assert found[2].bytes_read == 4 * (4 * 8 + 16 * 8 + 16 + 4 * 16)


def on_a_gpu(model: nn.Module, x: Tensor, optimization: object) -> tuple[list[str], str]:
    """(operators after the step, reasons) for a graph that says it is on a GPU; nothing is run."""
    program = as_if_on_gpu(capture(Example(lambda: model, lambda: (x,)).source(), "inference", "cpu").program)
    found = apply_optimization(program, snapshot(program), optimization.OPTIMIZATION, {})  # type: ignore[attr-defined]
    assert found.step.claim_broken == ()
    return [target for target in targets(found.program) if "aten.t." not in target], reasons(found.step)


def test_on_a_gpu_a_relu_with_or_without_a_sum_is_cudnns() -> None:
    layer, image = nn.Conv2d(16, 16, 3, padding=1), torch.randn(2, 16, 8, 8)
    relu, add_relu = "aten.cudnn_convolution_relu.default", "aten.cudnn_convolution_add_relu.default"
    assert on_a_gpu(After(layer, lambda y, _x: torch.relu(y)), image, of_convolution) == ([relu], "")
    assert on_a_gpu(After(layer, lambda y, x: torch.relu(x + y)), image, of_convolution) == ([add_relu], "")
    left, why = on_a_gpu(After(layer, lambda y, x: x + y), image, of_convolution)
    assert left == ["aten.convolution.default", "aten.add.Tensor"]
    assert "a sum with a ReLU, not add" in why


def test_on_a_gpu_a_relu_or_a_gelu_by_tanh_is_cublas() -> None:
    layer, rows = nn.Linear(8, 16), torch.randn(4, 8)
    for function in (torch.relu, lambda y: functional.gelu(y, approximate="tanh")):
        assert on_a_gpu(After(layer, lambda y, _x, f=function: f(y)), rows, of_matmul) == (["aten._addmm_activation.default"], "")
    left, why = on_a_gpu(After(layer, lambda y, _x: functional.gelu(y)), rows, of_matmul)
    assert left == ["aten.addmm.default", "aten.gelu.default"]
    assert "not gelu" in why
    left, why = on_a_gpu(After(nn.Linear(8, 16, bias=False), lambda y, _x: torch.relu(y)), rows, of_matmul)
    assert "begins with a bias" in why


def test_finding_takes_work_in_proportion_to_the_graph() -> None:
    def graph_of(layers: int) -> fx.GraphModule:
        def deep(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
            for _ in range(layers):
                x = torch.relu(aten.addmm.default(b, x, w)) + x
            return x

        with FakeTensorMode():
            gm = make_fx(deep)(torch.empty(2, 4), torch.empty(4, 4), torch.empty(4))
        for node in gm.graph.nodes:
            node.meta["origin"] = Origin("forward", "", None, (node.name,))
        return gm

    graphs = {layers: graph_of(layers) for layers in (40, 80)}
    assert len([each for each in of_matmul.find(graphs[80]) if isinstance(each, Match)]) == 80
    assert grows_in_proportion(lambda layers: lambda: list(of_matmul.find(graphs[layers])), 40)


def test_attention_behind_a_convolution_keeps_rows_that_it_can_read() -> None:
    """The kernel gives channels last; PyTorch's attention for CPUs would read those as if rows were dense."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.layer(x) + x)
            return functional.scaled_dot_product_attention(y, y, y)

    program = capture(Example(Model, lambda: (torch.randn(2, 4, 5, 6),)).source(), "inference", "cpu").program
    step = apply(program, snapshot(program), "fuse-convolution-epilogue", {}, Judge(program)).step
    assert step.verdict.kind in ("bitwise", "rounding")
    assert any("needs the channels first" in miss.reason for miss in step.misses)
