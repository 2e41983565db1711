"""Rules of cost for operators that are not pointwise: counted by hand beside the rule."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks.by_hand import by_hand_source
from graphs.cost import cost
from graphs.ladder import climb
from graphs.record import Cost

aten = torch.ops.aten
SIGNAL = (4, 32)
CASES: list[tuple[str, Callable[..., object], tuple[tuple[int, ...], ...], int]] = [
    ("complex to complex", lambda x: torch.fft.fft(torch.complex(x, x)), (SIGNAL,), 5 * 4 * 32 * 5),
    ("real to complex", torch.fft.rfft, (SIGNAL,), 5 * 4 * 32 * 5 // 2),
    ("complex to real", lambda x: torch.fft.irfft(torch.complex(x, x), n=62), (SIGNAL,), int(5 * 4 * 62 * math.log2(62) / 2)),
    ("glu", lambda x: torch.nn.functional.glu(x), (SIGNAL,), 4 * 32),
    ("weight norm", lambda v, g: aten._weight_norm_interface(v, g, 0), ((8, 5), (8, 1)), 3 * 40),
    ("points of an image", lambda x, g: torch.nn.functional.grid_sample(x, g, align_corners=False), ((1, 3, 8, 8), (1, 4, 4, 2)), 8 * 3 * 16),
    ("folding patches back", lambda x: torch.nn.functional.fold(x, (4, 4), (2, 2), stride=2), ((1, 12, 4),), 48),
    ("matrix and vector", lambda a, b: aten.addmv(b[:4], a, b), (SIGNAL, (32,)), 2 * 4 * 32),
    ("distances", lambda a, b: aten._cdist_forward(a, b, 2.0, None), ((4, 6), (5, 6)), 3 * 4 * 5 * 6),
    ("bags of rows", lambda w: torch.nn.functional.embedding_bag(torch.zeros(3, 5, dtype=torch.long), w, mode="sum"), ((20, 8),), 3 * 5 * 8),
    ("smallest and largest", lambda x: torch.aminmax(x), (SIGNAL,), 2 * 128),
]  # fmt: skip


def _costs(function: Callable[..., object], shapes: tuple[tuple[int, ...], ...]) -> list[Cost]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        graph: fx.GraphModule = make_fx(function)(*(torch.randn(*shape) for shape in shapes))
    return [cost(node) for node in graph.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize(("name", "function", "shapes", "operations"), CASES, ids=[case[0] for case in CASES])
def test_operations_are_those_counted_by_hand(
    name: str, function: Callable[..., object], shapes: tuple[tuple[int, ...], ...], operations: int
) -> None:
    costs = _costs(function, shapes)
    assert all(one.known for one in costs), name
    assert sum(one.flops for one in costs) == operations


def complex_of(x: Tensor) -> Tensor:
    return torch.complex(x, x)


@pytest.mark.parametrize(
    ("name", "function", "shapes", "operations"),
    [
        ("matmul", lambda a, b: torch.mm(complex_of(a), complex_of(b)), ((4, 6), (6, 5)), 8 * 4 * 6 * 5),
        ("product", lambda a: complex_of(a) * complex_of(a), (SIGNAL,), 6 * 128),
        ("product with a real number", lambda a: complex_of(a) * 2.0, (SIGNAL,), 2 * 128),
        ("quotient", lambda a, b: complex_of(a) / complex_of(b), (SIGNAL, SIGNAL), 11 * 128),
        ("sum of two", lambda a: complex_of(a) + complex_of(a), (SIGNAL,), 2 * 128),
        ("absolute value", lambda a: complex_of(a).abs(), (SIGNAL,), 4 * 128),
        ("sum of all", lambda a: complex_of(a).sum(), (SIGNAL,), 2 * 128),
    ],
)
def test_of_complex_numbers_the_real_operations_are_counted(
    name: str, function: Callable[..., object], shapes: tuple[tuple[int, ...], ...], operations: int
) -> None:
    assert sum(one.flops for one in _costs(function, shapes)) == operations, name


@pytest.mark.parametrize(
    ("function", "written", "launches"),
    [
        (torch.zeros_like, 512, 1),
        (lambda x: torch.full_like(x, 2.0), 512, 1),
        (lambda x: torch.randn_like(x), 512, 1),
        (lambda x: x.new_ones(3), 12, 1),
        (lambda x: x.new_full((4,), 2.0), 16, 1),
        (lambda x: aten.fill.Scalar(x, 2.0), 512, 1),
        (lambda x: aten.fill_.Scalar(aten.clone(x), 2.0), 512, 1),
        (torch.empty_like, 0, 0),
        (lambda x: x.new_empty(7), 0, 0),
    ],
)
def test_what_takes_only_the_shape_of_a_tensor_reads_nothing_of_it(function: Callable[..., object], written: int, launches: int) -> None:
    last = _costs(function, (SIGNAL,))[-1]
    assert (last.bytes_read, last.bytes_written, last.launches) == (0, written, launches)


def test_an_operator_in_place_costs_what_the_other_does() -> None:
    def changed(x: Tensor) -> Tensor:
        return aten.add_(aten.clone(x), x)

    assert [one.flops for one in _costs(changed, (SIGNAL,))] == [0, 128]
    assert all(one.known for one in _costs(lambda x: aten.copy_(aten.clone(x), x), (SIGNAL,)))


def test_what_scatters_in_place_moves_only_what_it_selects() -> None:
    at = torch.tensor([0, 2])

    def moved(function: object) -> int:
        graph = make_fx(function, tracing_mode="real")(torch.randn(8, 10))  # type: ignore[arg-type]
        writers = [node for node in graph.graph.nodes if str(node.target).partition(".")[2].partition(".")[0].endswith("_")]
        return cost(writers[0]).bytes_moved

    rows = torch.ones(2, 10)
    assert moved(lambda x: aten.index_put_(aten.clone(x), [at], rows)) == 2 * 8 + 4 * (20 + 20)
    assert moved(lambda x: aten.index_add_(aten.clone(x), 0, at, rows)) == 2 * 8 + 4 * (20 + 20 + 20)
    assert moved(lambda x: aten.index_put_(aten.clone(x), [x > 0], torch.tensor(1.0))) == 80 + 4 * (80 + 1 + 80)  # a mask may select all


def test_the_alignment_of_labels_counts_frames_and_places() -> None:
    def loss(x: Tensor) -> Tensor:
        labels, frames, lengths = torch.ones(2, 3, dtype=torch.long), torch.full((2,), 10), torch.full((2,), 3)
        return aten._ctc_loss.Tensor(x, labels, frames, lengths)[0]

    graph = make_fx(loss, tracing_mode="real")(torch.randn(10, 2, 6).log_softmax(-1))
    found = [cost(node) for node in graph.graph.nodes if "_ctc_loss" in str(node.target)]
    assert [one.flops for one in found] == [6 * 10 * 2 * (2 * 3 + 1)]


def test_a_recurrent_layer_meets_its_matrices_at_every_step() -> None:
    graph = climb(by_hand_source("lstm"), "inference", "cpu").graph
    layers = [node.cost for node in graph.nodes if "rnn_layer" in node.target]
    steps = 2 * 6
    assert [one.matmul_flops for one in layers] == [2 * steps * 4 * 16 * (8 + 16), 2 * steps * 4 * 16 * (16 + 16)]


def test_an_operator_without_a_rule_is_unknown_not_free() -> None:
    assert [one.known for one in _costs(lambda x: aten.linalg_inv_ex(x)[0], ((4, 4),))].count(False) == 1
