"""Mamba-2: state-space duality. One decay for a whole head makes the selective scan a linear attention.

    z, u, B, C, dt = W_in x_t;   u, B, C = silu(convolution([u, B, C]));   dt = softplus(dt + b)      per head
    S_t = exp(dt A) S_{t-1} + B (dt u)^T,   s_t = S_t^T C + D u,   y_t = W_out norm(s_t * silu(z))

Heads share B and C within a group, over which the RMS norm is taken too. As in Falcon-H1 (Zuo et al. 2025,
https://arxiv.org/abs/2507.22448), the norm may be before the gate, or left out, and parts of W_in x be multiplied by numbers.

Dao and Gu 2024, https://arxiv.org/abs/2405.21060.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, silu, softplus

from ostinato.contract import Mixer, per_head
from ostinato.layers.gates import forget_at
from ostinato.layers.linear import Linear
from ostinato.layers.short_convolution import ShortConvolution
from ostinato.layers.ssm import inner_heads, inverse_softplus, log_uniform
from ostinato.ops.linear_attention import linear_attention
from ostinato.registry import register

NORMS = ("after", "before", "none")


class Mamba2State(NamedTuple):
    S: Tensor  # B H N P
    inputs: Tensor  # B W-1 E+2GN, of the short convolution


@register("mamba2", paper=("stuffed_mamba", "hydra"))
class Mamba2(Mixer):
    """Mamba-2: a selective state space with one decay for each head, as a linear attention.

    A fresh head decays by exp(-a dt) with a uniform in [1, 16] and a dt that lies, for an input of 0, between
    `dt_min` and `dt_max`, log-uniformly.

    dim: width D of input and output
    state_size: numbers N that each inner channel remembers: the key width of the linear attention
    expansion: inner width E as a multiple of dim
    head_dim: width P of a head; E / P heads. By default 64, or E where that is less
    groups: number of groups G of heads that share B and C
    conv_width: taps of the short convolution
    dt_min: smallest step size of a fresh model
    dt_max: largest step size of a fresh model
    bias: whether the projections in and out have one
    conv_bias: whether the short convolution has one
    out_bias: whether the projection out has one; None for as `bias` says
    eps: what the norm adds to the mean square
    norm: of what is read: "after" the gate, "before" it, or "none"
    scales: what z, u, B, C and dt are multiplied by as they leave the projection in; None for 1
    dt_limits: the least and the most that a step size can be; None for no limits
    """

    examples = (
        dict(dim=8, state_size=3, head_dim=4),
        dict(
            dim=12, state_size=5, head_dim=3, expansion=1.5, groups=2, conv_width=2, bias=True, out_bias=False,
            norm="before", scales=[0.5, 2, 0.7, 1.5, 0.3], dt_limits=[0.01, 0.2],
        ),
    )  # fmt: skip

    def __init__(
        self,
        dim: int,
        *,
        state_size: int = 128,
        expansion: float = 2.0,
        head_dim: int | None = None,
        groups: int = 1,
        conv_width: int = 4,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        bias: bool = False,
        conv_bias: bool = True,
        out_bias: bool | None = None,
        eps: float = 1e-5,
        norm: str = "after",
        scales: Sequence[float] | None = None,
        dt_limits: Sequence[float] | None = None,
    ):
        super().__init__(dim)
        if state_size < 1:
            raise ValueError(f"state_size is at least 1; got {state_size}")
        if norm not in NORMS:
            raise ValueError(f"norm is {', '.join(NORMS)}; got {norm!r}")
        if scales is not None and len(scales) != 5:
            raise ValueError(f"scales are 5 numbers, of z, u, B, C and dt; got {scales!r}")
        if dt_limits is not None and (len(dt_limits) != 2 or not 0 <= dt_limits[0] <= dt_limits[1]):
            raise ValueError(f"dt_limits are the least and the most that a step size can be; got {dt_limits!r}")
        inner, heads, head_dim = inner_heads(dim, expansion, head_dim)
        self.heads_of_group = per_head(heads, groups, "the number of heads", by="groups")
        self.state_shape = (heads, state_size, head_dim)
        self.groups = groups
        shared = groups * state_size
        self.widths = [inner, inner + 2 * shared, heads]  # z; u B C; dt
        self.convolved = [inner, shared, shared]
        self.project_in = Linear(dim, sum(self.widths), bias=bias)
        self.convolution = ShortConvolution(sum(self.convolved), conv_width, bias=conv_bias)
        self.eps, self.norm, self.scales, self.dt_limits = eps, norm, scales, dt_limits
        self.dt_bias = nn.Parameter(inverse_softplus(log_uniform(dt_min, dt_max, heads).clamp(min=1e-4)))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm_weight = None if norm == "none" else nn.Parameter(torch.ones(inner))
        self.project_out = Linear(inner, dim, bias=bias if out_bias is None else out_bias)

    def initial_state(self, batch: int) -> Mamba2State:
        S = torch.zeros(batch, *self.state_shape, **self.state_like)
        return Mamba2State(S, self.convolution.initial_state(batch, **self.state_like))

    def mix(self, x: Tensor, state: Mamba2State, reset: Tensor | None) -> tuple[Tensor, Mamba2State]:
        H, N, P = self.state_shape
        z, convolved, dt = self.projected(x).split(self.widths, -1)
        convolved, inputs = self.convolution(convolved, state.inputs, reset)
        u, B, C = silu(convolved).split(self.convolved, -1)
        u = u.unflatten(-1, (H, P))
        B, C = (part.unflatten(-1, (self.groups, N)).repeat_interleave(self.heads_of_group, 2) for part in (B, C))
        kind = state.S.dtype
        dt = softplus(dt.to(kind) + self.dt_bias.to(kind))
        if self.dt_limits is not None:
            dt = dt.clamp(*self.dt_limits)
        log_decay = forget_at(-dt * self.A_log.to(kind).exp(), reset)
        s, state = self.recall(x, C, B, dt[..., None] * u, log_decay, state, reset)
        s = (s + self.D.to(kind)[:, None] * u).flatten(-2)
        return self.project_out(self.gated(s, silu(z.to(kind)), x.dtype)), state._replace(inputs=inputs)

    def projected(self, x: Tensor) -> Tensor:
        """z, u, B, C and dt, before anything is done to them."""
        x = self.project_in(x)
        if self.scales is None:
            return x
        parts = x.split([self.widths[0], *self.convolved, self.widths[2]], -1)
        return torch.cat([scale * part for scale, part in zip(self.scales, parts)], -1)

    def gated(self, s: Tensor, gate: Tensor, kind: torch.dtype) -> Tensor:
        """What was read, under its gate, and normalised over groups."""
        if self.norm_weight is None:
            return (s * gate).to(kind)
        s = s if self.norm == "before" else s * gate
        s = rms_norm(s.unflatten(-1, (self.groups, -1)), (s.shape[-1] // self.groups,), eps=self.eps).flatten(-2)
        s = s.to(kind) * self.norm_weight
        return s * gate.to(kind) if self.norm == "before" else s

    def recall(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Mamba2State, reset: Tensor | None
    ) -> tuple[Tensor, Mamba2State]:
        """What the memory says to the queries, and the state with the memory after them."""
        y, S = linear_attention(q, k, v, log_decay, state.S)
        return y, state._replace(S=S)
