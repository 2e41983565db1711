"""Switch Transformers, an encoder and decoder with a mixture of experts in every second block, with shapes that do not depend on values.

The architecture is that of the paper (Fedus et al., 2021) as its configuration files describe it: T5's attention (no scaling, a bias by relative position that all layers
share), root-mean-square norms without means, and in every second block a router that sends each token to one expert, which takes no more than its capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Norm(nn.Module):
    """x / sqrt(mean(x²)) · weight, operator by operator."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        return self.weight * (x * torch.rsqrt(variance + self.eps))


class Attention(nn.Module):
    """softmax(q·kᵀ + bias)·v without scaling."""

    def __init__(self, width: int, heads: int, each: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.each, self.dropout = heads, each, nn.Dropout(dropout)
        self.q, self.k, self.v = (nn.Linear(width, heads * each, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * each, width, bias=False)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.heads, self.each).transpose(1, 2)

    def forward(self, x: Tensor, source: Tensor, bias: Tensor) -> Tensor:
        scores = torch.matmul(self._split(self.q(x)), self._split(self.k(source)).transpose(3, 2))
        weights = self.dropout(torch.softmax(scores + bias, dim=-1))
        mixed = torch.matmul(weights, self._split(self.v(source))).transpose(1, 2).contiguous()
        return self.o(mixed.view(x.shape[0], -1, self.heads * self.each))


class Dense(nn.Module):
    """Two products with ReLU between."""

    def __init__(self, width: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.wi, self.wo = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.wo(self.dropout(torch.relu(self.wi(x))))


class Experts(nn.Module):
    """Each expert takes `capacity` tokens of every sequence, and their results go back to their places."""

    def __init__(self, width: int, inner: int, dropout: float, count: int, capacity: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(Dense(width, inner, dropout) for _ in range(count))
        self.capacity = capacity

    def forward(self, x: Tensor) -> Tensor:
        share = torch.softmax(self.router(x), dim=-1).amax(-1, keepdim=True)
        together = x.clone().view(-1, x.shape[-1])
        for number, expert in enumerate(self.experts):
            rows = torch.arange(x.shape[0] * self.capacity, device=x.device) + number
            together = together.index_put((rows,), expert(together[rows]))
        return share * together.view_as(x)


class Block(nn.Module):
    """Attention to itself, in a decoder to the encoder's result, and the dense or sparse part, each with its norm and residual."""

    def __init__(self, fields: Mapping[str, Any], decoder: bool, sparse: bool) -> None:
        super().__init__()
        width, drop, eps = fields["d_model"], fields["dropout_rate"], fields["layer_norm_epsilon"]
        self.itself = Attention(width, fields["num_heads"], fields["d_kv"], drop)
        self.other = Attention(width, fields["num_heads"], fields["d_kv"], drop) if decoder else None
        inner = fields["d_ff"]
        self.mlp = Experts(width, inner, drop, fields["num_experts"], fields["expert_capacity"]) if sparse else Dense(width, inner, drop)
        self.norms = nn.ModuleList(Norm(width, eps) for _ in range(3))
        self.dropout = nn.Dropout(drop)

    def forward(self, x: Tensor, encoded: Tensor | None, bias: Tensor, none: Tensor) -> Tensor:
        normed = self.norms[0](x)
        x = x + self.dropout(self.itself(normed, normed, bias))
        if self.other is not None and encoded is not None:
            x = x + self.dropout(self.other(self.norms[1](x), encoded, none))
        return x + self.dropout(self.mlp(self.norms[2](x)))


class Stack(nn.Module):
    """Encoder or decoder."""

    def __init__(self, fields: Mapping[str, Any], decoder: bool) -> None:
        super().__init__()
        every = fields["decoder_sparse_step" if decoder else "encoder_sparse_step"]
        layers = fields["num_decoder_layers" if decoder else "num_layers"]
        self.blocks = nn.ModuleList(Block(fields, decoder, number % every == 1) for number in range(layers))
        self.norm = Norm(fields["d_model"], fields["layer_norm_epsilon"])
        self.positions = nn.Embedding(fields["relative_attention_num_buckets"], fields["num_heads"])
        self.buckets, self.decoder = fields["relative_attention_num_buckets"], decoder

    def forward(self, x: Tensor, encoded: Tensor | None = None) -> Tensor:
        place = torch.arange(x.shape[1], device=x.device)
        distance = (place[None] - place[:, None]).clamp(0, self.buckets - 1)
        none = torch.zeros(1, 1, 1, x.shape[1], device=x.device)
        bias = self.positions(distance).permute(2, 0, 1)[None] + none
        for block in self.blocks:
            x = block(x, encoded, bias, none)
        return self.norm(x)


class SwitchModel(nn.Module):
    """Tokens to logits; encoder and decoder read the same tokens."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        super().__init__()
        self.shared = nn.Embedding(fields["vocab_size"], fields["d_model"])
        self.encoder, self.decoder = Stack(fields, False), Stack(fields, True)
        self.scale = fields["d_model"] ** -0.5

    def forward(self, tokens: Tensor) -> Tensor:
        decoded = self.decoder(self.shared(tokens), self.encoder(self.shared(tokens)))
        return torch.nn.functional.linear(decoded * self.scale, self.shared.weight)
