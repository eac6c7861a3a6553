"""The short causal convolution that many mixers put before their recurrence."""

from typing import Any

import torch
from torch import Tensor, nn

from ostinato.ops.convolution import short_convolution


class ShortConvolution(nn.Module):
    """y_t = activation(bias + sum_j w_j x_{t-j}), one filter per channel.

    dim: number of channels D
    width: number of taps W: the current token and the W - 1 before it
    bias: whether a bias is added
    """

    def __init__(self, dim: int, width: int = 4, *, bias: bool = False):
        super().__init__()
        if width < 1:
            raise ValueError(f"width is the number of taps, at least 1; got {width}")
        self.weight = nn.Parameter(torch.empty(dim, width).uniform_(-(width**-0.5), width**-0.5))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None

    def initial_state(self, batch: int, **like: Any) -> Tensor:
        """The last W - 1 inputs before the beginning: zeros (B, W - 1, D)."""
        dim, width = self.weight.shape
        return torch.zeros(batch, width - 1, dim, **like)

    @property
    def state_bytes(self) -> int:
        dim, width = self.weight.shape
        return 4 * (width - 1) * dim

    def forward(self, x: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
        """(B, T, D), the inputs before them -> (B, T, D), the last inputs."""
        y, state = short_convolution(x, self.weight, state, reset)
        return (y if self.bias is None else y + self.bias), state
