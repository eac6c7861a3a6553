"""The course of the learning rate: pure functions of the step, so that nothing about it has to be saved.

    rate_t = learning_rate * warm_t * f_t,     warm_t = min(1, (t + 1) / W)     t = 0 .. S - 1, W the warmup

    cosine     F + (1 - F) (1 + cos(pi u)) / 2                   u from 0 after the warmup to 1 at the last step
    wsd        1, then F + (1 - F) (1 - sqrt(u))                 u from 0 to 1 over the last `decay` of all steps
    noam       sqrt(W / (t + 1)) after the warmup
    constant   1

Cosine: Loshchilov, Hutter 2016, https://arxiv.org/abs/1608.03983. Warmup-stable-decay: Hu et al. 2024 (MiniCPM),
https://arxiv.org/abs/2404.06395; its 1 - sqrt from Hägele et al. 2024, https://arxiv.org/abs/2405.18392.
Noam: Vaswani et al. 2017, https://arxiv.org/abs/1706.03762.
"""

import math

from ostinato.registry import register


@register("train:cosine_schedule")
def cosine(step: int, steps: int, warmup: int, decay: float, final: float) -> float:
    """Learning rate that falls like half a cosine from the end of the warmup to the end of the run."""
    return final + (1 - final) * (1 + math.cos(math.pi * _part(step, warmup, steps))) / 2


@register("train:wsd_schedule")
def wsd(step: int, steps: int, warmup: int, decay: float, final: float) -> float:
    """Warmup, stable, decay: learning rate that stays where it is and falls in the last part of the run."""
    begin = max(warmup, steps - max(1, round(decay * steps)))
    return 1.0 if step < begin else final + (1 - final) * (1 - math.sqrt(_part(step + 1, begin, steps + 1)))


@register("train:noam_schedule", paper="transformer")
def noam(step: int, steps: int, warmup: int, decay: float, final: float) -> float:
    """Learning rate that falls with the root of the number of steps after a linear warmup."""
    return min(1.0, math.sqrt(max(warmup, 1) / (step + 1)))


def constant(step: int, steps: int, warmup: int, decay: float, final: float) -> float:
    """Learning rate that stays where it is."""
    return 1.0


SCHEDULES = {"cosine": cosine, "wsd": wsd, "noam": noam, "constant": constant}


def factor(name: str, step: int, steps: int, warmup: int, decay: float, final: float) -> float:
    """What the largest learning rate is multiplied with at a step, counted from 0."""
    warm = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return warm * (1.0 if step < warmup else SCHEDULES[name](step, steps, warmup, decay, final))


def _part(step: int, begin: int, end: int) -> float:
    """How far a step is from the first, `begin`, to the last, `end` - 1: 0 to 1."""
    return min(1.0, max(0, step - begin) / max(1, end - 1 - begin))
