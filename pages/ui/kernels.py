"""A kernel beside the nodes that it replaced: its launches, and its code with every line linked to the nodes that it computes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import streamlit as st

from graphs.gpus import GPUS
from graphs.record import KernelRecord, LineLink, NodeRecord
from jobs.record import Kernels, KernelsResult
from pages.ui import show, work
from pages.ui.graph_view import kernel_view, payload_of
from pages.ui.graph_view.drawing import SHORT_DTYPES, shape_text, short_target

PREFIX = "kernel."
HEIGHT = 560
HERE = ""
NEST = "for(int64_t x0="  # how the outermost loop of a nest begins in Inductor's C++


def is_kernel(node: NodeRecord | None) -> bool:
    """Is the node a kernel, made of several others?"""
    return node is not None and node.target.startswith(PREFIX)


def panel(words: str, node: str, device: str) -> None:
    """A kernel's body and code. Asks the worker; ends the page's part while it waits.

    Args:
        words: of the pipeline up to the graph that the node is in.
        device: where that graph is, such as CPU.
    """
    gpu = st.segmented_control(
        "Code for",
        [HERE, *GPUS],
        default=HERE,
        required=True,
        format_func=lambda name: GPUS[name].title if name else f"{device} (runs here)",
        key="kernel device",
        help="What Inductor generates from the same nodes for another device. Only the code of this machine's device is compiled, verified and measured.",
    )
    found = work.answer(Kernels(words, (node,), gpu or HERE), f"kernel {node} {gpu}", KernelsResult)
    of_kernel(found.kernels[0])


def of_kernel(kernel: KernelRecord, with_loops: bool = True) -> None:
    """Launches and what is counted, the code, Inductor's loops unless they stand elsewhere, and the function that calls it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{show.plural(len(computing(kernel)), 'operator')}, {show.plural(kernel.launches, 'launch')}**")
        if kernel.described:
            st.badge(f"generated for {kernel.device}, not run here", icon=":material/description:", color="orange")
        else:
            st.badge(f"compiled and run on {kernel.device}", icon=":material/memory:", color="green")
    for line in counted(kernel):
        st.caption(line)
    if not kernel.exact:
        st.caption(":material/link_off: Single lines cannot be linked in this kernel; a node lights the whole loop that computes it.")
    kernel_view(view_data(kernel), f"kernel view {kernel.node}", HEIGHT)
    if with_loops and any(kernel.loops):
        with st.expander("Inductor's loops, before they become code"):
            st.code("\n\n".join(text for text in kernel.loops if text), language="python")
    if kernel.caller:
        with st.expander("The function that calls it"):
            st.code(kernel.caller, language="python")


def counted(kernel: KernelRecord) -> list[str]:
    """Where the number of launches comes from, one line for each launch where there are several."""
    unit = "every loop nest that Inductor schedules is one launch" if kernel.language == "cpp" else "every Triton kernel is one launch"
    made = f"Counted from what Inductor generates for {kernel.device}: {unit}, and every call of a library."
    written = kernel.source.count(NEST) if kernel.language == "cpp" else 0
    if written > kernel.launches:
        made += f" The code writes that as {written} loops, one after another: Inductor found no outer loop for all of them, so each reads memory anew."
    if kernel.launches == 1:
        return [made]
    return [made, *(f"Launch {number}: {_nest_text(nest.nodes, nest.library)}" for number, nest in enumerate(kernel.nests, 1))]


def _nest_text(nodes: Sequence[str], library: str) -> str:
    listed = ", ".join(f"`{name}`" for name in nodes[:8]) + (f" and {len(nodes) - 8} more" if len(nodes) > 8 else "")
    return f"{listed}, a call of a library" if library else listed


def computing(kernel: KernelRecord) -> list[NodeRecord]:
    """The body's operators that are no views, in order."""
    return [node for node in kernel.body.nodes if node.op == "call_function" and not is_view(node)]


def is_view(node: NodeRecord) -> bool:
    return node.cost.known and node.cost.launches == 0


def view_data(kernel: KernelRecord) -> dict[str, Any]:
    """What the browser gets."""
    links = {link.node: link for link in kernel.links}
    tones = {node.name: tone for tone, node in enumerate(computing(kernel))}
    nodes = [
        {
            "name": node.name,
            "what": _what(node),
            "where": where(node, links.get(node.name)),
            "says": f"{node.target}, {_value_text(node)}; {where(node, links.get(node.name))}",
            "tone": tones.get(node.name, -1),
        }
        for node in kernel.body.nodes
        if node.op == "call_function"
    ]
    body = payload_of([kernel.body])
    language = "C++" if kernel.language == "cpp" else "Triton"
    return {
        "height": HEIGHT,
        "digest": f"{body['digest']} {hash((kernel.source, kernel.device))}",
        "title": f"{language} for {kernel.device}" + (", not run here" if kernel.described else ""),
        "language": kernel.language,
        "indent": 4 if kernel.language == "cpp" else 1,
        "source": kernel.source or "# No code of its own: only calls of libraries.",
        "links": [{"node": link.node, "lines": list(link.lines), "whole_loop": link.whole_loop} for link in kernel.links],
        "nodes": nodes,
        "body": body,
        "hint": "Point at a node to see its lines, or at a line to see its node; a click keeps it. Keys: Tab through nodes, arrows through lines.",
    }


def _what(node: NodeRecord) -> str:
    """Operator and value; a node that is called as its operator needs only the value."""
    operator = short_target(node.target)
    return _value_text(node) if node.name.rstrip("_0123456789") == operator.rstrip("_0123456789") else f"{operator} {_value_text(node)}"


def _value_text(node: NodeRecord) -> str:
    if node.shape is None:
        return "several outputs"
    return f"{shape_text(node)} {SHORT_DTYPES.get(node.dtype, node.dtype)}"


def where(node: NodeRecord, link: LineLink | None) -> str:
    """In words, where a node is in the code."""
    if link is None:
        return "a view, no code of its own" if is_view(node) else "not in the code: nothing is left to compute, or a library computes it"
    if link.whole_loop and is_view(node):
        return f"a view: only in the addresses of lines {spans(link.lines)}"
    if link.whole_loop:
        return f"somewhere in the loop of lines {spans(link.lines)}"
    return f"line{'s' if len(link.lines) > 1 else ''} {spans(link.lines)}"


def spans(lines: Iterable[int]) -> str:
    """`3, 5–8`."""
    found: list[list[int]] = []
    for line in lines:
        if found and line == found[-1][1] + 1:
            found[-1][1] = line
        else:
            found.append([line, line])
    return ", ".join(str(first) if first == last else f"{first}–{last}" for first, last in found)
