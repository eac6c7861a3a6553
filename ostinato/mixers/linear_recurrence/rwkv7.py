"""RWKV-7 "Goose": a matrix memory that decays per channel, and replaces what a key recalls by a part that the token chooses.

    r, k, v = W x^mu,   log w_t = -e^(-1/2) sigmoid(d(x^mu_t)),   a_t = sigmoid(rate(x^mu_t)),   g_t = gate(x^mu_t)
    removed_t = k_t * xi of length 1,   written_t = k_t * (1 + (a_t - 1) * alpha)                    per head
    S_t = diag(w_t) S_{t-1} - (a_t * removed_t) (removed_t^T S_{t-1}) + written_t v_t^T
    y_t = W_o (g_t * (norm(S_t^T r_t) + (r_t^T diag(u) written_t) v_t))

d, rate and gate are maps of low rank: between their two matrices are a tanh, nothing and a sigmoid. What S_{t-1} is multiplied
by has eigenvalues in (-1, 1), since removed is of length 1 and a below 1: RWKV-7 tracks states.

Peng et al. 2025, https://arxiv.org/abs/2503.14456. With `value_rank`, as in all published models, layers but the first mix their
values with those that the first RWKV-7 layer of their stack has for the same token, which the stack hands on:

    v <- v + sigmoid(share(x^mu_t)) (v_first - v)
"""

from collections.abc import Mapping
from math import exp

import torch
from torch import Tensor, nn

from ostinato.layers.gates import LowRank, forget_at
from ostinato.layers.linear import Linear
from ostinato.layers.norms import l2_norm
from ostinato.layers.token_shift import mixtures, token_shift
from ostinato.mixers.linear_recurrence.rwkv import MatrixRWKV, RWKVState, shift_start
from ostinato.ops.delta_rule import dplr
from ostinato.registry import register


@register("rwkv7", paper="rwkv_survey")
class RWKV7(MatrixRWKV):
    """RWKV-7: a matrix memory per head with a decay per channel and an in-context learning rate.

    No channel can keep less than exp(-e^(-1/2)) = 0.545 of itself in a token. For an input of 0 a fresh model keeps 0.56 to
    0.9999: on average over channels 0.93, 0.62 and 0.41 after 1, 16 and 64 tokens in the middle of a stack.

    dim: width D of input and output
    heads: number of heads H; K = D / H
    rank: rank of the maps to the decay and to the learning rate; by default about 2.5 sqrt(D), at least 32, as the authors suggest
    gate_rank: rank of the map to the output gate; by default about 5 sqrt(D), at least 32
    depth: place of the layer in its stack, from 0 (first) to 1 (last): where its weights begin
    value_rank: rank of the map to the share of the values of the stack's first layer; None for no share
    rate_rank: rank of the map to the learning rate; by default as that to the decay
    eps: what the norm of a head adds to the variance
    removal_eps: what is added to the squared length of what is removed
    """

    examples = (
        dict(dim=8, heads=2, rank=3, gate_rank=4),
        dict(dim=9, heads=3, rank=2, gate_rank=5, depth=1.0, value_rank=2, rate_rank=3),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        rank: int | None = None,
        gate_rank: int | None = None,
        depth: float = 0.5,
        value_rank: int | None = None,
        rate_rank: int | None = None,
        eps: float = 64e-5,
        removal_eps: float = 1e-12,
    ):
        super().__init__(dim, heads, depth, eps)
        self.removal_eps = removal_eps
        rank = rank or max(32, round(2.5 * dim**0.5 / 32) * 32)
        gate_rank = gate_rank or max(32, round(5 * dim**0.5 / 32) * 32)
        early = 1 - depth
        self.mu = nn.Parameter(
            shift_start(dim, *(power * early for power in (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)))
        )  # r w k v a g
        self.project_r, self.project_k, self.project_v = (Linear(dim, dim, bias=False) for _ in range(3))
        for project, size in ((self.project_r, 0.5), (self.project_k, 0.05), (self.project_v, 0.5)):
            nn.init.uniform_(project.weight, -size * dim**-0.5, size * dim**-0.5)
        self.decay = LowRank(dim, rank, dim, activation=nn.Tanh())
        self.rate = LowRank(dim, rate_rank or rank, dim)
        self.gate = LowRank(dim, gate_rank, dim, bias=False, activation=nn.Sigmoid())
        for low_rank in (self.decay, self.rate, self.gate):
            nn.init.zeros_(low_rank.down.weight)
            nn.init.orthogonal_(low_rank.up.weight, gain=0.1)
        self.share = None if value_rank is None else LowRank(dim, value_rank, dim)
        line, wave = torch.linspace(-0.5, 0.5, dim), torch.linspace(-1, 1, dim // heads).repeat(heads)
        wave = wave * wave.abs()
        with torch.no_grad():
            self.decay.up.bias.copy_(-5.5 + 6 * (line + 0.5) ** (1 + depth**0.3) + 2.5 * wave)
            self.rate.up.bias.copy_(-0.19 + 0.3 * wave + 0.4 * line)
            if self.share is not None:
                nn.init.zeros_(self.share.down.weight)
                nn.init.orthogonal_(self.share.up.weight, gain=0.1)
                self.share.up.bias.copy_(0.73 - 0.4 * line)
        self.removal = nn.Parameter(0.71 - 0.1 * line)  # xi
        self.replacement = nn.Parameter(torch.full((dim,), 1.02))  # alpha
        self.bonus = nn.Parameter(torch.full(self.state_shape[:2], -0.04))  # u

    @property
    def listens(self) -> bool:
        """Whether the stack has to hand on what the first of its layers says."""
        return self.share is not None

    def mix(self, x: Tensor, state: RWKVState, reset: Tensor | None) -> tuple[Tensor, RWKVState]:
        y, state, _ = self.mix_told(x, state, reset, {})
        return y, state

    def mix_told(
        self, x: Tensor, state: RWKVState, reset: Tensor | None, told: Mapping[str, Tensor]
    ) -> tuple[Tensor, RWKVState, Mapping[str, Tensor]]:
        """The same, with what the layers below said of these tokens: the first says its values."""
        kind = state.S.dtype
        previous, last = token_shift(x, state.last, reset)
        x_r, x_w, x_k, x_v, x_a, x_g = mixtures(x, previous, self.mu)
        k, rate = self.project_k(x_k), torch.sigmoid(self.rate(x_a))
        v = self.project_v(x_v)
        told = {"values": v, **told}
        if self.share is not None:
            v = v + torch.sigmoid(self.share(x_v)) * (told["values"] - v)
        log_decay = -exp(-0.5) * torch.sigmoid(self.decay(x_w).to(kind))
        r, v, log_decay, written, removed, rate = self.in_heads(
            self.project_r(x_r),
            v,
            log_decay,
            k * (1 + (rate - 1) * self.replacement),
            k * self.removal,
            rate,
        )
        removed = l2_norm(removed.to(kind), eps=self.removal_eps)
        o, S = dplr(r, written, v, -removed, removed * rate, forget_at(log_decay, reset), state.S)
        current = (r * written * self.bonus).sum(-1, keepdim=True) * v
        y = (self.normalized(o) + current.flatten(-2)) * self.gate(x_g)
        return self.project_out(y), RWKVState(S, last), told
