"""What the RWKV mixers share: where their mixing, decays and bonuses begin, and the matrix memory of versions 5 to 7.

    x^mu_t = x_t + mu * (x_{t-1} - x_t)   token shift: a learned part of the token before, one mu for each use of it

Peng et al. 2023, https://arxiv.org/abs/2305.13048; 2024, https://arxiv.org/abs/2404.05892; 2025, https://arxiv.org/abs/2503.14456.
Weights begin as in the authors' training code, where they depend on the place of a layer in its stack: `depth` says it, from
0 for the first layer to 1 for the last. Linear maps begin as everywhere in this library, unless a mixer says otherwise.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from ostinato.contract import Mixer, per_head
from ostinato.layers.linear import Linear


def shift_start(dim: int, *powers: float, offset: float = 0.0) -> Tensor:
    """How much of the token before is mixed in at the beginning: 1 - (i / D)^power - offset of channel i, a row for each power."""
    channel = torch.arange(dim) / dim
    return torch.stack([1 - channel**power - offset for power in powers])


def decay_start(dim: int, low: float, high: float, depth: float) -> Tensor:
    """d in the decay exp(-exp(d)) of each channel: from low to high, most channels near low in late layers."""
    return low + (high - low) * torch.linspace(0, 1, dim) ** (0.7 + 1.3 * depth)


def zigzag(dim: int) -> Tensor:
    """0, 1, -1, 0, 1, -1, ...: neighbours begin apart."""
    return ((torch.arange(dim) + 1) % 3 - 1).float()


def check_depth(depth: float) -> float:
    """The place of a layer in its stack, refused where it is none."""
    if not 0 <= depth <= 1:
        raise ValueError(f"depth is the place of the layer in its stack, from 0 to 1; got {depth}")
    return depth


class RWKVState(NamedTuple):
    S: Tensor  # B H K K
    last: Tensor  # B D, the last input


class MatrixRWKV(Mixer):
    """Heads of K x K memories, K = D / H, each normalised before the output is projected.

    dim: width D of input and output
    heads: number of heads H
    depth: place of the layer in its stack, from 0 to 1
    eps: what the norm of a head adds to the variance
    """

    def __init__(self, dim: int, heads: int, depth: float, eps: float = 64e-5):
        super().__init__(dim)
        self.eps = eps
        self.depth = check_depth(depth)
        self.state_shape = (heads, per_head(dim, heads), per_head(dim, heads))
        self.norm_weight = nn.Parameter(torch.ones(dim))
        self.norm_bias = nn.Parameter(torch.zeros(dim))
        self.project_out = Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> RWKVState:
        S = torch.zeros(batch, *self.state_shape, **self.state_like)
        return RWKVState(S, S.new_zeros(batch, self.dim))

    def in_heads(self, *parts: Tensor) -> list[Tensor]:
        """B T D -> B T H K."""
        return [part.unflatten(-1, self.state_shape[:2]) for part in parts]

    def normalized(self, o: Tensor) -> Tensor:
        """B T H K -> B T D: every head to mean 0 and variance 1, then a weight and a bias for each channel."""
        heads = layer_norm(o, o.shape[-1:], eps=self.eps)
        return heads.flatten(-2) * self.norm_weight + self.norm_bias
