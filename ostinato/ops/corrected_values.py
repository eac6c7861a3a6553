"""Corrected values: what is written for a token is what its key does not recall yet, by softmax attention.

    u_i = v_i - beta_i sum_{j < i} softmax_j(scale w_i^T k_j) u_j        over the j before i that i sees (`ops/sight.py`)

    w  B T G K    k  B S G K    v u  B T G V    beta  B T G    the last T of the S keys belong to the T tokens; the u_j of
    those before them come from a cache

The delta rule with the memory of softmax attention (Zhong, Xu, Ao, Shi 2025, https://arxiv.org/abs/2505.19488): with
softmax(w^T k) replaced by w^T k and w = k it is `ops/delta_rule.py`. A token that sees none before it writes v.

`reference` is the definition. The torch form cuts time in chunks, in each of which u solves a triangular system:
(I + diag(beta) P) u = v - beta P' u', with P the weights among the tokens of the chunk and P' those of the tokens before.
"""

import torch
from torch import Tensor, einsum
from torch.utils.checkpoint import checkpoint

from ostinato.ops.choice import Forms, choose
from ostinato.ops.scored_attention import products, softmax
from ostinato.ops.sight import Sight, sight
from ostinato.registry import register


def _weights(w: Tensor, k: Tensor, see: Sight, start: int, stop: int, low: int, scale: float) -> Tensor:
    """softmax_j(scale w_i^T k_j) of some tokens for those before them, from `low` on: (B, G, i, j)."""
    high = see.past + stop
    distance, sees = see.pairs(start, stop, low, high)
    return softmax(scale * products(w[:, start:stop], k[:, low:high]), sees & (distance > 0))


def reference(w: Tensor, k: Tensor, v: Tensor, beta: Tensor, before: Tensor, see: Sight, scale: float) -> Tensor:
    """Token by token, as it is written above."""
    u = before
    for t in range(see.T):
        p = _weights(w, k, see, t, t + 1, 0, scale)[:, :, 0, :-1]
        u_t = v[:, t] - beta[:, t, :, None] * einsum("bgj,bjgv->bgv", p, u)
        u = torch.cat([u, u_t[:, None]], 1)
    return u[:, see.past :]


def chunked(
    w: Tensor, k: Tensor, v: Tensor, beta: Tensor, before: Tensor, see: Sight, scale: float, C: int = 128
) -> Tensor:
    """The same for chunks of C tokens."""

    def chunk(start: int, stop: int, *written: Tensor) -> Tensor:
        low = min(see.keys(start, stop)[0], see.past + start)
        p = _weights(w, k, see, start, stop, low, scale) * beta[:, start:stop].mT[..., None]
        past, own = p.split([see.past + start - low, stop - start], -1)
        u = torch.cat(written, 1)[:, low:].transpose(1, 2)
        new = v[:, start:stop].transpose(1, 2) - past @ u
        eye = torch.eye(stop - start, dtype=own.dtype, device=own.device)
        return torch.linalg.solve_triangular(own + eye, new, upper=False, unitriangular=True).transpose(1, 2)

    again = torch.is_grad_enabled() and see.T > 2 * C  # the weights would add up to T x S numbers
    written = [before]
    for start in range(0, see.T, C):
        edge = start, min(start + C, see.T)
        written.append(checkpoint(chunk, *edge, *written, use_reentrant=False) if again else chunk(*edge, *written))
    return torch.cat(written[1:], 1)


FORMS: Forms = {"reference": reference, "torch": chunked}


@register("op:corrected_values")
def corrected_values(
    w: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    before: Tensor,
    *,
    live: Tensor | None = None,
    reset: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """Values without what is recalled of the tokens before: u_i = v_i - beta_i sum_{j < i} softmax_j(scale w_i^T k_j) u_j.

    w: (B, T, G, K), what asks for what is recalled
    k: (B, S, G, K), the keys of a cache and then those of the T tokens
    v: (B, T, G, V)
    beta: (B, T, G), how much of what is recalled is taken away; up to 1 it cannot grow by itself
    before: (B, S - T, G, V), the corrected values of the cache
    live: (B, S) bool, True where a token may be seen
    reset: (B, T) bool, True where a document begins: nothing is seen across it
    scale: of the scores; by default 1 / sqrt(K)

    Computed in the type of `before`, float32 or better, and returned in it: u (B, T, G, V).
    """
    T, S, K = w.shape[1], k.shape[1], w.shape[-1]
    if before.shape[1] != S - T:
        raise ValueError(f"the cache holds a value for each of its {S - T} keys; got {before.shape[1]}")
    see = sight(w, S, True, live, reset, None)
    form = choose(FORMS, suits="torch")
    return form(*(x.to(before.dtype) for x in (w, k, v, beta)), before, see, K**-0.5 if scale is None else scale)
