"""Attention in the many ways people write it, each as a function of query, key and value."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphs.sources.base import ModelSource, default_dtype

Function = Callable[..., Any]
BATCH, HEADS, ROWS, WIDTH = 2, 3, 5, 4
FIRST = (BATCH, HEADS, ROWS, WIDTH)  # heads before rows
LAST = (BATCH, ROWS, HEADS, WIDTH)  # rows before heads, as projections give them


class Form(nn.Module):
    """The function on query, key and value, each times a vector of parameters, so that training needs all three gradients."""

    def __init__(self, function: Function, widths: tuple[int, int, int]) -> None:
        super().__init__()
        self.function = function
        self.scales = nn.ParameterList(nn.Parameter(torch.randn(width)) for width in widths)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *others: Tensor) -> Any:
        given = [one * scale for one, scale in zip((query, key, value), self.scales, strict=True)]
        return self.function(*given, *others)


class Learned(Form):
    """The same with an added mask of parameters."""

    def __init__(self, function: Function, widths: tuple[int, int, int], mask: tuple[int, ...]) -> None:
        super().__init__(function, widths)
        self.bias = nn.Parameter(torch.randn(mask))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, *others: Tensor) -> Any:
        return super().forward(query, key, value, self.bias, *others)


@dataclass(frozen=True)
class Case:
    """A function and the shapes that it is given; `others` makes its further arguments, `learned` is the shape of a mask of parameters."""

    function: Function
    query: tuple[int, ...] = FIRST
    key: tuple[int, ...] = ()
    value: tuple[int, ...] = ()
    others: Callable[[], tuple[Tensor, ...]] = tuple
    learned: tuple[int, ...] = ()

    def source(self, dtype: torch.dtype = torch.float32) -> ModelSource:
        shapes = (self.query, self.key or self.query, self.value or self.key or self.query)
        widths = (shapes[0][-1], shapes[1][-1], shapes[2][-1])

        def build() -> nn.Module:
            with default_dtype(dtype):
                return Learned(self.function, widths, self.learned) if self.learned else Form(self.function, widths)

        def inputs() -> tuple[Tensor, ...]:
            others = tuple(other.to(dtype) if other.is_floating_point() else other for other in self.others())
            return (*(torch.randn(*one, dtype=dtype) for one in shapes), *others)

        return ModelSource(getattr(self.function, "__name__", "form"), build, inputs, None, (__file__,))


def plain(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.transpose(-2, -1)).softmax(-1) @ value


def scores_divided(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.softmax(query @ key.mT / math.sqrt(query.shape[-1]), dim=-1).matmul(value)


def scores_multiplied(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.matmul(torch.softmax(torch.matmul(query, key.permute(0, 1, 3, 2)) * 0.3, 3), value)


def query_divided(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query.div(2.5) @ key.mT).softmax(-1) @ value


def query_and_key_scaled(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    root = query.shape[-1] ** -0.25
    return ((query * root) @ (key.mT * root)).softmax(-1) @ value


def scaled_by_a_tensor(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.mT
    return scores.div(torch.full([], 1.7, dtype=scores.dtype)).softmax(-1) @ value


def mask_added(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return (query @ key.mT / 2 + mask).softmax(-1) @ value


def mask_added_on_the_left(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return (mask + (query @ key.mT).mul(0.5)).softmax(-1) @ value


def mask_subtracted(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return (query @ key.mT - mask).softmax(-1) @ value


def mask_scaled_with_the_scores(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return ((query @ key.mT + mask) * 0.5).softmax(-1) @ value


def two_masks(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, padding: Tensor) -> Tensor:
    return (query @ key.mT / 2 + mask + padding).softmax(-1) @ value


def filled_where_padded(query: Tensor, key: Tensor, value: Tensor, tokens: Tensor) -> Tensor:
    """Heads last, and a padding mask of one number per key, compared, viewed and expanded."""
    query, key, value = (one.permute(0, 2, 1, 3) for one in (query, key, value))
    scores = query @ key.transpose(-2, -1) / 2
    hidden = (tokens == 0).view(tokens.shape[0], 1, 1, tokens.shape[1]).expand_as(scores)
    return scores.masked_fill(hidden, -math.inf).softmax(-1) @ value


def filled_by_a_tensor(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """A causal mask by `where`, with the number to fill in as a tensor."""
    rows = query.shape[-2]
    causal = torch.ones(rows, rows, dtype=torch.bool).tril().view(1, 1, rows, rows)
    scores = query @ key.mT
    low = torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype)
    return torch.where(causal, scores, low).softmax(-1) @ value


def filled_then_added(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    rows = query.shape[-2]
    causal = torch.ones(rows, rows, dtype=torch.bool).tril()
    scores = query @ key.mT / torch.full([], 2.0, dtype=query.dtype)
    low = torch.full([], torch.finfo(scores.dtype).min, dtype=scores.dtype)
    return (torch.where(causal, scores, low) + mask).softmax(-1).type(value.dtype).matmul(value)


def filled_with_a_billion(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    rows = query.shape[-2]
    mask = torch.tril(torch.ones(rows, rows))
    return (query @ key.mT / 2).masked_fill(mask == 0, -1e9).softmax(-1) @ value


def triangle_of_infinities(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    rows = query.shape[-2]
    return (query @ key.mT + torch.full((rows, rows), -math.inf, dtype=query.dtype).triu(1)).softmax(-1) @ value


def sliding_window(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    at = torch.arange(query.shape[-2])
    far = (at[:, None] - at[None]).abs() > 2
    return (query @ key.mT).masked_fill(far, -math.inf).softmax(-1) @ value


def linear_biases(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """ALiBi: scores fall with distance, by a slope for each head."""
    at, heads = torch.arange(query.shape[-2]), query.shape[1]
    slopes = 2.0 ** -torch.arange(1, heads + 1)
    bias = -slopes[:, None, None] * (at[:, None] - at[None]).abs()
    return (query @ key.mT / 2 + bias.to(query.dtype)).softmax(-1) @ value


def heads_last(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (one.permute(0, 2, 1, 3) for one in (query, key, value))
    return (query @ key.mT / 2).softmax(-1).matmul(value).transpose(1, 2).contiguous().flatten(2)


def heads_last_masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    query, key, value = (one.permute(0, 2, 1, 3) for one in (query, key, value))
    return (torch.matmul(query, key.transpose(-2, -1)).div(2) + mask).softmax(dim=-1).matmul(value)


def softmax_in_float(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scores and weights in half precision, the softmax between them in float32."""
    query, key, value = (one.permute(0, 2, 1, 3) for one in (query, key, value))
    scores = (query / 2 @ key.mT).to(torch.float32)
    return scores.softmax(-1).to(query.dtype) @ value


def scores_in_float(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query.float() @ key.float().mT).softmax(-1).to(value.dtype) @ value


def bias_and_keys_returned(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
    """No scale, a position bias, the softmax in float32, and the permuted keys and values given back, as T5 does."""
    query, key, value = (one.permute(0, 2, 1, 3) for one in (query, key, value))
    scores = torch.matmul(query, key.permute(0, 1, 3, 2))
    scores += mask
    return scores.float().softmax(-1).type_as(query).matmul(value), key, value


def without_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(-1), value)


def without_batch(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.T / 2, -1) @ value


def joined_to_three_dimensions(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Batch and heads joined by hand; apart again only where the mask is added, as BART did."""
    batch, heads, rows, width = query.shape
    query, key, value = (one.reshape(batch * heads, -1, width) for one in (query, key, value))
    scores = torch.bmm(query, key.transpose(1, 2)).view(batch, heads, rows, -1) + mask
    weights = functional.softmax(scores.view(batch * heads, rows, -1), -1)
    return torch.bmm(weights, value).view(batch, heads, rows, width)


def baddbmm_with_bias(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """Bloom's way: the bias, the product and both scales in one operator."""
    return torch.baddbmm(bias, query, key.transpose(1, 2), beta=0.5, alpha=0.25).softmax(-1) @ value


def baddbmm_of_nothing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    empty = torch.empty(query.shape[0], query.shape[1], key.shape[1], dtype=query.dtype)
    return torch.baddbmm(empty, query, key.transpose(1, 2), beta=0, alpha=0.25).softmax(-1) @ value


def einsum_heads_first(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = torch.einsum("bhid,bhjd->bhij", query, key).softmax(-1)
    return torch.einsum("bhij,bhjd->bhid", weights, value)


def einsum_heads_last(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = (torch.einsum("bihd,bjhd->bhij", query, key) / 2).softmax(-1)
    return torch.einsum("bhij,bjhd->bihd", weights, value)


def einsum_over_a_middle_dimension(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = torch.einsum("bihd,bjhd->bijh", query, key).softmax(2)
    return torch.einsum("bijh,bjhd->bihd", weights, value)


def keys_before_queries(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Everything transposed: scores [keys, queries], the softmax over the first of them."""
    weights = (key @ query.mT * 0.5).softmax(-2)
    return (value.mT @ weights).mT


def grouped_in_five_dimensions(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Two groups of heads, each with one key and value, as five-dimensional products."""
    batch, heads, rows, width = query.shape
    query = query.view(batch, 2, heads // 2, rows, width)
    weights = (query @ key.unsqueeze(2).mT).softmax(-1)
    return (weights @ value.unsqueeze(2)).reshape(batch, heads, rows, width)


def keys_repeated(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Grouped-query attention as Llama writes it: every key and value repeated for the heads of its group."""

    def repeated(one: Tensor) -> Tensor:
        batch, groups, rows, width = one.shape
        return one[:, :, None].expand(batch, groups, 2, rows, width).reshape(batch, groups * 2, rows, width)

    return (query @ repeated(key).mT * 0.5).softmax(-1) @ repeated(value)


def one_key_for_all_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.mT * 0.5).softmax(-1) @ value


def heads_as_rows(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Multi-query attention with the heads folded into the rows of one product; the mask is added with heads apart."""
    batch, heads, rows, width = query.shape
    scores = torch.bmm(query.reshape(batch, heads * rows, width), key.mT).view(batch, heads, rows, -1) + mask
    weights = scores.softmax(-1).view(batch, heads * rows, -1)
    return torch.bmm(weights, value).view(batch, heads, rows, width)


def safe_softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.ops.aten._safe_softmax(query @ key.mT, -1) @ value


def softmax_by_hand(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.mT / 2
    powers = torch.exp(scores - scores.amax(-1, keepdim=True))
    return (powers / powers.sum(-1, keepdim=True)) @ value


def softmax_by_hand_without_maximum(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    powers = (query @ key.mT / 2).exp()
    return (powers / powers.sum(-1).unsqueeze(-1)) @ value


def dropped(p: float) -> Function:
    def with_dropout(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return functional.dropout((query @ key.mT / 2).softmax(-1), p, True) @ value

    return with_dropout


def masked_and_dropped(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    query, key, value = (one.permute(0, 2, 1, 3) for one in (query, key, value))
    weights = (query @ key.mT / 2 + mask).softmax(-1)
    return functional.dropout(weights, 0.3, True).to(query.dtype).matmul(value)


def dropped_without_heads(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.bmm(functional.dropout(torch.bmm(query, key.mT).softmax(-1), 0.5, True), value)


def capped(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (torch.tanh(query @ key.mT / 5) * 5).softmax(-1) @ value


def weights_returned(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    weights = (query @ key.mT).softmax(-1)
    return weights @ value, weights


def heads_mixed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Talking heads: the probabilities of all heads are mixed before they weigh."""
    weights = (query @ key.mT).softmax(-1)
    return (weights.permute(0, 2, 3, 1) @ torch.ones(HEADS, HEADS)).permute(0, 3, 1, 2) @ value


def weights_normalized_over_queries(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query @ key.mT).softmax(-2) @ value


def hidden_too_little(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    hidden = torch.ones(ROWS, ROWS, dtype=torch.bool).triu(1)
    return (query @ key.mT).masked_fill(hidden, -5.0).softmax(-1) @ value


def weights_rounded(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = ((query @ key.mT).softmax(-1)).to(torch.int32).to(value.dtype)
    return weights @ value


def hidden_by_a_scaled_number(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    hidden = torch.ones(ROWS, ROWS, dtype=torch.bool).triu(1)
    return ((query @ key.mT).masked_fill(hidden, -1e4) / 1000).softmax(-1) @ value


def filled_with_nothing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    hidden = torch.ones(ROWS, ROWS, dtype=torch.bool).triu(1)
    return (query @ key.mT).masked_fill(hidden, math.nan).softmax(-1) @ value


def scaled_by_an_input(query: Tensor, key: Tensor, value: Tensor, warmth: Tensor) -> Tensor:
    return (query @ key.mT / warmth).softmax(-1) @ value


def classes(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return (query * key * value).softmax(-1)
