"""DeltaNet: a matrix memory that writes only what differs from what it recalls.

    q, k, v = silu(convolution(W x_t)),   q and k of length 1,   beta_t = sigmoid(w x_t)            per head
    S_t = (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   o_t = S_t^T q_t / sqrt(K),   y_t = W_o norm(o_t)

With beta twice as large, in (0, 2), the eigenvalue 1 - beta may be negative, which state tracking (parity) needs.

Schlag, Irie, Schmidhuber 2021, https://arxiv.org/abs/2102.11174; the layer is that of Yang, Wang, Zhang, Shen, Kim 2024,
https://arxiv.org/abs/2406.06484; negative eigenvalues: Grazzi et al. 2024, https://arxiv.org/abs/2411.12537.
"""

import torch
from torch import Tensor

from ostinato.contract import per_head
from ostinato.layers.gates import forget_at
from ostinato.layers.norms import RMSNorm
from ostinato.mixers.linear_recurrence.convolved_memory import ConvolvedMemory, MemoryState
from ostinato.ops.delta_rule import delta_rule
from ostinato.registry import register


@register("deltanet", paper="gated_deltanet")
class DeltaNet(ConvolvedMemory):
    """DeltaNet: a matrix memory per head that corrects what it recalls.

    Nothing decays. A fresh model writes with beta near 1/2, which takes 3/4 of the squared size out of what is stored in
    the direction of the new key: of what a head holds, about (1 - 3 / 4K)^n is left after n random tokens. Keys lean to
    one side after silu, so it is a little more: 0.99, 0.84 and 0.51 after 1, 16 and 64 tokens for K = 64.

    dim: width D of input and output
    heads: number of heads H
    key_dim: key width K of a head; by default D / H
    value_dim: value width V of a head; by default D / H
    conv_width: taps of the short convolution
    negative_eigenvalues: whether beta lies in (0, 2) instead of (0, 1)
    eps: what the norm of the output adds to the mean square
    """

    examples = (
        dict(dim=8, heads=2),
        dict(dim=12, heads=3, key_dim=4, value_dim=5, conv_width=2, negative_eigenvalues=True),
    )

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        key_dim: int | None = None,
        value_dim: int | None = None,
        conv_width: int = 4,
        negative_eigenvalues: bool = False,
        eps: float = 1e-5,
    ):
        key_dim = key_dim or per_head(dim, heads)
        value_dim = value_dim or per_head(dim, heads)
        super().__init__(dim, heads, key_dim, value_dim, conv_width, heads)  # and beta
        self.largest_beta = 2 if negative_eigenvalues else 1
        self.norm = RMSNorm(value_dim, eps=eps)

    def mix(self, x: Tensor, state: MemoryState, reset: Tensor | None) -> tuple[Tensor, MemoryState]:
        q, k, v, (beta,), inputs = self.convolve(x, state, reset)
        beta = self.largest_beta * torch.sigmoid(beta.to(state.S.dtype))
        o, S = delta_rule(q, k, v, beta, forget_at(None, reset, heads=self.state_shape[0]), state.S)
        return self.project_out(self.norm(o).flatten(-2)), MemoryState(S, inputs)
