"""Causal convolution along time, one filter per channel.

    y_t = sum_{j < W} w_j x_{t-j}                 short_convolution

    x y  B T D    w  D W, the newest token's tap last (as in torch.nn.Conv1d)    state  B W-1 D, the last inputs

A reset cuts: no tap reaches back over the beginning of a document.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ostinato.kernels import cpu as kernels
from ostinato.ops.choice import Forms, choose
from ostinato.registry import register


def short_reference(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Step by step: shift the window, read it."""
    window, y = state, []
    for t in range(x.shape[1]):
        if reset is not None:
            window = window.masked_fill(reset[:, t, None, None], 0)
        window = torch.cat([window, x[:, t, None]], 1)
        y.append((window * weight.T).sum(1))
        window = window[:, 1:]
    return torch.stack(y, 1), window


def short_shifted(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """All steps at once, tap by tap."""
    T, W = x.shape[1], weight.shape[1]
    past = torch.cat([state, x], 1)
    y = past[:, W - 1 :] * weight[:, -1]
    if reset is None:
        for j in range(1, W):
            y = torch.addcmul(y, past[:, W - 1 - j : W - 1 - j + T], weight[:, -1 - j])
        return y, past[:, T:].clone()  # a view would keep the whole piece alive
    document = pad(reset.cumsum(1), (W - 1, 0))
    for j in range(1, W):
        reached = slice(W - 1 - j, W - 1 - j + T)
        same = document[:, reached] == document[:, W - 1 :]
        y = torch.addcmul(y, past[:, reached] * same[..., None], weight[:, -1 - j])
    return y, past[:, T:] * (document[:, T:] == document[:, -1:])[..., None]


def short_kernel(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same, row by row, as fast as memory is read and written: `ostinato.kernels.cpu.short_convolution`."""
    if not _suits_kernel(x, weight, state):
        raise ValueError(
            "the cpu form of the short convolution reads float32 on a CPU and filters of at most 256 taps; "
            f"got {state.dtype} on {state.device}, {weight.shape[1]} taps"
        )
    from ostinato.kernels.cpu.short_convolution import short_convolution as run

    return run(x, weight, state, reset)


def _suits_kernel(x: Tensor, weight: Tensor, state: Tensor) -> bool:
    return weight.shape[1] <= 256 and kernels.suits(x, weight, state)


SHORT_FORMS: Forms = {"reference": short_reference, "torch": short_shifted, "cpu": short_kernel}


@register("op:short_convolution")
def short_convolution(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Short causal depthwise convolution y_t = sum_j w_j x_{t-j}.

    x: (B, T, D)
    weight: (D, W), the newest token's tap last
    state: (B, W - 1, D), the inputs before the first one; everything is computed in its type
    reset: (B, T) bool, True where a document begins

    Returns y (B, T, D) in the type of x and the last W - 1 inputs.
    """
    arguments = x.to(state.dtype), weight.to(state.dtype), state
    suits = "cpu" if x.shape[1] > 1 and _suits_kernel(*arguments) else "torch"
    y, after = choose(SHORT_FORMS, suits)(*arguments, reset)
    return y.to(x.dtype), after
