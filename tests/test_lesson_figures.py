"""Lessons reproduce the course's figures, and the words that they use count what they say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from graphs.errors import SourceError
from graphs.loop_text import shortened
from graphs.record import Cost, GraphSnapshot, NodeRecord, Totals
from jobs.client import Client
from jobs.record import Optimize, OptimizeResult
from lessons import telling, tiling
from lessons import vocabulary as words
from lessons.lesson import Found
from lessons.numbers import numbers
from lessons.reading import named

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


def code(lesson: str, screen: int) -> dict[str, Any]:
    """What a screen defines."""
    found = named(lesson)
    assert found
    return dict(found.screens[screen - 1].code)


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    made = Client(tmp_path_factory.mktemp("data"))
    yield made
    made.close()


def found_for(worker: Client, lesson: str, screen: int) -> Found:
    told = named(lesson)
    assert told
    asked = told.screens[screen - 1].words
    answer = cast(OptimizeResult, worker.run(Optimize(asked)))
    return Found(asked, answer.report, answer.graphs, answer.steps)


# A11: three kernels move 9n numbers for 3n operations, one moves 5n.
def test_three_kernels_and_one(worker: Client) -> None:
    found, apart, together = found_for(worker, "one-kernel", 1), code("one-kernel", 1), code("one-kernel", 2)
    n = apart["n"](found)
    assert apart["answer"](found) == together["apart"](found) == 9 * n * 4
    assert together["answer"](found) == 5 * n * 4
    assert together["work"](found) == 3 * n


# A26: tiles of a matmul; A27: blocks of an addition.
def test_tiles_and_blocks() -> None:
    tiles, blocks = code("one-kernel", 5), code("one-kernel", 6)
    assert (tiles["reads"](1), tiles["answer"](None)) == (2 * 1024**3, 2 * 1024**3 // 32)
    assert (blocks["answer"](None), blocks["last"]()) == (188, 823)


# A09 and A37: value numbers, and the bound of random testing.
def test_value_numbers_and_the_bound() -> None:
    assert [number for _, _, number in code("rewriting-with-proof", 3)["numbered"]()] == [3, 1, 2, 3, 4]
    chance = code("rewriting-with-proof", 7)["chance"]
    assert chance(1) == pytest.approx(4.7e-10, rel=0.01)
    assert code("rewriting-with-proof", 7)["answer"](None) == 3


# A32: 1,216 multiply-adds become 2,304, 1.895 times, through a step that is dearer than the start.
def test_two_branches(worker: Client) -> None:
    assert code("greedy-is-not-enough", 1)["answer"](found_for(worker, "greedy-is-not-enough", 1)) == 1216
    assert code("greedy-is-not-enough", 4)["answer"](found_for(worker, "greedy-is-not-enough", 4)) == pytest.approx(2304 / 1216)
    searched = found_for(worker, "greedy-is-not-enough", 5).steps[0].search
    assert searched
    assert searched.greedy == ()
    assert searched.found[0].seconds > searched.seconds > searched.found[-1].seconds


# A51 and A73: the block of Llama-2-7B, and scores with K as a thousand.
def test_sizes_of_scores() -> None:
    sizes = code("the-s2-edge", 5)
    assert sum(sizes["BLOCK"].values()) == 1538 * MIB
    assert (sizes["in_thousands"](), sizes["answer"](None)) == (512e9, TIB)


def test_the_online_softmax_ends_with_maximum_and_sum() -> None:
    online = code("the-s2-edge", 4)
    *_, (_, largest, _, total) = online["online"]()
    assert largest == max(online["ROW"])
    assert total == pytest.approx(sum(2.718281828459045 ** (x - largest) for x in online["ROW"]))
    assert online["apart"]() < 1e-15


# A45: 36 layers need 12; A46: of the chain of 16 in groups of 4, (16/4 − 1)·(4 − 1) matmuls run again.
def test_drop_and_recompute(worker: Client) -> None:
    found, check = found_for(worker, "drop-and-recompute", 7), code("drop-and-recompute", 7)
    assert check["kept"](6, found) == 12
    assert check["answer"](found) == "6"
    assert words.peak(found.before) / words.peak(found.after) > 2.5
    assert code("drop-and-recompute", 5)["answer"](found_for(worker, "drop-and-recompute", 5)) == 3 * 3


# A38 to A44, A47, A49.
def test_sixteen_bytes(worker: Client) -> None:
    mixed, large, batch = (code("sixteen-bytes", screen) for screen in (3, 6, 7))
    assert (mixed["answer"](None), sum(mixed["EIGHT_BIT"].values())) == (16, 11)
    assert mixed["N"] * mixed["answer"](None) == 2800e9
    assert code("sixteen-bytes", 2)["answer"](None) == 2100
    assert (large["layer"](), large["answer"](None)) == (78.6432e9, 7550)
    whole = {name: 2 * tokens * wide * deep / GIB for name, (tokens, wide, deep) in large["SIZES"].items()}
    assert [round(size, 2) for size in whole.values()] == [8.58, 152.59, 7031.25, 1.0]
    assert batch["BATCH"] // batch["SMALL"] == 8
    found = found_for(worker, "sixteen-bytes", 1)
    each = code("sixteen-bytes", 1)["each"](found)
    assert sum(each.values()) == 16 * found.report.parameters + 4  # and the number of the step


def reads_of_loops(product: tiling.Product, rows: int, columns: int) -> int:
    """By running the loops: for every tile and every k, what is fetched is marked and counted."""
    read = 0
    for top in range(0, product.M, rows):
        for left in range(0, product.N, columns):
            for k in range(product.K):
                read += len({(row, k) for row in range(top, min(top + rows, product.M))})
                read += len({(k, column) for column in range(left, min(left + columns, product.N))})
    return read


@pytest.mark.parametrize(("product", "rows", "columns"), [((8, 8, 8), 4, 2), ((7, 5, 3), 2, 3), ((3, 9, 2), 5, 4), ((4, 4, 4), 1, 1)])
def test_reads_of_tiles_are_those_of_the_loops(product: tuple[int, int, int], rows: int, columns: int) -> None:
    counted = tiling.reads_by_tiles(tiling.Product(*product), rows, columns).both
    assert counted == reads_of_loops(tiling.Product(*product), rows, columns)


# A21, A22: tiles in registers and cache, n³/v2 + n³/v1 and n² + n³/b1; A23 to A25: grids and windows; A26: four versions on a GPU.
def test_tiles_grids_and_windows_of_the_course() -> None:
    inside, cache, gpu, check = (code("graph-to-kernel", screen) for screen in (8, 9, 10, 11))
    square = numbers("M=1024, N=1024, K=1024, v1=4, v2=4, v3=4, b1=64, b2=16, cache_KiB=512")
    assert (inside["reads"](square, 1, 1), inside["answer"](square)) == (2 * 1024**3, 1024**3 // 2)
    assert [tiling.registers(*sides) for sides in ((1, 1, 1), (2, 3, 5))] == [3, 2 * 5 + 3 * 5 + 2 * 3]
    assert cache["answer"](square) == 1024**2 + 1024**3 // 64
    assert (cache["needed"](square), cache["fits"](square), cache["wrong"](square)) == (80 * 1024 * 4, True, 1024**2 // 64)
    assert not cache["fits"](square.changed(numbers("cache_KiB=32")))
    versions = gpu["versions"](numbers("N=1024, V=4, L=32"))
    n3 = 1024**3
    assert [one.of_global for one in versions] == [2 * n3, n3 // 4 + n3, 2 * n3 // 4, 2 * n3 // 32]
    assert [one.each for one in versions] == [1, 16 + 2048, 16 + 8, 16 + 8]
    assert versions[-1].of_shared == 2 * n3 // 4
    assert check["free"](numbers("M=512, N=256, K=1024, v1=4, v2=8, v3=2")) == ["v3"]


def test_grids_and_windows_of_the_course() -> None:
    grid, window = code("graph-to-kernel", 6), code("graph-to-kernel", 7)
    table = numbers("Nx=12, Ny=6, block_x=4, block_y=3")
    assert (grid["grid"](table), grid["answer"](table), grid["each"](table), grid["idle"](table)) == ((3, 2), 6, 12, 0)
    assert (tiling.parts(1024, 32), (tiling.parts(grid["N"], grid["SIDE"]) * grid["SIDE"]) ** 2) == (32, 1_048_576)
    three = numbers("window=3, threads=128")
    assert window["reads"](three) == (384, 130)
    assert window["WIDTH"] * window["answer"](three) == 520


@pytest.mark.parametrize("wrong", ["M=0", "M=", "M=1.5", "M=99999999", "M=2000000", "print(1)", "M=4, =5"])
def test_what_are_no_numbers_is_told(wrong: str) -> None:
    with pytest.raises(SourceError):
        numbers(wrong)


def test_numbers_of_a_reader_stand_in_for_a_screens_own() -> None:
    own = numbers("M=64, tile=8")
    assert own.changed(numbers("tile=4, other=2")).words == "M=64, tile=4"
    assert numbers(own.words) == own


def test_a_loop_is_told_with_its_indices_in_place() -> None:
    printed = """var_ranges = {p0: 8, p1: 16}
index0 = 16*p0 + p1
index1 = p0
body:
def body(self, ops):
    get_index = self.get_index('index0')
    load = ops.load('arg1_1', get_index)
    reduction = ops.reduction(torch.float32, torch.float32, 'sum', load)
    get_index_1 = self.get_index('index1')
    store_reduction = ops.store_reduction('buf0', get_index_1, reduction)
    return store_reduction"""
    assert shortened(printed, ["a", "b"]) == (
        "for p0: 8, p1: 16:\n"
        "    load = ops.load('b', 16*p0 + p1)\n"
        "    reduction = ops.reduction(torch.float32, torch.float32, 'sum', load)\n"
        "    store_reduction = ops.store_reduction('buf0', p0, reduction)"
    )


def test_a_small_weight_step_is_rounded_away_in_bfloat16() -> None:
    half = code("sixteen-bytes", 4)
    assert half["after"](10) == 1
    assert half["rounded"](1.01) == 1.0078125
    assert half["rounded"](-3.14159) == -3.140625


def node(name: str, target: str, inputs: tuple[str, ...], shape: tuple[int, ...] | None, module: str = "") -> NodeRecord:
    """A float32 operator, or a placeholder where there is no target."""
    count = words.math.prod(shape or (0,)) * 4
    op, role = ("call_function", "activation") if target else ("placeholder", "input")
    return NodeRecord(name, op, target, "forward", module, None, shape, "float32", None, count, name, role, Cost(launches=1), (), inputs)


def test_words_of_graphs() -> None:
    nodes = (
        node("x", "", (), (2, 3)),
        node("mul", "aten.mul.Tensor", ("x", "x"), (2, 3), "h.0.part"),
        node("mul_1", "aten.mul.Tensor", ("x", "mul"), (2, 3), "h.1"),
        node("add", "aten.add.Tensor", ("mul", "mul_1"), (2, 3), "h.1"),
        node("parts", "aten.split.Tensor", ("add",), None),
    )
    graph = GraphSnapshot(nodes, ("add",), Totals(5, 4, 0, 0, 0, 0, 0))
    assert [one.name for one in words.sum_of_products(graph)] == ["mul", "mul_1", "add"]
    assert words.outside(words.sum_of_products(graph)) == ["x"]
    assert words.blocks(graph) == ["h.0", "h.1"]
    assert words.result_of(graph, "h.1").name == "add"
    assert words.no_chain(graph, 1) == ""
    assert "has 2" in words.no_chain(graph, 2)
    wide = GraphSnapshot(nodes, ("add",), Totals(5, 4, 0, 0, 0, 1000, 0))
    assert "plain chain" in words.no_chain(wide, 1)
    assert words.largest(graph).name == "mul"
    assert (words.elements(nodes[0]), words.elements(nodes[-1]), words.sides(nodes[0])) == (6, 0, "2 × 3")
    assert words.held(graph)["inputs"] == words.ever(graph, "inputs") == 24
    assert words.stored(graph, "outputs") == ["add"]


def test_a_number_that_begins_a_line_begins_no_list() -> None:
    lesson = named("one-kernel")
    assert lesson
    assert telling.text(lesson, lesson.screens[0], None, "{{2 + 2}}. And\n\n{{5}}.") == "4\\. And\n\n5\\."
    assert telling.text(lesson, lesson.screens[0], None, "It is {{2 + 2}}. {{1.5}} more") == "It is 4. 1.5 more"


def test_a_table_has_numbers_to_the_right() -> None:
    assert words.table(["", "bytes"], [["a", 1], ["b", "2.5"]]).splitlines() == [
        "|  | bytes |",
        "| :--- | ---: |",
        "| a | 1 |",
        "| b | 2.5 |",
    ]
