"""Attention to another sequence, which has been read already.

    k_j, v_j = W m_j,   q_t = W_q x_t,   y_t = W_o [sum_j softmax_j(q_t^T k_j / sqrt(K)) v_j]      over all tokens m of the source

Vaswani et al. 2017, https://arxiv.org/abs/1706.03762. Keys and values of the source are made once, and are the state.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ostinato.contract import per_head
from ostinato.layers.linear import Linear
from ostinato.ops.attention import attention


class SourceState(NamedTuple):
    k: Tensor  # B S H K
    v: Tensor  # B S H K
    live: Tensor  # B S bool, False where the source is padding, or that of a document that has ended


class CrossAttention(nn.Module):
    """Every token looks at all tokens of a source; where there is none, it hears 0.

    dim: width D of the tokens
    heads: number of heads H
    source_dim: width of the source's tokens; by default D
    bias: whether the projections have biases
    head_dim: width K of a head; by default D / H
    scale: of the scores; by default 1 / sqrt(K)
    """

    def __init__(
        self,
        dim: int,
        heads: int = 4,
        source_dim: int | None = None,
        bias: bool = True,
        head_dim: int | None = None,
        scale: float | None = None,
    ):
        super().__init__()
        self.shape, self.scale = (heads, head_dim or per_head(dim, heads)), scale
        inner = heads * self.shape[1]
        self.project_q = Linear(dim, inner, bias=bias)
        self.project_source = Linear(source_dim or dim, 2 * inner, bias=bias)
        self.project_out = Linear(inner, dim, bias=bias)

    def initial_state(self, batch: int, **like: Any) -> SourceState:
        """No source."""
        k, v = torch.zeros(2, batch, 0, *self.shape, **like)
        return SourceState(k, v, torch.zeros(batch, 0, dtype=torch.bool, device=k.device))

    def remember(self, source: Tensor, mask: Tensor | None, dtype: torch.dtype) -> SourceState:
        """Keys and values of a source (B, S, D), of which mask (B, S) says what is real."""
        k, v = self.project_source(source).to(dtype).unflatten(-1, (-1, self.shape[1])).chunk(2, 2)
        live = torch.ones(source.shape[:2], dtype=torch.bool, device=source.device) if mask is None else mask
        return SourceState(k, v, live)

    def forward(self, x: Tensor, state: SourceState, reset: Tensor | None) -> tuple[Tensor, SourceState]:
        """(B, T, D) -> (B, T, D). A document that begins in x has no source: that of the one before is forgotten."""
        q = self.project_q(x).unflatten(-1, self.shape)
        if state.k.shape[1] == 0:
            return self.project_out(torch.zeros_like(q).flatten(-2)), state
        k, v, live = state
        y = attention(q, k, v, causal=False, live=live, scale=self.scale)
        if reset is not None:
            y = y.masked_fill((reset.cumsum(1) > 0)[..., None, None], 0)
            live = live & ~reset.any(1, keepdim=True)
        return self.project_out(y.flatten(-2)), SourceState(k, v, live)
