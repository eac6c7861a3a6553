"""The gated recurrent unit.

    r, z = σ(W x_t + R h_{t-1} + b),   n_t = tanh(W_n x_t + b_n + r (R_n h_{t-1} + b'_n)),   h_t = (1 - z) n_t + z h_{t-1}

Cho et al. 2014, https://arxiv.org/abs/1406.1078; there r acts before the product, n_t = tanh(W_n x_t + b_n + R_n (r h_{t-1})),
which `reset_before` gives. The other form, of cuDNN and torch, needs one product a step instead of two. Several heads
make R block-diagonal, as in FlashRNN (https://arxiv.org/abs/2412.07752). A width other than D takes a projection W_o h_t.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ostinato.mixers.nonlinear_rnn.recurrent import HiddenState, RecurrentMixer
from ostinato.ops.cells import gru
from ostinato.ops.recurrent_cells import ResetBeforeGRU
from ostinato.registry import register


@register("gru", paper=("gru_encoder_decoder", "gated_rnn_evaluation"))
class GRU(RecurrentMixer):
    """Gated recurrent unit: one gate chooses how much of the last output is kept, another how much of it the new one hears.

    dim: width D of input and output
    hidden: width of the recurrence; by default D; another width is projected back
    heads: number of heads, each of which hears itself only
    reset_before: whether the reset gate acts before the product with R, as in 2014; slower
    """

    examples = (dict(dim=8), dict(dim=9, hidden=6, heads=3), dict(dim=6, heads=2, reset_before=True))

    def __init__(self, dim: int, *, hidden: int | None = None, heads: int = 1, reset_before: bool = False):
        super().__init__(dim, hidden, heads, parts=3)
        self.recurrent = self.blocks(3)
        self.recurrent_bias = None if reset_before else nn.Parameter(torch.empty(self.state_shape))
        self.uniform(self.recurrent, self.recurrent_bias)

    def cell(self, kind: torch.dtype) -> ResetBeforeGRU:
        return ResetBeforeGRU(self.recurrent.to(kind))

    def mix(self, x: Tensor, state: HiddenState, reset: Tensor | None) -> tuple[Tensor, NamedTuple]:
        if self.recurrent_bias is None:
            return super().mix(x, state, reset)
        weight, bias = self.project_in.weight, self.project_in.bias
        y, after = gru(x, weight, bias, self.recurrent, self.recurrent_bias, state, reset)
        return self.project_out(y.flatten(-2)), HiddenState(*after)
