"""Models that tests save in other programs' formats. Each stands on lines of its own, which must come back."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn


class Perceptron(nn.Module):
    """Linear layers and a layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.norm(self.fc(x)))
        return self.out(hidden)


class Block(nn.Module):
    """A convolution with batch norm and a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)) + x)


class Residual(nn.Module):
    """A small ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layers = nn.Conv2d(3, 8, 3, padding=1), nn.Sequential(Block(8), Block(8))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = self.layers(self.stem(x))
        return self.fc(self.pool(features).flatten(1))


class Recurrent(nn.Module):
    """An LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0])


class Tied(nn.Module):
    """An embedding whose weight is also that of the head; positions from the length of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 8), nn.Embedding(16, 8)
        self.head = nn.Linear(8, 50, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        return self.head(hidden)


class Counting(nn.Module):
    """A buffer that changes, a region without gradients, and a branch on a value."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("count").add_(1)
        with torch.no_grad():
            fixed = self.a(x)
        return torch.cond(x.sum() > 0, lambda t: self.a(t), lambda t: t * 2, (x,)) + fixed


class Looping(nn.Module):
    """Loops whose lengths come from shapes and from an argument, and an argument that may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.rows = nn.Linear(8, 8), nn.ModuleList([nn.Linear(8, 8) for _ in range(2)])

    def forward(self, x: Tensor, n: int = 2):  # noqa: ANN201  # TorchScript infers it
        for i in range(x.shape[0] + n):
            x = torch.relu(self.a(x)) + i
        found = [row(x) for row in self.rows]
        return found[0] + found[1]


class Deciding(nn.Module):
    """A decision on a value, in TorchScript."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        if bool(x.sum() > 0):  # noqa: SIM108  # an expression would be another statement of TorchScript
            y = self.a(x)
        else:
            y = x * 2
        return y


class Remembering(nn.Module):
    """What torch's converter of TorchScript cannot take: an attribute that is set within a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] > 1:
            self.seen += 1
        return self.a(x) * self.seen


def small_gpt2() -> nn.Module:
    """GPT-2 of transformers with two layers and attention written out, its mask given."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config: Any = GPT2Config(
        n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=32, use_cache=False, attn_implementation="eager",
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lm = GPT2LMHeadModel(config)

        def forward(self, input_ids: Tensor) -> Tensor:
            length = input_ids.shape[1]
            mask = torch.full((length, length), -1e9).triu(1)[None, None]
            return self.lm(input_ids, attention_mask=mask, use_cache=False).logits

    return Logits()


def archive(model: nn.Module, args: tuple[Any, ...], decomposed: bool = False, **options: Any) -> bytes:
    program = torch.export.export(model, args, **options)
    file = io.BytesIO()
    torch.export.save(program.run_decompositions() if decomposed else program, file)
    return file.getvalue()


def scripted(model: nn.Module) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(model), file)
    return file.getvalue()


def traced(model: nn.Module, args: tuple[Any, ...]) -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, args), file)
    return file.getvalue()


def value(name: str, shape: list[Any], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def constant(name: str, number: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(number), name)


def onnx_model(nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, [value("out", ["p", "q"])], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    return model
