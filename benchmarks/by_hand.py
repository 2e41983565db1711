"""Architectures that courses and papers write by hand, each in a few lines: no library behind them but torch.

What they share is that nobody wrote them for a capture: loops over lists, branches that look at values, recurrences, scatters,
steps of an integrator, weights that another network makes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.by_hand_control import Branch, Conditional, Masked, NumpyInside, OverList, UntilSmall
from graphs.sources.base import ModelSource


@dataclass(frozen=True)
class ByHand:
    """A model, its inputs and what kind it is."""

    kind: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]]


def mlp(*widths: int, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, following in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(width, following), act()]
    return nn.Sequential(*layers[:-1])


class DiffusionUNet(nn.Module):
    """Noise prediction: time enters every block, attention at the lowest resolution, skips by concatenation."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.time = mlp(width, 2 * width, 2 * width, act=nn.SiLU)
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.down, self.up = nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ConvTranspose2d(2 * width, width, 4, 2, 1)
        self.norm, self.attention = nn.GroupNorm(4, 2 * width), nn.MultiheadAttention(2 * width, 4, batch_first=True)
        self.leave = nn.Conv2d(2 * width, 3, 3, padding=1)

    def forward(self, image: Tensor, step: Tensor) -> Tensor:
        angles = step[:, None] / 10_000 ** torch.linspace(0, 1, 8)
        time = self.time(torch.cat([angles.sin(), angles.cos()], -1))
        high = F.silu(self.enter(image))
        low = self.norm(self.down(high)) + time[:, :, None, None]
        flat = low.flatten(2).transpose(1, 2)
        flat = flat + self.attention(flat, flat, flat, need_weights=False)[0]
        back = self.up(flat.transpose(1, 2).reshape(low.shape))
        return self.leave(torch.cat([back, high], 1))


class GraphConvolution(nn.Module):
    """Messages along edges, summed at their targets."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2 * width, 16) for width in (8, 16))

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        for layer in self.layers:
            sums = torch.zeros_like(nodes).index_add(0, edges[1], nodes[edges[0]])
            nodes = torch.relu(layer(torch.cat([nodes, sums], -1)))
        return nodes.mean(0)


class GraphAttention(nn.Module):
    """Softmax over the edges that arrive at a node, by scatter."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.score = nn.Linear(8, 16), nn.Linear(32, 1)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        sent = self.project(nodes)
        score = F.leaky_relu(self.score(torch.cat([sent[edges[0]], sent[edges[1]]], -1)))
        weight = (score - score.max()).exp()
        whole = torch.zeros(len(nodes), 1).index_add(0, edges[1], weight) + 1e-6
        return torch.zeros_like(sent).index_add(0, edges[1], weight / whole[edges[1]] * sent[edges[0]])


class Recurrent(nn.Module):
    """A recurrent layer of torch under a linear head."""

    def __init__(self, cell: Callable[..., nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.cell = cell(8, 16, batch_first=True, **options)
        self.head = nn.Linear(16 * (1 + self.cell.bidirectional), 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class CellByCell(nn.Module):
    """LSTMCell in a Python loop, with attention over the steps before."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(8, 16), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = (x.new_zeros(len(x), 16), x.new_zeros(len(x), 16))
        steps = []
        for at in range(x.shape[1]):
            state = self.cell(x[:, at], state)
            steps.append(state[0])
        past = torch.stack(steps, 1)
        weights = torch.softmax(torch.einsum("bh,bsh->bs", state[0], past), -1)
        return self.head(torch.cat([state[0], torch.einsum("bs,bsh->bh", weights, past)], -1))


class MixerBlock(nn.Module):
    """Across patches, then within each."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across, self.within = mlp(tokens, 2 * tokens, tokens, act=nn.GELU), mlp(width, 2 * width, width, act=nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.first(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.second(x))


class Mixer(nn.Module):
    """MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.blocks, self.head = (
            nn.Conv2d(3, 16, 4, 4),
            nn.Sequential(*(MixerBlock(16, 16) for _ in range(8))),
            nn.Linear(16, 4),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(image).flatten(2).transpose(1, 2)).mean(1))


class VariationalAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(32, 24, 16), mlp(8, 24, 32)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(x).chunk(2, -1)
        made = self.decoder(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
        return F.mse_loss(made, x) + divergence.mean(), made


class VectorQuantized(nn.Module):
    """VQ-VAE: the nearest code, with the gradient passed straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.codes, self.decoder = mlp(32, 16, 8), nn.Embedding(12, 8), mlp(8, 16, 32)

    def forward(self, x: Tensor) -> Tensor:
        latent = self.encoder(x)
        nearest = self.codes(torch.cdist(latent, self.codes.weight).argmin(-1))
        return self.decoder(latent + (nearest - latent).detach())


def generator() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 16 * 16), nn.Unflatten(1, (16, 4, 4)), nn.ConvTranspose2d(16, 8, 4, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def discriminator() -> nn.Module:
    normal = torch.nn.utils.parametrizations.spectral_norm
    return nn.Sequential(
        normal(nn.Conv2d(3, 8, 4, 2, 1)), nn.LeakyReLU(0.2), normal(nn.Conv2d(8, 16, 4, 2, 1)), nn.Flatten(), nn.Linear(256, 1)
    )


class RadianceField(nn.Module):
    """NeRF: encoded points -> density and colour, composited along each ray."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = mlp(3 * 12, 32, 32, 4)

    def forward(self, origins: Tensor, directions: Tensor) -> Tensor:
        depths = torch.linspace(2.0, 6.0, 8)
        points = origins[:, None] + directions[:, None] * depths[None, :, None]
        scaled = points[..., None] * 2.0 ** torch.arange(6)
        density, colour = self.trunk(torch.cat([scaled.sin(), scaled.cos()], -1).flatten(-2)).split([1, 3], -1)
        opacity = 1 - torch.exp(-F.softplus(density.squeeze(-1)) * 0.5)
        through = torch.cumprod(torch.cat([torch.ones_like(opacity[:, :1]), 1 - opacity + 1e-10], -1), -1)[:, :-1]
        return ((opacity * through)[..., None] * colour.sigmoid()).sum(1)


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.turn, self.each, self.whole = mlp(3, 16, 9), mlp(3, 16, 32), mlp(32, 16, 4)

    def forward(self, points: Tensor) -> Tensor:
        turned = points @ (self.turn(points).amax(1).view(-1, 3, 3) + torch.eye(3))
        return self.whole(self.each(turned).amax(1))


class TemporalConvolution(nn.Module):
    """TCN: dilated causal convolutions with weight norm."""

    def __init__(self) -> None:
        super().__init__()
        normal = torch.nn.utils.parametrizations.weight_norm
        self.layers = nn.ModuleList(normal(nn.Conv1d(8, 8, 3, dilation=2**depth)) for depth in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for depth, layer in enumerate(self.layers):
            x = x + torch.relu(layer(F.pad(x, (2 * 2**depth, 0))))
        return x


class Capsules(nn.Module):
    """Routing by agreement, three turns."""

    def __init__(self) -> None:
        super().__init__()
        self.lower, self.vote = nn.Linear(32, 6 * 8), nn.Parameter(torch.randn(6, 4, 8, 8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        votes = torch.einsum("bni,nmij->bnmj", self.lower(x).view(-1, 6, 8), self.vote)
        logits, upper = torch.zeros(votes.shape[:3]), votes.mean(1)
        for _ in range(3):
            total = (torch.softmax(logits, 2)[..., None] * votes).sum(1)
            square = total.square().sum(-1, keepdim=True)
            upper = square / (1 + square) * total / (square + 1e-8).sqrt()
            logits = logits + (votes * upper[:, None]).sum(-1)
        return upper.norm(dim=-1)


class NeuralODE(nn.Module):
    """Runge-Kutta steps of fixed length."""

    def __init__(self) -> None:
        super().__init__()
        self.field = mlp(9, 16, 8, act=nn.Tanh)

    def slope(self, time: float, x: Tensor) -> Tensor:
        return self.field(torch.cat([x, torch.full_like(x[:, :1], time)], -1))

    def forward(self, x: Tensor) -> Tensor:
        step = 0.25
        for at in range(4):
            one = self.slope(at * step, x)
            two = self.slope((at + 0.5) * step, x + step / 2 * one)
            three = self.slope((at + 0.5) * step, x + step / 2 * two)
            four = self.slope((at + 1) * step, x + step * three)
            x = x + step / 6 * (one + 2 * two + 2 * three + four)
        return x


class Hypernetwork(nn.Module):
    """One network makes the weights of another, for each example."""

    def __init__(self) -> None:
        super().__init__()
        self.maker = mlp(4, 16, 8 * 6 + 6)

    def forward(self, task: Tensor, x: Tensor) -> Tensor:
        weight, bias = self.maker(task).split([48, 6], -1)
        return torch.tanh(torch.einsum("bi,boi->bo", x, weight.view(-1, 6, 8)) + bias)


class Recommender(nn.Module):
    """DLRM: bags of categories, dense features, all pairwise products."""

    def __init__(self) -> None:
        super().__init__()
        self.bags = nn.ModuleList(nn.EmbeddingBag(20, 8, mode="sum") for _ in range(3))
        self.dense, self.top = mlp(5, 16, 8), mlp(8 + 6, 16, 1)

    def forward(self, dense: Tensor, categories: Tensor) -> Tensor:
        low = self.dense(dense)
        all_ = torch.stack([low, *(bag(categories[:, at]) for at, bag in enumerate(self.bags))], 1)
        row, column = torch.triu_indices(4, 4, 1)
        return self.top(torch.cat([low, (all_ @ all_.transpose(1, 2))[:, row, column]], -1)).sigmoid()


class Coupling(nn.Module):
    """A normalizing flow of affine couplings, with its log-determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(mlp(4, 16, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        total = torch.zeros(len(x))
        for net in self.nets:
            kept, changed = x.chunk(2, -1)
            scale, shift = net(kept).chunk(2, -1)
            x = torch.cat([changed * scale.tanh().exp() + shift, kept], -1)
            total = total + scale.tanh().sum(-1)
        return total - 0.5 * x.square().sum(-1)


class Siamese(nn.Module):
    """One encoder on three images; triplet loss."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8))

    def forward(self, anchor: Tensor, like: Tensor, unlike: Tensor) -> Tensor:
        one, near, far = (F.normalize(self.encoder(image), dim=-1) for image in (anchor, like, unlike))
        return F.triplet_margin_loss(one, near, far)


class SwitchExperts(nn.Module):
    """Each token visits the expert that scores highest; the loop gathers and scatters."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(8, 3), nn.ModuleList(mlp(8, 16, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        weight, chosen = self.router(x).softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for at, expert in enumerate(self.experts):
            rows = (chosen == at).nonzero().squeeze(-1)
            out = out.index_add(0, rows, expert(x[rows]) * weight[rows, None])
        return out


class SpectralOperator(nn.Module):
    """A Fourier neural operator: complex weights on the lowest frequencies."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.randn(4, 4, 5, dtype=torch.cfloat) * 0.1)
        self.local = nn.Conv1d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        low = torch.einsum("bif,iof->bof", torch.fft.rfft(x)[..., :5], self.weights)
        return F.gelu(torch.fft.irfft(low, n=x.shape[-1]) + self.local(x))


class StateSpace(nn.Module):
    """A diagonal linear recurrence, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.decay, self.enter, self.leave = nn.Parameter(torch.rand(16)), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        state, outputs = torch.zeros(len(x), 16), []
        for step in self.enter(x).unbind(1):
            state = torch.sigmoid(self.decay) * state + step
            outputs.append(self.leave(state))
        return torch.stack(outputs, 1)


class SpatialTransformer(nn.Module):
    """The image chooses how it is turned before it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.where, self.read = mlp(3 * 16 * 16, 16, 6), nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        grid = F.affine_grid(self.where(image.flatten(1)).view(-1, 2, 3), list(image.shape), align_corners=False)
        return self.read(F.grid_sample(image, grid, align_corners=False)).mean((2, 3))


class ActorCritic(nn.Module):
    """A policy that samples its action, and a value."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.policy, self.value = mlp(8, 16, 16, act=nn.Tanh), nn.Linear(16, 3), nn.Linear(16, 1)

    def forward(self, state: Tensor) -> tuple[Tensor, Tensor]:
        seen = torch.tanh(self.trunk(state))
        chances = torch.distributions.Categorical(logits=self.policy(seen), validate_args=False)
        return chances.log_prob(chances.sample()), self.value(seen)


def convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1, groups=2),
        nn.ReLU(), nn.Dropout(0.0), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 4),
    )  # fmt: skip


def video_convnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1), nn.Flatten()
    )


def _normal(*shapes: tuple[int, ...]) -> Callable[[], tuple[Any, ...]]:
    return lambda: tuple(torch.randn(*shape) for shape in shapes)


def _edges() -> tuple[Any, ...]:
    return torch.randn(6, 8), torch.randint(0, 6, (2, 14))


IMAGE = (2, 3, 16, 16)
BY_HAND: dict[str, ByHand] = {
    "diffusion-unet": ByHand("vision", DiffusionUNet, lambda: (torch.randn(*IMAGE), torch.rand(2))),
    "convnet": ByHand("vision", convnet, _normal(IMAGE)),
    "mlp-mixer": ByHand("vision", Mixer, _normal(IMAGE)),
    "siamese": ByHand("vision", Siamese, _normal(IMAGE, IMAGE, IMAGE)),
    "spatial-transformer": ByHand("vision", SpatialTransformer, _normal(IMAGE)),
    "capsules": ByHand("vision", Capsules, _normal((2, 32))),
    "video-convnet": ByHand("video", video_convnet, _normal((2, 3, 4, 16, 16))),
    "gan-generator": ByHand("generative", generator, _normal((2, 8))),
    "gan-discriminator": ByHand("generative", discriminator, _normal(IMAGE)),
    "vae": ByHand("generative", VariationalAutoencoder, _normal((2, 32))),
    "vq-vae": ByHand("generative", VectorQuantized, _normal((2, 32))),
    "normalizing-flow": ByHand("generative", Coupling, _normal((2, 8))),
    "graph-convolution": ByHand("graph", GraphConvolution, _edges),
    "graph-attention": ByHand("graph", GraphAttention, _edges),
    "pointnet": ByHand("geometry", PointNet, _normal((2, 20, 3))),
    "nerf": ByHand("geometry", RadianceField, _normal((4, 3), (4, 3))),
    "rnn": ByHand("recurrent", lambda: Recurrent(nn.RNN, num_layers=2), _normal((2, 6, 8))),
    "gru": ByHand("recurrent", lambda: Recurrent(nn.GRU, bidirectional=True), _normal((2, 6, 8))),
    "lstm": ByHand("recurrent", lambda: Recurrent(nn.LSTM, num_layers=2), _normal((2, 6, 8))),
    "lstm-cell-attention": ByHand("recurrent", CellByCell, _normal((2, 6, 8))),
    "tcn": ByHand("recurrent", TemporalConvolution, _normal((2, 8, 12))),
    "linear-recurrence": ByHand("state space", StateSpace, _normal((2, 6, 8))),
    "neural-ode": ByHand("science", NeuralODE, _normal((2, 8))),
    "fourier-operator": ByHand("science", SpectralOperator, _normal((2, 4, 32))),
    "hypernetwork": ByHand("science", Hypernetwork, _normal((2, 4), (2, 8))),
    "dlrm": ByHand("recommender", Recommender, lambda: (torch.randn(2, 5), torch.randint(0, 20, (2, 3, 4)))),
    "actor-critic": ByHand("control", ActorCritic, _normal((2, 8))),
    "switch-experts-by-hand": ByHand("mixture of experts", SwitchExperts, _normal((10, 8))),
    "branch-on-value": ByHand("control flow", Branch, _normal((2, 8))),
    "torch-cond": ByHand("control flow", Conditional, _normal((2, 8))),
    "while-on-value": ByHand("control flow", UntilSmall, _normal((2, 8))),
    "list-and-dict": ByHand("control flow", OverList, lambda: ([torch.randn(2, 8) for _ in range(3)], {"all": torch.randn(8)})),
    "masked-rows": ByHand("control flow", Masked, _normal((6, 8))),
    "numpy-inside": ByHand("control flow", NumpyInside, _normal((2, 8))),
}  # fmt: skip


def by_hand_source(name: str) -> ModelSource:
    one = BY_HAND[name]
    return ModelSource(name, one.build, one.inputs, None, (inspect.getfile(one.build),))
