"""The parallel gated network: a gated cell whose past is a window of inputs, read at once instead of step by step.

    H_t = W_h [x_{t-w}, ..., x_{t-1}] + b,   G_t = σ(W_g [x_t, H_t] + b_g),   H'_t = tanh(W_n [x_t, H_t] + b_n)
    y_t = G_t * H_t + (1 - G_t) * H'_t

Jia, Lin, Chen, Bai, Li 2024, https://arxiv.org/abs/2409.17703: every token is one step away from any other in the window.
Before the beginning of a document the window holds zeros.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ostinato.contract import Mixer, width_or
from ostinato.layers.linear import Linear
from ostinato.ops.dilated_convolution import delayed
from ostinato.registry import register


class PGNState(NamedTuple):
    window: Tensor  # B w D


@register("pgn", paper="pgn_tpgn")
class PGN(Mixer):
    """Parallel gated network: a linear layer over the last inputs stands for the hidden state of a recurrence.

    dim: width D of input and output
    hidden: width of H; by default D; another width is projected back
    window: number w of inputs before the current one that it sees
    """

    examples = (dict(dim=8, window=5), dict(dim=7, hidden=5, window=80))

    def __init__(self, dim: int, *, hidden: int | None = None, window: int = 16):
        super().__init__(dim)
        if window < 1:
            raise ValueError(f"window is how many inputs are seen, at least 1; got {window}")
        hidden = width_or(dim, hidden)
        self.window = window
        self.project_window = Linear(window * dim, hidden)
        self.project_gates = Linear(dim + hidden, 2 * hidden)
        self.project_out = Linear(hidden, dim, bias=False) if hidden != dim else nn.Identity()

    def initial_state(self, batch: int) -> PGNState:
        return PGNState(torch.zeros(batch, self.window, self.dim, **self.state_like))

    def hidden_states(self, x: Tensor, state: PGNState, reset: Tensor | None) -> tuple[Tensor, PGNState]:
        """What the cell says before the projection, (B, T, hidden), and the state."""
        (*past, now), window = delayed(x, state.window, self.window + 1, reset=reset)
        H = self.project_window(torch.cat(past, -1))
        gate, new = self.project_gates(torch.cat([now, H], -1)).chunk(2, -1)
        return torch.lerp(new.tanh(), H, gate.sigmoid()), PGNState(window)

    def mix(self, x: Tensor, state: PGNState, reset: Tensor | None) -> tuple[Tensor, PGNState]:
        h, after = self.hidden_states(x, state, reset)
        return self.project_out(h), after
