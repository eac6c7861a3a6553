"""minLSTM: an LSTM whose gates and candidate see only the input, so that time runs in parallel.

    h_t = f'_t h_{t-1} + i'_t g(W_h x_t),   f' = f / (f + i),   i' = i / (f + i),   f, i = sigmoid(W_f x), sigmoid(W_i x)
    g(x) = x + 1/2 for x >= 0, sigmoid(x) below

Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, https://arxiv.org/abs/2410.01201.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from ostinato.contract import Mixer
from ostinato.layers.activations import positive
from ostinato.layers.linear import Linear
from ostinato.ops.scan import scan
from ostinato.registry import register


class MinLSTMState(NamedTuple):
    h: Tensor  # B N


@register("min_lstm", paper="min_gru")
class MinLSTM(Mixer):
    """minLSTM: forget and input gate share what is kept, and see only the input.

    dim: width D of input and output
    expansion: width N of the state as a multiple of D; at 1 there is no output projection
    """

    examples = (dict(dim=8), dict(dim=7, expansion=1.0))

    def __init__(self, dim: int, *, expansion: float = 1.5):
        super().__init__(dim)
        self.width = max(1, int(dim * expansion))
        self.project_in = Linear(dim, 3 * self.width, bias=False)  # candidate, forget gate, input gate
        self.project_out = nn.Identity() if expansion == 1 else Linear(self.width, dim, bias=False)

    def initial_state(self, batch: int) -> MinLSTMState:
        return MinLSTMState(torch.zeros(batch, self.width, **self.state_like))

    def state_bytes(self, tokens: int) -> int:
        return 4 * self.width

    def mix(self, x: Tensor, state: MinLSTMState, reset: Tensor | None) -> tuple[Tensor, MinLSTMState]:
        candidate, forget, write = self.project_in(x).to(state.h.dtype).chunk(3, -1)
        odds = logsigmoid(forget) - logsigmoid(write)  # log(f / i), so that neither gate is divided by
        keep = torch.sigmoid(odds)
        if reset is not None:
            keep = keep.masked_fill(reset[..., None], 0)
        h, last = scan(keep, torch.sigmoid(-odds) * positive(candidate), state.h)
        return self.project_out(h.to(x.dtype)), MinLSTMState(last)
