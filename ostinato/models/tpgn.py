"""TPGN: a series is laid out as periods below each other, and forecast from what changes along and across them.

    X = the last R P values, normalised, as (R periods, P phases)
    long_p  = W_l [PGN over the periods of X_{., p}]                       for each phase, over all R periods
    short   = W_c [W_r X_1; ...; W_r X_R]                                  each period to a vector, then all of them to one
    (period R + i, phase p) = W_o [short; long_p]_i                        for the periods to come, back on the series' scale

Every token gives the forecast of those that follow it. Before the beginning of a document there are zeros, and mean and
standard deviation are those of the values that there are. Channels are read apart from each other, by the same weights.

Jia, Lin, Chen, Bai, Li 2024, https://arxiv.org/abs/2409.17703, where each channel has weights of its own.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ostinato.contract import SequenceModule
from ostinato.layers.linear import Linear
from ostinato.mixers.nonlinear_rnn.pgn import PGN
from ostinato.ops.dilated_convolution import delayed
from ostinato.registry import register


class TPGNState(NamedTuple):
    window: Tensor  # B (R P - 1) D+1, the last values; in the last channel 1 where there is one


@register("model:tpgn", paper="pgn_tpgn")
class TPGN(SequenceModule):
    """TPGN: forecasts a series from periods, with a parallel gated network across them and linear maps along them.

    It reads (B, T, dim) and gives (B, T, horizon C) for the C channels that are forecast, the next value first; `forecast`
    gives that of the last token alone.

    dim: number of channels
    period: values in a period P
    periods: how many periods R it looks back, at least 2
    horizon: how many values it looks ahead
    hidden: width of both branches
    marks: how many channels, the last ones, are known of each time, such as its hour, and not forecast
    eps: what is added to a variance
    """

    kind = "model"
    widest_measured = 4
    """Its width is a number of series, which `ostinato info` measures a few of: each token reads the window of all of them."""
    examples = (
        dict(dim=2, period=4, periods=3, horizon=6, hidden=5),
        dict(dim=3, period=3, periods=2, horizon=2, hidden=4, marks=2),
    )

    def __init__(
        self,
        dim: int,
        *,
        period: int = 24,
        periods: int = 7,
        horizon: int = 96,
        hidden: int = 64,
        marks: int = 0,
        eps: float = 1e-5,
    ):
        super().__init__(dim)
        if min(period, horizon, hidden) < 1 or periods < 2:
            raise ValueError(
                "period, horizon and hidden are at least 1 and periods at least 2;"
                f" got {period}, {horizon}, {hidden} and {periods}"
            )
        if not 0 <= marks < dim:
            raise ValueError(f"marks is how many of the {dim} channels are not forecast, fewer than all; got {marks}")
        self.period, self.periods, self.horizon, self.marks, self.eps = period, periods, horizon, marks, eps
        self.pgn = PGN(1 + marks, hidden=hidden, window=periods - 1)
        self.pgn.project_out = nn.Identity()
        self.project_periods = Linear(periods * hidden, hidden)
        self.project_row = Linear(period * (1 + marks), hidden)
        self.project_column = Linear(periods * hidden, hidden)
        self.project_out = Linear(2 * hidden, -(-horizon // period))

    @property
    def length(self) -> int:
        """Values that a forecast looks back on."""
        return self.period * self.periods

    def initial_state(self, batch: int) -> TPGNState:
        return TPGNState(torch.zeros(batch, self.length - 1, self.dim + 1, **self.state_like))

    def read(self, x: Tensor, state: TPGNState, reset: Tensor | None) -> tuple[Tensor, TPGNState]:
        marked = pad(x.to(state.window.dtype), (0, 1), value=1)
        values, window = delayed(marked, state.window, self.length, reset=reset)
        y = self.ahead(torch.stack(values, 2).flatten(0, 1), x.dtype)
        return y.flatten(1).unflatten(0, x.shape[:2]), TPGNState(window)

    def forecast(self, x: Tensor) -> Tensor:
        """The values after a series: (B, T, dim) -> (B, horizon, C)."""
        self.check_input(x)
        kind = torch.promote_types(x.dtype, torch.float32)
        window = pad(x[:, -self.length :].to(kind), (0, 1), value=1)
        return self.ahead(pad(window, (0, 0, self.length - window.shape[1], 0)), x.dtype)

    def ahead(self, window: Tensor, kind: torch.dtype) -> Tensor:
        """The values after each window, in that type: (N, R P, dim + 1) -> (N, horizon, C)."""
        real, values = window[..., -1:], window[..., : self.dim - self.marks]
        count = real.sum(1, keepdim=True)
        mean = (values * real).sum(1, keepdim=True) / count
        values = (values - mean) * real
        deviation = (values.square().sum(1, keepdim=True) / count + self.eps).sqrt()
        known = window[..., self.dim - self.marks : self.dim]
        each = (values / deviation).mT[..., None]  # N C RP 1
        grid = torch.cat([each, known[:, None].expand(-1, each.shape[1], -1, -1)], -1).to(kind)
        grid = grid.unflatten(2, (self.periods, self.period))  # N C R P F
        y = self.branches(grid).to(window.dtype)
        return (y * deviation + mean).to(kind)

    def branches(self, grid: Tensor) -> Tensor:
        """What follows on periods: (N, C, R, P, F) -> (N, horizon, C)."""
        N, C = grid.shape[:2]
        columns = grid.permute(0, 1, 3, 2, 4).flatten(0, 2)  # N C P, R, F
        h, _ = self.pgn.hidden_states(columns, self.pgn.initial_state(len(columns)), None)
        long = self.project_periods(h.flatten(1)).view(N, C, self.period, -1)
        short = self.project_column(self.project_row(grid.flatten(3)).flatten(2))
        both = torch.cat([short[:, :, None].expand_as(long), long], -1)
        return self.project_out(both).permute(0, 3, 2, 1).flatten(1, 2)[:, : self.horizon]
