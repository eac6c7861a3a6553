"""Noise on gradients, less and less of it: what is hard to begin with may be left.

    g_t = g_t + N(0, s_t^2),   s_t^2 = eta / (1 + t)^gamma

Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach, Martens 2015, https://arxiv.org/abs/1511.06807: eta of 0.01, 0.3 or 1,
gamma of 0.55. Here after gradients have been clipped, so that noise is as large as it says.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ostinato.registry import register


def variance(step: int, eta: float, gamma: float = 0.55) -> float:
    """s_t^2 in the update that follows `step` others."""
    return eta / (1 + step) ** gamma


@register("train:gradient_noise", paper="gradient_noise")
@torch.no_grad()
def gradient_noise(
    parameters: Iterable[Tensor],
    step: int,
    eta: float = 0.01,
    *,
    gamma: float = 0.55,
    generator: torch.Generator | None = None,
) -> None:
    """Add noise to the gradients of parameters, in place.

    parameters: those without a gradient are left alone
    step: how many updates were made before this one
    eta: variance in the first update; 0 for no noise
    gamma: how fast the variance falls
    generator: draws the noise, on the device of the parameters
    """
    if eta < 0 or gamma < 0 or step < 0:
        raise ValueError(f"eta, gamma and step are at least 0; got {eta}, {gamma} and {step}")
    if eta == 0:
        return
    deviation = variance(step, eta, gamma) ** 0.5
    for parameter in parameters:
        if (g := parameter.grad) is not None:
            g.add_(torch.randn(g.shape, dtype=g.dtype, device=g.device, generator=generator), alpha=deviation)
