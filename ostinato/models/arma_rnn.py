"""ARMA-RNN: features of single frames, a window of them that may look ahead, and a recurrence that forgets how it began.

    v_t = f(V_L ... f(V_1 x_t)),   h_t = f(R h_{t-1} + sum_{j=-a}^{b} W_j v_{t-j} + c),   y_t = U h_t

The recurrence is the autoregressive part, the window the moving average: b frames back and a ahead. With a > 0 whole
sequences are read. Where max_i sum_j |R_ij| < 1 / max |f'|, which is 4 for a sigmoid and 1 for tanh and relu, the states of any
two beginnings come together: the echo-state property. `train/echo_state.py` keeps it in training; a fresh model has it.

Chen, Deng 2013, https://arxiv.org/abs/1311.6091.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ostinato.contract import SequenceModule, width_or
from ostinato.layers.linear import Linear
from ostinato.mixers.nonlinear_rnn.recurrent import check_activation
from ostinato.ops.dilated_convolution import delayed
from ostinato.ops.matrix_mixer import edges
from ostinato.ops.recurrent_cells import ACTIVATIONS, Elman
from ostinato.ops.rnn import rnn
from ostinato.registry import register

STEEPEST = {"tanh": 1.0, "relu": 1.0, "sigmoid": 0.25}
"""The largest derivative of each function."""


class ARMAState(NamedTuple):
    h: Tensor  # B 1 N
    window: Tensor  # B b F, the last features


@register("model:arma_rnn", paper="primal_dual_esp")
class ARMARNN(SequenceModule):
    """ARMA-RNN: a network reads each frame, a window of what it says goes into a simple recurrent network.

    dim: width D of a frame
    features: widths of the layers that read a frame alone; none for the frame itself
    hidden: width N of the recurrence; by default D
    behind: how many frames before the current one are heard directly, b
    ahead: how many frames after it, a; more than 0 makes a model that reads whole sequences
    activation: f, "sigmoid", "tanh" or "relu"
    outputs: width of the output; by default D
    """

    kind = "model"
    examples = (
        dict(dim=5, features=[4], hidden=6, behind=2, activation="tanh"),
        dict(dim=4, hidden=5, behind=1, ahead=2, outputs=3),
    )

    def __init__(
        self,
        dim: int,
        *,
        features: Sequence[int] = (),
        hidden: int | None = None,
        behind: int = 0,
        ahead: int = 0,
        activation: str = "sigmoid",
        outputs: int | None = None,
    ):
        super().__init__(dim)
        check_activation(activation)
        if min(behind, ahead) < 0 or min([1, *features]) < 1:
            raise ValueError(
                f"behind and ahead are at least 0 and features at least 1; got {behind}, {ahead} and {list(features)}"
            )
        self.behind, self.ahead, self.activation = behind, ahead, activation
        self.causal = ahead == 0
        widths = [dim, *features]
        self.features = nn.ModuleList(Linear(*pair) for pair in zip(widths, widths[1:]))
        N = self.hidden = width_or(dim, hidden)
        self.project_in = Linear((behind + 1 + ahead) * widths[-1], N)
        self.recurrent = nn.Parameter(torch.empty(1, N, N).uniform_(-self.bound / N, self.bound / N))
        self.project_out = Linear(N, width_or(dim, outputs, "outputs"))
        self.width = widths[-1]

    @property
    def bound(self) -> float:
        """What the absolute weights of a unit's past may add up to."""
        return 1 / STEEPEST[self.activation]

    def constrained(self) -> tuple[Tensor, float]:
        """The weights of the past as rows, one for each unit, (N, N), and the bound on what a row adds up to."""
        return self.recurrent[0].T, self.bound

    def initial_state(self, batch: int) -> ARMAState:
        h = torch.zeros(batch, 1, self.hidden, **self.state_like)
        return ARMAState(h, torch.zeros(batch, self.behind, self.width, **self.state_like))

    def through(
        self, x: Tensor, state: ARMAState, begins: Tensor | None, ends: Tensor | None
    ) -> tuple[Tensor, ARMAState]:
        """(B, T, D) -> the outputs, and the state."""
        f = ACTIVATIONS[self.activation]
        for layer in self.features:
            x = f(layer(x))
        window, after = delayed(x, state.window, self.behind + 1, reset=begins)
        if self.ahead:
            nothing = x.new_zeros(len(x), self.ahead, x.shape[-1])
            back, _ = delayed(x.flip(1), nothing, self.ahead + 1, reset=None if ends is None else ends.flip(1))
            window = [*window, *(each.flip(1) for each in reversed(back[:-1]))]
        gates = self.project_in(torch.cat(window, -1))[:, :, None, None]
        h, (last,) = rnn(Elman(self.recurrent.to(state.h.dtype), self.activation), gates, (state.h,), begins)
        return self.project_out(h.flatten(-2).to(x.dtype)), ARMAState(last, after)

    def read(self, x: Tensor, state: ARMAState, reset: Tensor | None) -> tuple[Tensor, ARMAState]:
        return self.through(x, state, reset, None)

    def encode(self, x: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
        y, _ = self.through(x, self.initial_state(len(x)), *edges(x, mask, reset))
        return y if mask is None else y * mask[..., None]
