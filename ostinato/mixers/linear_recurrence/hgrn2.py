"""HGRN2: a gated linear recurrence whose state is expanded by an outer product, with no parameter for the keys.

    f_t = l + (1 - l) sigmoid(W_f x_t),   S_t = diag(f_t) S_{t-1} + (1 - f_t) i_t^T,   o_t = S_t^T silu(W_q x_t)
    y_t = W_o norm(o_t)

The key is what is forgotten: 1 - f. The lower bound l grows with depth, so that upper layers remember longer:
`ostinato.mixers.linear_recurrence.lower_bound`.

Qin, Yang, Sun, Shen, Li, Sun, Zhong 2024, https://arxiv.org/abs/2404.07904.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from ostinato.contract import Mixer, per_head
from ostinato.layers.gates import bounded_decay, coupled, forget_at
from ostinato.layers.linear import Linear
from ostinato.layers.norms import RMSNorm
from ostinato.mixers.linear_recurrence.lower_bound import LowerBound, tie_bounds
from ostinato.ops.linear_attention import linear_attention
from ostinato.registry import register


class HGRN2State(NamedTuple):
    S: Tensor  # B H K V


@register("hgrn2", paper="hgrn2")
class HGRN2(Mixer):
    """HGRN2: a matrix memory whose key is what its forget gate leaves.

    In a fresh stack of L layers the gates of the k-th, counted from 0, keep at least k / L.

    dim: width D of input and output
    heads: number of heads H
    key_dim: state expansion K of a head; by default D / H
    lower_bound: the least that a forget gate keeps, at least 0 and below 1; None where it is learned, together with the
        other layers of the stack
    eps: what the norm of the output adds to the mean square
    """

    examples = (dict(dim=8, heads=2), dict(dim=9, heads=3, key_dim=5, lower_bound=0.7))

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        key_dim: int | None = None,
        lower_bound: float | None = None,
        eps: float = 1e-5,
    ):
        super().__init__(dim)
        value_dim = per_head(dim, heads)
        key_dim = key_dim or value_dim
        self.state_shape = (heads, key_dim, value_dim)
        self.lower_bound = LowerBound(heads * key_dim, lower_bound)
        self.widths = [heads * width for width in (key_dim, key_dim, value_dim)]  # q f i
        self.project_in = Linear(dim, sum(self.widths), bias=False)
        self.norm = RMSNorm(dim, eps=eps)
        self.project_out = Linear(dim, dim, bias=False)

    @classmethod
    def tie(cls, mixers: "Sequence[HGRN2]") -> None:
        """Let the layers of a stack share their lower bounds: upper ones have larger bounds."""
        tie_bounds([mixer.lower_bound for mixer in mixers])

    def initial_state(self, batch: int) -> HGRN2State:
        return HGRN2State(torch.zeros(batch, *self.state_shape, **self.state_like))

    def mix(self, x: Tensor, state: HGRN2State, reset: Tensor | None) -> tuple[Tensor, HGRN2State]:
        q, f, i = self.project_in(x).split(self.widths, -1)
        log_decay = bounded_decay(f.to(state.S.dtype), self.lower_bound())
        q, k, i, log_decay = (
            part.unflatten(-1, (self.state_shape[0], -1)) for part in (silu(q), coupled(log_decay), i, log_decay)
        )
        o, S = linear_attention(q, k, i, forget_at(log_decay, reset), state.S)
        return self.project_out(self.norm(o.flatten(-2))), HGRN2State(S)
