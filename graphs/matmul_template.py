"""A matmul inside of a kernel: Inductor's C++ template for products, with what follows the product computed on each tile.

Inductor has a template that multiplies matrices tile by tile, with micro kernels for AVX2, AVX-512 and AMX, and runs elementwise operators on each
tile before it leaves the cache. `torch.compile` uses it for frozen weights only, which it reorders when it compiles. Here weights are
operands like others, so three things differ:

- the columns of the second matrix that one tile needs, a *panel*, are put side by side inside of the kernel, for a block of rows at a time. So the
  matrix may have any strides and any number of columns, and no second kernel reorders it. (Where Inductor reads a matrix of a batch in place, it takes the same
  columns for every tile of a block; with a panel for each tile that cannot happen.)
- nothing is timed while code is generated: the template is the only choice;
- `addmm` and `baddbmm` are a product and a sum, which then is a part of what follows the product.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch._inductor import ir, lowering
from torch._inductor.codegen import cpp_bmm_template, cpp_gemm_template
from torch._inductor.codegen.cpp_bmm_template import CppBmmTemplate
from torch._inductor.codegen.cpp_gemm_template import CppGemmTemplate
from torch._inductor.codegen.cpp_micro_gemm import CppMicroGemm, CppMicroGemmFP32Vec, LayoutType, create_micro_gemm
from torch._inductor.codegen.cpp_utils import get_gemm_template_output_and_compute_dtype
from torch._inductor.kernel.mm_common import mm_args
from torch._inductor.utils import IndentedBuffer, parallel_num_threads
from torch._inductor.virtualized import V

from graphs.products import BATCHED

aten = torch.ops.aten

PANEL = r"""
#include <ATen/cpu/vec/vec.h>
#include <cstring>

// Some columns of a matrix's rows, side by side, in groups of `deep` rows, as the micro kernel takes them. What is beyond the last column goes nowhere.
template <int64_t wide, int64_t deep, typename T>
inline void copy_panel(const T* from, T* to, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step) {
    constexpr int64_t tile = 16;
    if (deep == 1 && column_step == 1) {
        for (int64_t row = 0; row < rows; ++row) std::memcpy(to + row * wide, from + row * row_step, columns * sizeof(T));
    } else if (deep == 1 && row_step == 1) {
        for (int64_t row = 0; row < rows; row += tile) {
            for (int64_t column = 0; column < columns; column += tile) {
                at::vec::transpose_mxn<T>(from + row + column * column_step, column_step, to + row * wide + column, wide,
                                          std::min(tile, columns - column), std::min(tile, rows - row));
            }
        }
    } else if (deep == 2 && row_step == 1 && column_step % 2 == 0) {  // pairs of rows are one number of 32 bits
        copy_panel<wide, 1>(reinterpret_cast<const float*>(from), reinterpret_cast<float*>(to), rows / 2, columns, 1, column_step / 2);
    } else {
        for (int64_t row = 0; row < rows; row += deep) {
            for (int64_t column = 0; column < columns; ++column) {
                for (int64_t part = 0; part < deep; ++part) {
                    to[row * wide + column * deep + part] = from[(row + part) * row_step + column * column_step];
                }
            }
        }
    }
}

// Of 16 bits, two rows at once: by AVX-512 where whole panels lie side by side.
template <int64_t wide, typename T>
inline void copy_pairs(const T* from, T* to, int64_t rows, int64_t columns, int64_t row_step, int64_t column_step) {
    if (columns == wide && column_step == 1) at::vec::pack_vnni2(from, to, row_step, rows, wide);
    else copy_panel<wide, 2>(from, to, rows, columns, row_step, column_step);
}
"""
# What is put into Inductor's text, and where.
BEFORE_THE_LOOPS = "        for (int64_t mc_block_id = 0;"
ITS_TILES = (
    "{%- if template.should_block_weights and not is_woq_int4 %}\n{%- set tile_W_3d",
    "                        if (kc == k_block_start) {",
)
ALLOCATION = '        {{ kernel.define_buffer("panel", ["Kc_blocks*Kr", "Nr"], W.get_dtype()) }}\n'
TILE = r"""
{%- set tile_W = kernel.slice_nd(kernel.local_buffers["panel"], [("0", "k_end - k_start"), ()]) %}
                        {{ template.copies(micro_gemm) }}(
                            &({{ kernel.index(W, ["k_start", "nci*Nr"]) }}), panel, k_end - k_start,
                            std::min(Nr, N - nci*Nr), {{ kernel.stride(W, 0) }}, {{ kernel.stride(W, 1) }});
"""

# Loops of the micro kernel. As Inductor writes them, with functions that call one another for each place, g++ stores every sum to memory in every round;
# and a sum goes on from the block of rows before, so that the error grows with all of them.
FROM_ZERO = "    c10::ForcedUnroll<ROWS * COLS>{}(loadc);"
ROUND = "        c10::ForcedUnroll<ROWS * COLS>{}(compute, k);"
STORED = "    c10::ForcedUnroll<ROWS * COLS>{}(storec);"
ITS_LOOPS = {
    FROM_ZERO: r"""
    #pragma GCC unroll 64
    for (int i = 0; i < ROWS * COLS; ++i) vc[i] = Vectorized(0.0f);""",
    ROUND: r"""
        #pragma GCC unroll 16
        for (int col = 0; col < COLS; ++col) {
    {%- if input2_dtype in [torch.bfloat16, torch.float16] %}
            vb[col] = at::vec::convert<{{compute_t}}>(VectorizedIn::loadu(B + k * ldb + col * VLEN, VLEN));
    {%- else %}
            vb[col] = Vectorized::loadu(B + k * ldb + col * VLEN);
    {%- endif %}
        }
        #pragma GCC unroll 16
        for (int row = 0; row < ROWS; ++row) {
            va = Vectorized(static_cast<{{compute_t}}>(A[row * lda + k]));
            #pragma GCC unroll 16
            for (int col = 0; col < COLS; ++col) vc[row * COLS + col] = at::vec::fmadd(va, vb[col], vc[row * COLS + col]);
        }""",
    STORED: rf"""
    if constexpr (accum) {{
        #pragma GCC unroll 64
        for (int i = 0; i < ROWS * COLS; ++i) vc[i] = vc[i] + Vectorized::loadu(C + i / COLS * ldc + i % COLS * VLEN);
    }}
{STORED}""",
}


def _with_loops(text: str) -> str:
    """Inductor's micro kernel with these loops, where the second matrix is not transposed."""
    for place, loop in ITS_LOOPS.items():
        text = text.replace(place, loop.lstrip("\n"), 1)
    return text


def _with_panels(text: str) -> str:
    """Inductor's template, reading the second matrix through panels."""
    start, end = (text.index(place) for place in ITS_TILES)
    text = f"{text[:start]}{TILE.lstrip()}{text[end:]}"
    return text.replace(BEFORE_THE_LOOPS, ALLOCATION + BEFORE_THE_LOOPS, 1)


TEMPLATE = _with_panels(cpp_gemm_template.GEMM_TEMPLATE)
MICRO_KERNEL = _with_loops(CppMicroGemmFP32Vec.TEMPLATE_KERNEL)


class _Panels(CppGemmTemplate):
    """One product of two matrices.

    Attributes:
        body_node: which node of the body it is.
    """

    body_node = ""

    def render(self, *args: Any, **kwargs: Any) -> str:  # type: ignore[override]
        with (
            patch.object(cpp_gemm_template, "GEMM_TEMPLATE", TEMPLATE),
            patch.object(cpp_bmm_template, "GEMM_TEMPLATE", TEMPLATE),
            patch.object(CppMicroGemmFP32Vec, "TEMPLATE_KERNEL", MICRO_KERNEL),
        ):
            return super().render(*args, **kwargs)

    def get_options(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        options = super().get_options(*args, **kwargs)
        options["micro_gemm"].use_local_vnni_blocking(False)  # panels come in its order
        options["micro_gemm"].body_node = self.body_node
        return options

    def header(self) -> IndentedBuffer:
        found = super().header()
        found.splice(PANEL)
        return found

    @staticmethod
    def copies(micro_gemm: CppMicroGemm) -> str:
        """What copies a panel: a micro kernel takes one row of the second matrix at once, or two where that is a register's layout."""
        return "copy_panel<Nr, 1>" if micro_gemm.get_b_layout() == LayoutType.NORMAL else "copy_pairs<Nr>"


class _BatchedPanels(_Panels, CppBmmTemplate):
    """A product of each two matrices of two batches."""


def _product(left: ir.TensorBox, right: ir.TensorBox) -> ir.TensorBox:
    """Lowers `mm` and `bmm` to the template."""
    rows, columns, inner, layout, left, right = mm_args(left, right)
    output_dtype, compute_dtype = get_gemm_template_output_and_compute_dtype(left.get_dtype())
    threads = parallel_num_threads()
    micro_gemm = create_micro_gemm(
        "micro_gemm",
        rows,
        columns,
        inner,
        left.get_dtype(),
        right.get_dtype(),
        output_dtype,
        compute_dtype,
        num_threads=threads,
        use_ref=False,
    )
    if micro_gemm is None:
        raise NotImplementedError(f"no micro kernel for {left.get_dtype()} on this processor")
    operands = [_in_memory(left), _in_memory(right)]
    if operands[0].get_stride()[-1] != 1:
        raise NotImplementedError("the elements of the first matrix's rows are not side by side")
    made = _BatchedPanels if len(layout.size) == BATCHED else _Panels
    name = type(micro_gemm).__name__
    template = made(operands, layout, threads, micro_gemm.register_blocking, should_block_weights=False, name=name)
    template.body_node = next(iter(V.graph.current_node.meta.get("body_nodes", ())), "")
    return template.generate().output_node()


def _in_memory(operand: ir.TensorBox) -> Any:
    """The operand as a buffer or a view of one, its strides fixed. A view from the middle is copied, since the template adds its offset twice."""
    operand.freeze_layout()
    if operand.get_layout().offset:
        operand = ir.ExternKernel.copy_input(operand)
    return ir.InputsKernel.unwrap_storage_for_input(operand)


@contextlib.contextmanager
def templates() -> Iterator[None]:
    """Makes Inductor lower matmuls to the template."""
    own = {aten.mm.default: _product, aten.bmm.default: _product}
    with patch.dict(lowering.lowerings, own):
        yield
