"""minGRU: a GRU whose gate and candidate see only the input, so that time runs in parallel.

    h_t = (1 - z_t) h_{t-1} + z_t g(W_h x_t),   z_t = sigmoid(W_z x_t),   g(x) = x + 1/2 for x >= 0, sigmoid(x) below

Feng, Tung, Ahmed, Bengio, Hajimirsadeghi 2024, https://arxiv.org/abs/2410.01201. The paper scans logarithms; g is positive
and gates lie between 0 and 1, so the plain scan gives the same numbers.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ostinato.contract import Mixer
from ostinato.layers.activations import positive
from ostinato.layers.linear import Linear
from ostinato.ops.scan import scan
from ostinato.registry import register


class MinGRUState(NamedTuple):
    h: Tensor  # B N


@register("min_gru", paper="min_gru")
class MinGRU(Mixer):
    """minGRU: h_t is an average of h_{t-1} and a candidate, weighted by a gate that sees only the input.

    dim: width D of input and output
    expansion: width N of the state as a multiple of D; at 1 there is no output projection
    """

    examples = (dict(dim=8), dict(dim=7, expansion=1.0))

    def __init__(self, dim: int, *, expansion: float = 1.5):
        super().__init__(dim)
        self.width = max(1, int(dim * expansion))
        self.project_in = Linear(dim, 2 * self.width, bias=False)  # candidate, gate
        self.project_out = nn.Identity() if expansion == 1 else Linear(self.width, dim, bias=False)

    def initial_state(self, batch: int) -> MinGRUState:
        return MinGRUState(torch.zeros(batch, self.width, **self.state_like))

    def state_bytes(self, tokens: int) -> int:
        return 4 * self.width

    def mix(self, x: Tensor, state: MinGRUState, reset: Tensor | None) -> tuple[Tensor, MinGRUState]:
        candidate, gate = self.project_in(x).to(state.h.dtype).chunk(2, -1)
        keep = torch.sigmoid(-gate)
        if reset is not None:
            keep = keep.masked_fill(reset[..., None], 0)
        h, last = scan(keep, torch.sigmoid(gate) * positive(candidate), state.h)
        return self.project_out(h.to(x.dtype)), MinGRUState(last)
