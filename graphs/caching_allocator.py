"""What PyTorch's caching allocator on CUDA would make of a graph's lifetimes: blocks, segments, and how much is reserved. Predicted.

The rules are those of `c10/cuda/CUDACachingAllocator.cpp` (`round_size`, `get_pool`, `get_allocation_size`, `get_free_block`,
`should_split`, `free_block`, `try_merge_blocks`), with the constants of `c10/core/AllocatorConfig.h` and no settings changed
(PYTORCH_CUDA_ALLOC_CONF unset), for one stream that starts with an empty cache:

- A request is rounded up to 512 bytes. Up to 1 MiB it goes to the pool of small blocks, above to that of large ones.
- The smallest free block of the pool that is large enough is taken; of equal ones that at the lowest address.
- If there is none, a segment is asked of the driver: 2 MiB for a small block, 20 MiB for one below 10 MiB, else the size rounded up to 2 MiB.
- What is left of a block becomes a free block of its own if it is 512 bytes or more (small), or more than 1 MiB (large); otherwise it is
  given away with it.
- A freed block joins free neighbours of its segment. Segments go back to the driver only when memory runs out, which is not simulated.

Workspaces of libraries are not seen, and a segment's address is its number, where the driver decides in truth.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import msgspec

from graphs.memory import Holding

BLOCK = 512
SMALL_SIZE = 1 << 20
SMALL_SEGMENT, LARGE_SEGMENT = 2 << 20, 20 << 20
LARGE_SIZE, LARGE_ROUND = 10 << 20, 2 << 20


class BlockRecord(msgspec.Struct, frozen=True):
    """A part of a segment: from byte `offset` on, `bytes` bytes. `name` is the node whose memory it is; empty for a free one."""

    offset: int
    bytes: int
    name: str


class SegmentRecord(msgspec.Struct, frozen=True):
    """Memory that the driver gave in one piece, with its blocks in order of address."""

    bytes: int
    small: bool
    blocks: tuple[BlockRecord, ...]


class AllocatorRun(msgspec.Struct, frozen=True):
    """A run of the graph under the allocator.

    Attributes:
        allocated, reserved: bytes in blocks that are in use, and in segments, while each node runs.
        allocated_peak, reserved_peak: the most of both, as `torch.cuda.max_memory_allocated` and `max_memory_reserved` count.
        peak_position: where most is allocated for the first time.
        granted: bytes of the block that each holding gets, in their order.
        segments: as they are at that position.
    """

    allocated: tuple[int, ...]
    reserved: tuple[int, ...]
    allocated_peak: int
    reserved_peak: int
    peak_position: int
    granted: tuple[int, ...]
    segments: tuple[SegmentRecord, ...]


def rounded(size: int) -> int:
    """Bytes of the block that a request needs."""
    return max(BLOCK, -(-size // BLOCK) * BLOCK)


def segment_bytes(size: int) -> int:
    """Bytes that are asked of the driver for a block of that (rounded) size."""
    if size <= SMALL_SIZE:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < LARGE_SIZE else -(-size // LARGE_ROUND) * LARGE_ROUND


def simulate(holdings: Sequence[Holding], positions: int) -> AllocatorRun:
    """Allocates and frees in the order of the graph: what a node makes comes before what it is the last to read goes."""
    first = _Run(holdings, positions, stop=positions - 1)
    peak = max(first.allocated, default=0)
    at = first.allocated.index(peak) if positions else 0
    segments = _Run(holdings, positions, stop=at).cache.records()
    reserved = max(first.reserved, default=0)
    return AllocatorRun(tuple(first.allocated), tuple(first.reserved), peak, reserved, at, tuple(first.granted), segments)


class _Run:
    """One run up to and with the node at position `stop`, whose inputs are not freed yet."""

    def __init__(self, holdings: Sequence[Holding], positions: int, stop: int) -> None:
        self.cache = _Cache()
        self.allocated: list[int] = []
        self.reserved: list[int] = []
        self.granted = [0] * len(holdings)
        starts: list[list[int]] = [[] for _ in range(positions)]
        ends: list[list[_Block]] = [[] for _ in range(positions)]
        for number, one in enumerate(holdings):
            starts[one.start].append(number)
        for position in range(stop + 1):
            for number in starts[position]:
                block = self.cache.allocate(holdings[number].bytes, holdings[number].name)
                self.granted[number] = block.size
                ends[holdings[number].end].append(block)
            self.allocated.append(self.cache.allocated)
            self.reserved.append(self.cache.reserved)
            if position < stop:
                for block in ends[position]:
                    self.cache.free(block)


class _Block:
    """A part of a segment, between its neighbours."""

    def __init__(self, segment: int, offset: int, size: int, small: bool) -> None:
        self.segment, self.offset, self.size, self.small = segment, offset, size, small
        self.name, self.free = "", False
        self.left: _Block | None = None
        self.right: _Block | None = None

    @property
    def key(self) -> tuple[int, int, int]:
        """Orders free blocks: the best fit first, then the lowest address."""
        return (self.size, self.segment, self.offset)


class _Cache:
    """The allocator's state: segments, and the free blocks of both pools."""

    def __init__(self) -> None:
        self.segments: list[_Block] = []  # the first block of each
        self.sizes: list[int] = []
        self.pools: dict[bool, list[tuple[tuple[int, int, int], _Block]]] = {True: [], False: []}
        self.allocated = self.reserved = 0

    def allocate(self, asked: int, name: str) -> _Block:
        size = rounded(asked)
        block = self._taken(size) or self._new_segment(size)
        left_over = block.size - size
        if left_over >= BLOCK if block.small else left_over > SMALL_SIZE:
            self._split(block, size)
        block.name, block.free = name, False
        self.allocated += block.size
        return block

    def free(self, block: _Block) -> None:
        self.allocated -= block.size
        block.name = ""
        if block.left and block.left.free:
            self._leave_pool(block.left)
            block = self._joined(block.left, block)
        if block.right and block.right.free:
            self._leave_pool(block.right)
            block = self._joined(block, block.right)
        self._enter_pool(block)

    def records(self) -> tuple[SegmentRecord, ...]:
        found = []
        for size, head in zip(self.sizes, self.segments, strict=True):
            blocks: list[BlockRecord] = []
            block: _Block | None = head
            while block:
                blocks.append(BlockRecord(block.offset, block.size, block.name))
                block = block.right
            found.append(SegmentRecord(size, head.small, tuple(blocks)))
        return tuple(found)

    def _taken(self, size: int) -> _Block | None:
        pool = self.pools[size <= SMALL_SIZE]
        at = bisect_left(pool, (size, -1, -1), key=lambda entry: entry[0])
        return pool.pop(at)[1] if at < len(pool) else None

    def _new_segment(self, size: int) -> _Block:
        bytes_ = segment_bytes(size)
        block = _Block(len(self.segments), 0, bytes_, size <= SMALL_SIZE)
        self.segments.append(block)
        self.sizes.append(bytes_)
        self.reserved += bytes_
        return block

    def _split(self, block: _Block, size: int) -> None:
        """The block keeps the lower `size` bytes; the rest is a free block."""
        rest = _Block(block.segment, block.offset + size, block.size - size, block.small)
        rest.left, rest.right = block, block.right
        if rest.right:
            rest.right.left = rest
        block.right, block.size = rest, size
        self._enter_pool(rest)

    def _joined(self, low: _Block, high: _Block) -> _Block:
        low.size += high.size
        low.right = high.right
        if low.right:
            low.right.left = low
        return low

    def _enter_pool(self, block: _Block) -> None:
        block.free = True
        insort(self.pools[block.small], (block.key, block), key=lambda entry: entry[0])

    def _leave_pool(self, block: _Block) -> None:
        pool = self.pools[block.small]
        del pool[bisect_left(pool, block.key, key=lambda entry: entry[0])]
        block.free = False
