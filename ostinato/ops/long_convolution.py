"""Causal convolution along time with a filter as long as the sequence, one per channel.

    y_t = sum_{j < L} w_j x_{t-j}

    x y    B T D
    w      D L      by lag: w_0 meets the token itself
    state  B S D    the last S = min(tokens so far, L - 1) inputs, the newest last
    reset  B T      True cuts: no tap reaches back over the beginning of a document

`reference` is the direct sum. The torch form multiplies Fourier transforms, T log T instead of T L. What circles around
falls on the S inputs of before, whose outputs nobody wants, so transforms of max(S + T, T + L - 1) numbers are enough.
A document that begins within the piece has no inputs of before; such documents are taken out and convolved as rows of
batches of their own, one batch for each power of two that their lengths round up to: at most 2 T tokens in all.
Its known weakness: outputs are as exact as the largest number of the row allows (in float32, 1e-7 of it), and what is
not a number spoils the whole row.
"""

import torch
from torch import Tensor
from torch.fft import irfft, rfft

from ostinato.ops.choice import Forms, choose
from ostinato.registry import register


def reference(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """Step by step: lengthen the window, read it, drop what is too old."""
    window, L, y = state, weight.shape[1], []
    for t in range(x.shape[1]):
        if reset is not None:
            window = window.masked_fill(reset[:, t, None, None], 0)
        window = torch.cat([window, x[:, t, None]], 1)
        y.append((window.flip(1) * weight[:, : window.shape[1]].T).sum(1))
        window = _newest(window, L - 1)
    return torch.stack(y, 1), window


def _newest(inputs: Tensor, count: int) -> Tensor:
    return (inputs[:, max(0, inputs.shape[1] - count) :]).clone()  # a view would keep the whole piece alive


def _transform_size(least: int) -> int:
    """The next size that is quick to transform: a power of two, or 5/8 or 3/4 of one."""
    power = 1 << max(3, (least - 1).bit_length())
    return min(size for size in (power * 5 // 8, power * 3 // 4, power) if size >= least)


def _convolve(inputs: Tensor, weight: Tensor, T: int) -> Tensor:
    """The outputs of the last T of the inputs, (B, S + T, D) -> (B, T, D)."""
    total = inputs.shape[1]
    weight = weight[:, :total]
    n = _transform_size(max(total, T + weight.shape[1] - 1))
    y = irfft(rfft(inputs.transpose(1, 2), n) * rfft(weight, n), n)
    return y[..., total - T : total].transpose(1, 2)


def fourier(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    """The same by fast Fourier transforms."""
    T, L = x.shape[1], weight.shape[1]
    if reset is None:
        inputs = torch.cat([state, x], 1)
        return _convolve(inputs, weight, T), _newest(inputs, L - 1)
    document = reset.cumsum(1)
    first = (document == 0)[..., None]
    y = _convolve(torch.cat([state, x * first], 1), weight, T) * first
    rows, begins = reset.nonzero(as_tuple=True)
    following = begins.roll(-1)
    ends = following.where((rows.roll(-1) == rows) & (following > begins), T)
    for size in [1 << i for i in range((T - 1).bit_length() + 1)]:
        chosen = ((ends - begins <= size) & (2 * (ends - begins) > size)).nonzero()[:, 0]
        if not len(chosen):
            continue
        tokens = begins[chosen, None] + torch.arange(size, device=x.device)
        inside = tokens < ends[chosen, None]
        row, token = rows[chosen, None].expand_as(tokens)[inside], tokens[inside]
        documents = x.new_zeros(*tokens.shape, x.shape[2]).masked_scatter(inside[..., None], x[row, token])
        y = y.index_put((row, token), _convolve(documents, weight, size)[inside])
    last = document[:, -1:]
    inputs = torch.cat([state * (last == 0)[..., None], x * (document == last)[..., None]], 1)
    return y, _newest(inputs, L - 1)


FORMS: Forms = {"reference": reference, "torch": fourier}


@register("op:long_convolution", paper="s4")
def long_convolution(x: Tensor, weight: Tensor, state: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Long causal depthwise convolution y_t = sum_{j < L} w_j x_{t-j}.

    x: (B, T, D)
    weight: (D, L), by lag: weight[:, 0] meets the token itself
    state: (B, S, D), the inputs before the first one, at most L - 1; (B, 0, D) at the beginning. Everything is
        computed in its type
    reset: (B, T) bool, True where a document begins

    Returns y (B, T, D) in the type of x and the last min(S + T, L - 1) inputs.
    """
    form = choose(FORMS, suits="reference" if x.shape[1] == 1 else "torch")
    y, after = form(x.to(state.dtype), weight.to(state.dtype), state, reset)
    return y.to(x.dtype), after
