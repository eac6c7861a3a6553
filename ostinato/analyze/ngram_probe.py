"""Which attention heads follow n-grams: how much of their weight lies on tokens that came after the latest n tokens before.

    M^n_ij = 1[ x_i = x_{j-1}, ..., x_{i-n+1} = x_{j-n} ],  j <= i
    share  = mean over i with any such j of  sum_j M^n_ij A_ij;      even = the same for A_ij = 1 / (tokens that i sees)

A head of order n has a share near 1; one that looks around has `even`. An order implies the lower ones.

Akyurek, Wang, Kim, Andreas 2024, https://arxiv.org/abs/2401.12973: Transformers that learn languages in context have such heads
of orders 1 and 2.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ostinato.layers.positions import document_positions
from ostinato.mixers.attention.cached import CachedAttention
from ostinato.mixers.attention.ngram_head import matches
from ostinato.models.modes import undisturbed
from ostinato.registry import register


class HeadShare(NamedTuple):
    """How much a head follows n-grams of one order."""

    layer: str
    head: int
    order: int
    share: float
    even: float


def attention_weights(mixer: CachedAttention, x: Tensor) -> Tensor:
    """What each token of (B, T, D) gives to each: (B, H, T, T), read off by values that are one 1 each."""
    B, T, _ = x.shape
    q, memory = mixer.project(x, document_positions(torch.zeros(B, dtype=torch.long, device=x.device), T, None))
    if len(memory) != 2:
        raise ValueError(
            f"weights are those of attention to keys and values; {type(mixer).__name__} remembers other things"
        )
    keys = memory[0]
    ones = torch.eye(T, dtype=keys.dtype, device=x.device)[None, :, None].expand(B, T, keys.shape[2], T)
    read = mixer.attend(q, keys, ones, causal=True, live=None, reset=None, window=mixer.window)
    return read.transpose(1, 2)


@register("analyze:ngram_probe", paper="icll")
@torch.no_grad()
def ngram_probe(model: torch.nn.Module, tokens: Tensor, orders: Sequence[int] = (1, 2, 3)) -> list[HeadShare]:
    """How much each head of each attention layer follows n-grams.

    model: a causal model that reads tokens
    tokens: (B, T) integers, in which n-grams come again
    orders: the numbers n
    """
    if not orders or min(orders) < 1:
        raise ValueError(f"orders are numbers of tokens, at least 1; got {orders!r}")
    layers = {name: part for name, part in model.named_modules() if isinstance(part, CachedAttention)}
    if not layers:
        raise ValueError("this model has no attention whose weights could be looked at")
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> RemovableHandle:
        def hook(_: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
            inputs[name] = given[0]

        return layers[name].register_forward_pre_hook(hook)

    hooks = [keep(name) for name in layers]
    try:
        with undisturbed(model):
            model(tokens)
    finally:
        for hook in hooks:
            hook.remove()
    place = torch.arange(tokens.shape[1], device=tokens.device).expand(len(tokens), -1)
    seen = (place + 1).double()
    found = []
    for name, x in inputs.items():
        weights = attention_weights(layers[name], x).double()
        for n, match in matches(tokens, place, max(orders)):
            some = match.any(-1)
            if n not in orders or not some.any():
                continue
            even = (match.sum(-1) / seen)[some].mean().item()
            shares = (weights * match[:, None]).sum(-1).transpose(0, 1)[:, some].mean(-1)
            found += [HeadShare(name, head, n, share, even) for head, share in enumerate(shares.tolist())]
    return found
