"""How the next token is drawn from the logits.

    p = softmax(min_p(top_p(top_k(logits / temperature))))
    token = the first i with p_1 + ... + p_i > u,   u = uniform(seed + row, draw) in [0, 1)

A filter sets the logits of tokens that may not be drawn to minus infinity; each sees what the one before it left. u is a
function of two numbers and nothing else (Philox: Salmon, Moraes, Dror, Shaw 2011, https://doi.org/10.1145/2063384.2063405):
no generator is advanced, so a sampler is a value, the global random state plays no part, and a text continues exactly
from the number of its draws.

Top k: Fan, Lewis, Dauphin 2018, https://arxiv.org/abs/1805.04833. Top p: Holtzman, Buys, Du, Forbes, Choi 2019,
https://arxiv.org/abs/1904.09751. Min p: Nguyen et al. 2024, https://arxiv.org/abs/2407.01082.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor


def temperature(logits: Tensor, temperature: float) -> Tensor:
    """Sharper below 1, flatter above it."""
    return logits / temperature


def top_k(logits: Tensor, k: int) -> Tensor:
    """The k likeliest tokens, and those that are as likely as the last of them."""
    least = logits.topk(min(k, logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_p(logits: Tensor, p: float) -> Tensor:
    """The fewest tokens, likeliest first, that have a probability of p together."""
    ordered, order = logits.sort(stable=True)  # from the unlikeliest, whose small sums lose no digits
    dropped = ordered.softmax(-1).cumsum(-1) <= 1 - p
    dropped[..., -1] = False
    return logits.masked_fill(dropped.scatter(-1, order, dropped), -torch.inf)


def min_p(logits: Tensor, p: float) -> Tensor:
    """The tokens that are at least p times as likely as the likeliest."""
    probability = logits.softmax(-1)
    return logits.masked_fill(probability < p * probability.amax(-1, keepdim=True), -torch.inf)


FILTERS: dict[str, Callable[[Tensor, Any], Tensor]] = {
    "temperature": temperature,
    "top_k": top_k,
    "top_p": top_p,
    "min_p": min_p,
}
"""What a sampler may be asked for, in the order in which it is done."""


@dataclass(frozen=True)
class Sampler:
    """Draws tokens from logits: (B, vocab) and the number of the draw -> (B,) tokens.

    temperature: 0 takes the likeliest token; 1 draws as the model predicts; larger wanders more
    top_k: draw from the k likeliest tokens only; None for all
    top_p: draw from the fewest likeliest tokens that have this probability together; None for all
    min_p: draw from tokens at least this many times as likely as the likeliest; None for all
    seed: the same seed gives the same tokens; row r of a batch draws as a single row does with seed + r
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        accepted = {
            "temperature": ("a number from 0 on", _is_number(self.temperature) and self.temperature >= 0),
            "top_k": ("a whole number from 1 on", self.top_k is None or (_is_whole(self.top_k) and self.top_k >= 1)),
            "top_p": ("above 0 and at most 1", self.top_p is None or (_is_number(self.top_p) and 0 < self.top_p <= 1)),
            "min_p": ("from 0 to 1", self.min_p is None or (_is_number(self.min_p) and 0 <= self.min_p <= 1)),
            "seed": ("a whole number from 0 to 2^63 - 1", _is_whole(self.seed) and 0 <= self.seed < 2**63),
        }
        for name, (what, holds) in accepted.items():
            if not holds:
                raise ValueError(f"{name} is {what}; got {getattr(self, name)!r}")

    def __call__(self, logits: Tensor, draw: int) -> Tensor:
        logits = logits.detach().to("cpu", torch.float64)
        # the largest is NaN if any logit is
        if not logits.amax(-1).isfinite().all():
            raise ValueError("the model predicts no probabilities here: its logits are NaN or infinite")
        if self.temperature == 0:
            return logits.argmax(-1)
        logits = logits - logits.amax(-1, keepdim=True)  # nothing overflows, however small the temperature
        for name, keep in FILTERS.items():
            value = getattr(self, name)
            if value is not None:
                logits = keep(logits, value)
        below = logits.softmax(-1).cumsum(-1)
        u = torch.tensor([[uniform(self.seed + row, draw)] for row in range(len(logits))], dtype=torch.float64)
        # u < 1 keeps this below the whole sum, and `right` steps over tokens without probability
        return torch.searchsorted(below, u * below[:, -1:], right=True)[:, 0]


def uniform(seed: int, draw: int) -> float:
    """A number in [0, 1) that is determined by these two, as good as random in both."""
    bits = np.random.Philox(key=seed, counter=[draw, 0, 0, 0]).random_raw()
    return (bits >> 11) * 2.0**-53


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
