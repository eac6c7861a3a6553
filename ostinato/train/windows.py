"""A window of attention drawn anew for every step.

    w_t ~ uniform over the windows given;   the largest of them alone in the last part of the steps

A hybrid of attention in a window and a recurrence leans on the window where that is large, and its recurrence learns to
remember little. Steps with a small window teach it; those with a large one keep what the window is good for.

Cabannes, Beck, Szilvasy, Douze, Lomeli, Copet, Mazare, Synnaeve, Jegou 2025, https://arxiv.org/abs/2509.24552 (SWAX: windows
of 128 and 2048).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ostinato.data.shuffle import key
from ostinato.mixers.attention.attention import Attention
from ostinato.registry import register


@register("train:stochastic_window", paper="swax")
def stochastic_window(windows: Sequence[int], step: int, steps: int, *, final: float = 0.1, seed: int = 0) -> int:
    """The window of a step: the same in every process, and when a run is continued.

    windows: what is drawn from
    step: how many steps were made before this one
    steps: how many there are
    final: the part of all steps, at the end, that has the largest window
    seed: another one draws others
    """
    if step >= round(steps * (1 - final)):
        return max(windows)
    return windows[int(key(seed, 3, step)[0] >> 11) % len(windows)]


@contextmanager
def seeing(model: nn.Module, window: int | Sequence[int | None] | None) -> Iterator[None]:
    """Every attention of the model that has a window has this one for a while; None leaves them as they are.

    window: one for all of them, or one for each, in the order of `windowed_attention`
    """
    windowed = [] if window is None else windowed_attention(model)
    declared = [module.window for module in windowed]
    windows = [window] * len(windowed) if isinstance(window, int) else list(window or ())
    if len(windows) != len(windowed):
        raise ValueError(f"the model has {len(windowed)} layers with a window; got {len(windows)} windows")
    for module, other in zip(windowed, windows, strict=True):
        module.window = other
    try:
        yield
    finally:
        for module, own in zip(windowed, declared, strict=True):
            module.window = own


def windowed_attention(model: nn.Module) -> list[Attention]:
    """The modules whose window can be set."""
    return [module for module in model.modules() if isinstance(module, Attention) and module.window is not None]
