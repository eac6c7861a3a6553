"""Linear attention: softmax replaced by a positive feature map, so that the past is one matrix.

    S_t = S_{t-1} + phi(k_t) v_t^T,   z_t = z_{t-1} + phi(k_t),   o_t = S_t^T phi(q_t) / (z_t^T phi(q_t)),   phi(x) = elu(x) + 1

Katharopoulos, Vyas, Pappas, Fleuret 2020, https://arxiv.org/abs/2006.16236.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import elu

from ostinato.contract import Mixer, per_head
from ostinato.layers.linear import Linear
from ostinato.ops.linear_attention import normalized_linear_attention
from ostinato.registry import register


class LinearAttentionState(NamedTuple):
    S: Tensor  # B H K V
    z: Tensor  # B H K, the sum of keys


@register("linear_attention", paper="linear_transformer")
class LinearAttention(Mixer):
    """Linear attention with the feature map elu + 1 and weights that sum to 1.

    dim: width D of input and output
    heads: number of heads H
    key_dim: key width K of a head; by default D / H
    """

    examples = (dict(dim=8, heads=2), dict(dim=9, heads=3, key_dim=5))

    def __init__(self, dim: int, *, heads: int = 4, key_dim: int | None = None):
        super().__init__(dim)
        value_dim = per_head(dim, heads)
        key_dim = key_dim or value_dim
        self.state_shape = (heads, key_dim, value_dim)
        self.widths = [heads * width for width in (key_dim, key_dim, value_dim)]
        self.project_in = Linear(dim, sum(self.widths), bias=False)
        self.project_out = Linear(dim, dim, bias=False)

    def initial_state(self, batch: int) -> LinearAttentionState:
        H, K, V = self.state_shape
        S, z = (torch.zeros(batch, *shape, **self.state_like) for shape in ((H, K, V), (H, K)))
        return LinearAttentionState(S, z)

    def state_bytes(self, tokens: int) -> int:
        H, K, V = self.state_shape
        return 4 * H * K * (V + 1)

    def mix(self, x: Tensor, state: LinearAttentionState, reset: Tensor | None) -> tuple[Tensor, LinearAttentionState]:
        q, k, v = (part.unflatten(-1, (self.state_shape[0], -1)) for part in self.project_in(x).split(self.widths, -1))
        log_decay = None
        if reset is not None:
            log_decay = torch.zeros_like(q[..., 0]).masked_fill(reset[..., None], -torch.inf)
        o, S, z = normalized_linear_attention(elu(q) + 1, elu(k) + 1, v, log_decay, state.S, state.z)
        return self.project_out(o.flatten(-2)), LinearAttentionState(S, z)
