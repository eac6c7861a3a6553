"""PaTH attention: softmax attention whose positions are products of matrices that follow the data.

    q_t, k_t, v_t = W x_t,   w_t = normalised silu(convolution(U_2 U_1 x_t)),   beta_t = 2 sigmoid(w_b^T x_t + b)
    H_t = I - beta_t w_t w_t^T,   y_t = W_o [sum_j softmax_j(k_j^T H_{j+1} ... H_t q_t / sqrt(K)) v_j]

Yang, Shen, Wen, Tan, Mishra, Ren, Panda, Kim 2025, https://arxiv.org/abs/2505.16381, in the form of flash-linear-attention. What
stands between two tokens are the tokens between them, not their number; with beta in (0, 2) they can turn and swap, which lets
one layer track states. A fresh beta is near 1. The paper's variant with a forget gate (PaTH-FoX) is not here.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from ostinato.layers.cache import append
from ostinato.layers.gates import LowRank
from ostinato.layers.linear import Linear
from ostinato.layers.norms import RMSNorm, l2_norm
from ostinato.layers.short_convolution import ShortConvolution
from ostinato.mixers.attention.cached import CachedAttention, kept_after
from ostinato.ops.path_attention import path_attention
from ostinato.registry import register


class PathState(NamedTuple):
    k: Tensor  # B n G K, carried to the last token
    v: Tensor  # B n G K
    live: Tensor  # B n bool, False where the token is of a document that has ended
    inputs: Tensor  # B W-1 GK, the last inputs of the convolution


@register("path_attention")
class PathAttention(CachedAttention):
    """Softmax attention between whose tokens stand products of Householder-like matrices of the tokens between.

    dim: width D of input and output
    heads: number of heads H of queries
    kv_heads: number of heads G of keys, values and transitions, each shared by H / G heads of queries; by default H
    head_dim: width K of a head; by default D / H
    rank: of the map that makes the vectors w; None for a full one
    conv_width: taps of the convolution that these go through
    qk_norm: whether queries and keys are normalised in each head
    """

    examples = (
        dict(dim=8, heads=2, rank=3),
        dict(dim=12, heads=6, kv_heads=2, head_dim=5, rank=None, conv_width=2, qk_norm=True),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        kv_heads: int | None = None,
        head_dim: int | None = None,
        rank: int | None = 32,
        conv_width: int = 3,
        qk_norm: bool = False,
    ):
        super().__init__(dim, heads=heads, kv_heads=kv_heads, head_dim=head_dim)
        H, G, K = self.shape
        self.project_in = Linear(dim, (H + 2 * G) * K, bias=False)
        self.project_w = Linear(dim, G * K, bias=False) if rank is None else LowRank(dim, rank, G * K, bias=False)
        self.conv = ShortConvolution(G * K, conv_width)
        self.project_beta = Linear(dim, G)
        self.q_norm = RMSNorm(K, eps=1e-6) if qk_norm else None
        self.k_norm = RMSNorm(K, eps=1e-6) if qk_norm else None
        self.project_out = Linear(H * K, dim, bias=False)

    def initial_state(self, batch: int) -> PathState:
        *cache, _ = self._nothing(batch)
        return PathState._make((*cache, self.conv.initial_state(batch, **self.state_like)))

    def state_bytes(self, tokens: int) -> int:
        return super().state_bytes(tokens) - 8 + self.conv.state_bytes

    def mix(self, x: Tensor, state: PathState, reset: Tensor | None) -> tuple[Tensor, PathState]:
        (H, G, K), (k, v, live, inputs) = self.shape, state
        q, new_k, new_v = self.project_in(x).unflatten(-1, (-1, K)).split([H, G, G], 2)
        if self.q_norm is not None and self.k_norm is not None:
            q, new_k = self.q_norm(q), self.k_norm(new_k)
        w, inputs = self.conv(self.project_w(x), inputs, reset)
        w = l2_norm(silu(w).to(k.dtype).unflatten(-1, (G, K)))
        beta = 2 * torch.sigmoid(self.project_beta(x).to(k.dtype))
        past, T = live.shape[1], x.shape[1]
        k, v = torch.cat([k, new_k.to(k.dtype)], 1), append(v, new_v)  # all keys will be new ones
        live = append(live, live.new_ones(len(x), T))
        y, k = path_attention(q.to(x.dtype), k, v, w, beta, live=live if past else None, reset=reset)
        kept = kept_after([k, v], live, reset, T, None)
        return self.finished(y, x), PathState._make((*kept, inputs))
