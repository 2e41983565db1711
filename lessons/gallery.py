"""Experiments worth opening, beside the lessons': a sentence, the words, and the page that shows best what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lessons.lesson import Lesson

Shown = Literal["start", "optimize", "memory"]
TELLING = ("change", "kernel", "memory", "treemap", "graph")  # pictures of a lesson's screens, the most telling first
SMALL = "layers=1&seq=16&width=64&heads=2&vocab=256"


@dataclass(frozen=True)
class Entry:
    """One card.

    Attributes:
        words: the experiment.
        shown: the page that opens.
        lesson, screen: of a lesson instead: its name, and the screen from 0.
    """

    title: str
    summary: str
    words: str
    shown: Shown = "optimize"
    lesson: str = ""
    screen: int = 0


ENTRIES = (
    Entry(
        "Forward, loss, backward", "A training step of a small network as one graph: what autodiff adds to it.", "model=zoo/mlp&mode=training", "start"
    ),
    Entry(
        "Attention becomes one kernel", "Scores, mask, softmax and weighted sum, written out by hand, found and replaced.",
        "model=zoo/attention&mode=training&seq=64&width=32&heads=2&pipeline=fuse-attention",
    ),
    Entry(
        "Loops that go over the same elements", "The same block, fused operator by operator, with the C++ that runs.",
        "model=zoo/attention&mode=training&seq=16&width=32&heads=2&pipeline=fuse-loops",
    ),
    Entry(
        "A GPT-2 block, tidied", "GELU and attention become kernels of the library; dead code goes.",
        f"model=zoo/gpt2&{SMALL}&pipeline=fuse-gelu,fuse-attention,remove-dead-code",
    ),
    Entry(
        "A Llama block, tidied", "RMSNorm, rotary positions and SwiGLU become a few kernels.",
        f"model=zoo/llama&{SMALL}&kv_heads=2&pipeline=fuse-rms-norm,fuse-rotary-embedding,fuse-swiglu",
    ),
    Entry(
        "Batch norm moves into the weights", "For inference, every norm of a ResNet is folded into the convolution before it.",
        "model=zoo/resnet18&batch=2&image=32&pipeline=fold-batch-norm,fuse-convolution-epilogue",
    ),
    Entry("Long skips", "A U-Net holds its early activations until the end; its graph shows why.", "model=zoo/unet&image=32&width=8&depth=2", "start"),
    Entry(
        "What a U-Net saves for backward", "Memory over time, and what forgetting and recomputing takes off the peak.",
        "model=zoo/unet&mode=training&image=32&width=8&depth=2&pipeline=recompute-to-budget(budget=0.7)", "memory",
    ),
    Entry("The same weights at every step", "A recurrent network, unrolled: long, narrow, and full of small kernels.", "model=zoo/lstm&pipeline=fuse-loops"),
    Entry(
        "Experts at work", "All experts run on all tokens and gates choose; grouped, each runs on its own tokens.",
        "model=zoo/moe&pipeline=group-experts",
    ),
    Entry(
        "Worse first, then better", "A step that makes the graph slower opens the way to one that makes it faster.",
        "model=zoo/branches&pipeline=search-substitutions(depth=4,width=4)",
    ),
    Entry(
        "The optimizer in the graph", "AdamW as operators; updating in place needs no second copy of its state.",
        "model=zoo/mlp&mode=training&update=adamw&depth=2&pipeline=update-in-place", "memory",
    ),
    Entry(
        "One token at a time", "A language model that decodes: matrices times single rows, bound by memory.",
        "model=hf/gpt2&mode=decode&layers=1&seq=64", "start",
    ),
)  # fmt: skip


def of_lesson(lesson: Lesson) -> Entry | None:
    """The lesson's most telling experiment; None where all that it shows is computed from formulas."""
    shown = [(number, screen) for number, screen in enumerate(lesson.screens) if screen.words]
    if not shown:
        return None
    number, screen = min(shown, key=lambda one: TELLING.index(one[1].picture) if one[1].picture in TELLING else len(TELLING))
    return Entry(f"{lesson.number}. {lesson.title}", lesson.summary, screen.words, lesson=lesson.name, screen=number)
