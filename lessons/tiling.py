"""How many numbers travel where when a product or a window is computed in tiles, and how threads share the work.

Sources: UC San Diego CSE 234, winter 2025: lectures of January 14 (vectors), 16 (tiles in registers and cache), 21 and 23 (grids, shared memory and
tiles on a GPU). The lecture has square matrices; here A is M × K and B is K × N, which gives the lecture's formulas for M = N = K = n. Where a tile
does not divide a side, the last tile is smaller, and it still reads what its rows or columns need.
"""

from __future__ import annotations

from typing import NamedTuple


class Product(NamedTuple):
    """C = A · B: A has M × K numbers, B has K × N."""

    M: int
    N: int
    K: int

    @property
    def work(self) -> int:
        """Operations, 2MNK: a multiply-add is two."""
        return 2 * self.M * self.N * self.K


class Reads(NamedTuple):
    """Numbers that are read of A and of B."""

    a: int
    b: int

    @property
    def both(self) -> int:
        return self.a + self.b


def parts(whole: int, size: int) -> int:
    """How many pieces of a size cover the whole; the last may be smaller."""
    return -(-whole // size)


def reads_by_tiles(product: Product, rows: int, columns: int) -> Reads:
    """What C's tiles of rows × columns read: each needs its rows of A and its columns of B, all K of them. n³/columns + n³/rows for a square."""
    return Reads(product.M * product.K * parts(product.N, columns), product.K * product.N * parts(product.M, rows))


def registers(rows: int, columns: int, depth: int) -> int:
    """Numbers held for one step of a tile: a part of A, a part of B, and of C. v1·v3 + v2·v3 + v1·v2."""
    return rows * depth + columns * depth + rows * columns


def reads_by_strips(product: Product, rows: int) -> Reads:
    """From main memory to the cache, where rows of A stay while all of B passes by: A once, and B once for each strip. n² + n³/rows for a square."""
    return Reads(product.M * product.K, product.K * product.N * parts(product.M, rows))


def strips(product: Product, rows: int, columns: int) -> int:
    """Numbers that have to fit into the cache: strips of A and of B over the whole depth. b1·n + b2·n."""
    return (rows + columns) * product.K


class OnGpu(NamedTuple):
    """One version of a product on a GPU: numbers read from global and from shared memory, and numbers that one thread holds."""

    name: str
    held: str
    of_global: int
    of_shared: int
    each: int


def on_gpu(n: int, tile: int, block: int) -> list[OnGpu]:
    """The four versions of the lecture for n × n: `tile` numbers a side for one thread, `block` a side for one block of threads."""
    product = Product(n, n, n)
    return [
        OnGpu("one number for each thread", "$1$", reads_by_tiles(product, 1, 1).both, 0, 1),
        OnGpu("a tile, a row and a column at a time", "$V^2 + 2N$", reads_by_tiles(product, tile, 1).both, 0, tile**2 + 2 * n),
        OnGpu("a tile, all of it at each step", "$V^2 + 2V$", reads_by_tiles(product, tile, tile).both, 0, tile**2 + 2 * tile),
        OnGpu(
            "the block shares its strips", "$V^2 + 2V$", reads_by_tiles(product, block, block).both,
            reads_by_tiles(product, tile, tile).both, tile**2 + 2 * tile,
        ),
    ]  # fmt: skip


class Window(NamedTuple):
    """Reads of one block that sums windows: each thread for itself, or once for all into shared memory."""

    alone: int
    shared: int


def window_reads(window: int, threads: int) -> Window:
    """Every thread reads its window; together they need no more than the block's numbers and the edge."""
    return Window(window * threads, threads + window - 1)
