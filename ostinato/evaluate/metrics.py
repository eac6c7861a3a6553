"""What is reported of losses, as pure functions, and the sums that it takes.

    loss           = nats / tokens                    mean cross-entropy of the tokens that are predicted
    perplexity     = exp(loss)
    bits per byte  = nats / (bytes ln 2)              bytes of those tokens: compares models with different tokenizers
    standard error = sqrt(W / (W - 1) sum_w (nats_w - loss tokens_w)^2) / tokens

The standard error takes the W windows of text to be independent, not their tokens, which are not: it is that of a ratio
of sums (Cochran 1977, Sampling Techniques, section 6.4).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def bits_per_byte(nats: float, bytes: float) -> float:
    """Bits that a code by this model needs for a byte of the text."""
    return nats / (bytes * math.log(2))


def perplexity(nats: float, tokens: float) -> float:
    """Of how many equally likely tokens the next one is one, so to speak; infinite where a float cannot hold it."""
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


def positions(reset: Tensor) -> Tensor:
    """How much of its document a row has seen with each input: (B, T) bool -> (B, T), 1 for the first."""
    place = torch.arange(1, reset.shape[1] + 1, device=reset.device).expand(reset.shape)
    return place - torch.where(reset, place - 1, 0).cummax(1).values


def position_edges(length: int, lengths: tuple[int, ...] = ()) -> list[int]:
    """The last position of each range in which losses are reported: 1, 2, 4, 8, ..., with these lengths among them."""
    powers = [1 << k for k in range(length.bit_length()) if 1 << k < length]
    return sorted({*powers, *(other for other in lengths if 1 <= other < length), length})


class Sums(NamedTuple):
    """Sums over windows of text, for each of K classes of tokens. What `add` makes of two is that of all windows."""

    windows: Tensor  # K, windows with such tokens
    tokens: Tensor  # K
    bytes: Tensor  # K
    nats: Tensor  # K
    nats_nats: Tensor  # K, sums over windows of products of their sums
    nats_tokens: Tensor  # K
    tokens_tokens: Tensor  # K


def nothing(classes: int) -> Sums:
    """The sums over no windows."""
    return Sums(*torch.zeros(len(Sums._fields), classes, dtype=torch.float64))


def sums_of(losses: Tensor, sizes: Tensor, counted: Tensor, classes: Tensor, number: int) -> Sums:
    """The sums of B windows of T tokens.

    losses: (B, T), nats
    sizes: (B, T), bytes of the tokens
    counted: (B, T) bool, whether they count
    classes: (B, T), 0 to number - 1
    """
    B = len(losses)
    place = (classes + number * torch.arange(B, device=classes.device)[:, None])[counted]

    def by_window(values: Tensor) -> Tensor:
        return torch.bincount(place, values[counted].double(), minlength=B * number).view(B, number)

    nats, tokens = by_window(losses), by_window(torch.ones_like(losses))
    return Sums(
        (tokens > 0).sum(0),
        tokens.sum(0),
        by_window(sizes).sum(0),
        nats.sum(0),
        (nats * nats).sum(0),
        (nats * tokens).sum(0),
        (tokens * tokens).sum(0),
    )


def add(one: Sums, other: Sums) -> Sums:
    """The sums over the windows of both."""
    return Sums(*(a + b for a, b in zip(one, other, strict=True)))


def summary(sums: Sums, index: int) -> dict[str, float | int | None]:
    """What is reported of one class. Means of nothing, the standard error of one window, and infinity are None."""
    windows, tokens, size, nats, nats_nats, nats_tokens, tokens_tokens = (float(field[index]) for field in sums)
    loss = nats / tokens if tokens else None
    error = None
    if loss is not None and windows > 1:
        spread = nats_nats - 2 * loss * nats_tokens + loss**2 * tokens_tokens
        error = math.sqrt(max(spread, 0.0) * windows / (windows - 1)) / tokens
    return {
        "tokens": int(tokens),
        "bytes": int(size),
        "loss": loss,
        "standard_error": error,
        "bits_per_byte": bits_per_byte(nats, size) if size else None,
        "perplexity": _finite(perplexity(nats, tokens)) if tokens else None,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity."""
    return value if math.isfinite(value) else None
