"""Multi-scale retention: linear attention with a fixed decay for each head, and keys turned by their positions.

    S_t = g_h S_{t-1} + k_t v_t^T,   o_t = S_t^T q_t / sqrt(K),   g_h = 1 - 2^(-5-h)
    y_t = W_o (silu(W_g x_t) * groupnorm(o_t)),   q_t and k_t rotated by their position

Sun, Dong, Huang, Ma, Xia, Xue, Wang, Wei 2023, https://arxiv.org/abs/2307.08621.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, silu

from ostinato.contract import Mixer, per_head
from ostinato.layers.gates import fixed_decays, forget_at
from ostinato.layers.linear import Linear
from ostinato.layers.norms import RMSNorm
from ostinato.layers.positions import document_positions, rotary_angles, rotary_frequencies, rotate
from ostinato.ops.linear_attention import linear_attention
from ostinato.registry import register


class RetentionState(NamedTuple):
    S: Tensor  # B H K V
    position: Tensor  # B int64, tokens of its document so far


@register("retention", paper="retnet")
class Retention(Mixer):
    """Retention: each head forgets at a rate of its own that never changes.

    The slowest of H heads keeps (1 - 2^(-4-H))^n of a token after n more; the fastest 31/32 to the power of n.

    dim: width D of input and output
    heads: number of heads H
    value_factor: value width V of a head as a multiple of its key width D / H
    theta: base of the rotary frequencies
    norm: of the output of a head: "group", to mean 0 and variance 1 as in the paper, or "rms", with a weight
    eps: what the norm adds to the variance or the mean square
    """

    examples = (dict(dim=8, heads=2), dict(dim=12, heads=3, value_factor=1, norm="rms"))

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        value_factor: int = 2,
        theta: float = 10000.0,
        norm: str = "group",
        eps: float = 1e-5,
    ):
        super().__init__(dim)
        if norm not in ("group", "rms"):
            raise ValueError(f"norm is group or rms; got {norm!r}")
        key_dim = per_head(dim, heads)
        self.state_shape = (heads, key_dim, value_factor * key_dim)
        self.theta = theta
        self.widths = [dim, dim, value_factor * dim, value_factor * dim]  # q k v, output gate
        self.project_in = Linear(dim, sum(self.widths), bias=False)
        self.eps = eps
        self.norm = RMSNorm(value_factor * key_dim, eps) if norm == "rms" else None
        self.project_out = Linear(value_factor * dim, dim, bias=False)

    def initial_state(self, batch: int) -> RetentionState:
        S = torch.zeros(batch, *self.state_shape, **self.state_like)
        return RetentionState(S, torch.zeros(batch, dtype=torch.long, device=S.device))

    def mix(self, x: Tensor, state: RetentionState, reset: Tensor | None) -> tuple[Tensor, RetentionState]:
        H, K, V = self.state_shape
        q, k, v, gate = (part.unflatten(-1, (H, -1)) for part in self.project_in(x).split(self.widths, -1))
        position = document_positions(state.position, x.shape[1], reset)
        angles = rotary_angles(position, rotary_frequencies(K // 2, self.theta, x.device), state.S.dtype)
        q, k = (rotate(part, *angles) for part in (q, k))
        log_decay = forget_at(fixed_decays(H, **self.state_like).expand(*x.shape[:2], H), reset)
        o, S = linear_attention(q * K**-0.5, k, v, log_decay, state.S)
        y = silu(gate) * layer_norm(o, (V,), eps=self.eps) if self.norm is None else self.norm(o, gate)
        return self.project_out(y.flatten(-2)), RetentionState(S, position[:, -1] + 1)
