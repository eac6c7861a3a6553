"""DeltaFormer: softmax attention to values that were corrected by what was known when they were written.

    q_t, k_t, v_t = W x_t,   beta_t = sigmoid(w_b^T x_t + b)
    u_t = v_t - beta_t sum_{j < t} softmax_j(w_t^T k_j / sqrt(K)) u_j,   w_t one of k_t, q_t or a projection of its own
    y_t = W_o [sum_{j <= t} softmax_j(q_t^T k_j / sqrt(K)) u_j]

Zhong, Xu, Ao, Shi 2025, https://arxiv.org/abs/2505.19488, with the rotary positions of flash-linear-attention, where q
takes the part of w and beta is a linear map: bounded here, so that values cannot grow from token to token. With beta
at 0 it is softmax attention; writing by differences lets one layer track states (exchanges of elements), which that cannot.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ostinato.layers.cache import append
from ostinato.layers.linear import Linear
from ostinato.layers.positions import document_positions, rotary_angles, rotary_frequencies, rotate
from ostinato.mixers.attention.cached import CachedAttention, kept_after
from ostinato.ops.attention import attention
from ostinato.ops.corrected_values import corrected_values
from ostinato.registry import did_you_mean, register

ASKS = ("key", "query", "own")


class DeltaFormerState(NamedTuple):
    k: Tensor  # B n G K, rotated
    u: Tensor  # B n G K
    live: Tensor  # B n bool, False where the token is of a document that has ended
    position: Tensor  # B int64, tokens of its document so far


@register("deltaformer")
class DeltaFormer(CachedAttention):
    """Softmax attention that writes, for each token, what it does not recall yet.

    dim: width D of input and output
    heads: number of heads H of queries
    kv_heads: number of heads G of keys and values, each shared by H / G heads of queries; by default H
    head_dim: width K of a head; by default D / H
    asks: what asks for what is taken away from a value: its "key", its "query", or a projection of its "own"
    rope: whether positions turn queries and keys
    theta: base of the rotary frequencies
    """

    examples = (
        dict(dim=8, heads=2),
        dict(dim=12, heads=4, kv_heads=2, head_dim=5, asks="own", rope=False),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        asks: str = "key",
        rope: bool = True,
        theta: float = 10000.0,
    ):
        super().__init__(dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
        H, G, K = self.shape
        if asks not in ASKS:
            raise ValueError(f"asks is one of {', '.join(ASKS)}; got {asks!r}{did_you_mean(str(asks), ASKS)}")
        if asks == "query" and G != H:
            raise ValueError(
                f"queries ask for what is taken away where each has keys of its own; got {H} and {G} heads"
            )
        self.asks, self.rope, self.theta = asks, rope, theta
        self.project_in = Linear(dim, (H + (3 if asks == "own" else 2) * G) * K, bias=False)
        self.project_beta = Linear(dim, G)
        self.project_out = Linear(H * K, dim, bias=False)

    def initial_state(self, batch: int) -> DeltaFormerState:
        return DeltaFormerState._make(self._nothing(batch))

    def turned(self, x: Tensor, position: Tensor) -> Tensor:
        """Queries or keys turned by their places, if they are to be."""
        if not self.rope:
            return x
        frequency = rotary_frequencies(self.shape[-1] // 2, self.theta, x.device)
        return rotate(x, *rotary_angles(position, frequency, self.state_like["dtype"]))

    def mix(self, x: Tensor, state: DeltaFormerState, reset: Tensor | None) -> tuple[Tensor, DeltaFormerState]:
        H, G, K = self.shape
        position = document_positions(state.position, x.shape[1], reset)
        q, k, v, w = self.project_in(x).unflatten(-1, (-1, K)).tensor_split([H, H + G, H + 2 * G], 2)
        q, k = self.turned(q, position), self.turned(k, position)
        w = {"key": k, "query": q}[self.asks] if self.asks != "own" else self.turned(w, position)
        past, T = state.live.shape[1], x.shape[1]
        k, live = append(state.k, k), append(state.live, state.live.new_ones(len(x), T))
        seen = live if past else None
        beta = torch.sigmoid(self.project_beta(x).to(k.dtype))
        u = append(state.u, corrected_values(w, k, v, beta, state.u, live=seen, reset=reset))
        y = attention(q.to(x.dtype), k, u, live=seen, reset=reset)
        kept = kept_after([k, u], live, reset, T, None)
        return self.finished(y, x), DeltaFormerState._make((*kept, position[:, -1] + 1))
