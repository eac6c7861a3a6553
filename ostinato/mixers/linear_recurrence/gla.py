"""Gated linear attention: linear attention whose matrix memory forgets per key channel.

    S_t = diag(a_t) S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t / sqrt(K),   a_t = sigmoid(W_2 W_1 x_t + b)^(1 / slowness)
    y_t = W_o (norm(o_t) * silu(W_g x_t))

Yang, Wang, Shen, Panda, Kim 2023, https://arxiv.org/abs/2312.06635.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ostinato.contract import Mixer, per_head
from ostinato.layers.gates import LowRank, forget_at, slow_decay
from ostinato.layers.linear import Linear
from ostinato.layers.norms import RMSNorm
from ostinato.ops.linear_attention import linear_attention
from ostinato.registry import register


class GLAState(NamedTuple):
    S: Tensor  # B H K V


@register("gla", paper="gla")
class GLA(Mixer):
    """Gated linear attention: a matrix memory per head that forgets per key channel.

    dim: width D of input and output
    heads: number of heads H
    key_dim: key width K of a head; by default D / 2H as in the paper
    value_dim: value width V of a head; by default D / H
    gate_rank: rank of the map from x to the decays
    slowness: divides the log decay, so that a larger one makes a fresh model forget more slowly
    eps: what the norm of the output adds to the mean square
    """

    examples = (dict(dim=8, heads=2), dict(dim=12, heads=3, key_dim=4, value_dim=5, gate_rank=2))

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        key_dim: int | None = None,
        value_dim: int | None = None,
        gate_rank: int = 16,
        slowness: float = 16.0,
        eps: float = 1e-5,
    ):
        super().__init__(dim)
        value_dim = value_dim or per_head(dim, heads)
        key_dim = key_dim or max(1, value_dim // 2)
        self.state_shape = (heads, key_dim, value_dim)
        self.slowness = slowness
        self.widths = [heads * width for width in (key_dim, key_dim, value_dim, value_dim)]  # q k v, output gate
        self.project_in = Linear(dim, sum(self.widths), bias=False)
        self.decay = LowRank(dim, gate_rank, heads * key_dim)
        self.norm = RMSNorm(value_dim, eps=eps)
        self.project_out = Linear(heads * value_dim, dim, bias=False)

    def initial_state(self, batch: int) -> GLAState:
        return GLAState(torch.zeros(batch, *self.state_shape, **self.state_like))

    def mix(self, x: Tensor, state: GLAState, reset: Tensor | None) -> tuple[Tensor, GLAState]:
        H, K, _ = self.state_shape
        q, k, v, gate = (part.unflatten(-1, (H, -1)) for part in self.project_in(x).split(self.widths, -1))
        log_decay = slow_decay(self.decay(x).to(state.S.dtype), self.slowness).unflatten(-1, (H, K))
        o, S = linear_attention(q * K**-0.5, k, v, forget_at(log_decay, reset), state.S)
        return self.project_out(self.norm(o, gate).flatten(-2)), GLAState(S)
