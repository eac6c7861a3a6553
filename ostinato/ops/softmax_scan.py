"""The softmax of a growing sequence: after each token, the mean of all values so far, weighted by e^score.

    o_t = sum_{j<=t} e^(s_j) v_j / sum_{j<=t} e^(s_j)

    s  B T H    v o  B T H V    m u  B H, the largest score and the sum of e^(s_j - m)    w  B H V, the sum of e^(s_j - m) v_j

(m, u, w) of a stretch and of the next are joined by an associative operator, whose neutral element (-inf, 0, 0) is the
beginning:   m = max(m_A, m_B),   u = u_A e^(m_A - m) + u_B e^(m_B - m),   w likewise;   o = w / u

`reference` joins the tokens one by one. The torch form finds every m first; u and w are then linear attention with one key
channel that decays by e^(m_{t-1} - m_t). m only chooses a scale: no gradient flows through it.
Feng, Tung, Hajimirsadeghi, Ahmed, Bengio, Mori 2024, https://arxiv.org/abs/2405.13956.
"""

import torch
from torch import Tensor

from ostinato.ops.choice import Forms, choose
from ostinato.ops.linear_attention import _with_sum, max_chunked
from ostinato.registry import register

Stretch = tuple[Tensor, Tensor, Tensor]


def join(first: Stretch, second: Stretch) -> Stretch:
    """(m, u, w) of one stretch followed by another."""
    m = torch.maximum(first[0], second[0]).detach()
    a, b = ((part[0].detach() - m).masked_fill(part[0] == -torch.inf, -torch.inf).exp() for part in (first, second))
    return m, first[1] * a + second[1] * b, first[2] * a[..., None] + second[2] * b[..., None]


def reference(s: Tensor, v: Tensor, state: Stretch, reset: Tensor | None) -> tuple[Tensor, Stretch]:
    """Token by token, as it is written above."""
    o = []
    for t in range(s.shape[1]):
        if reset is not None:
            rows = reset[:, t, None]
            state = (
                state[0].masked_fill(rows, -torch.inf),
                state[1].masked_fill(rows, 0),
                state[2].masked_fill(rows[..., None], 0),
            )
        m = s[:, t].detach()
        u = (s[:, t] - m).exp()  # 1, with the gradient of e^s
        state = join(state, (m, u, u[..., None] * v[:, t]))
        o.append(state[2] / state[1][..., None])
    return torch.stack(o, 1), state


def chunked(s: Tensor, v: Tensor, state: Stretch, reset: Tensor | None) -> tuple[Tensor, Stretch]:
    """The same for chunks of tokens at once."""
    m, u, w = state
    with torch.no_grad():
        keeps = torch.zeros_like(s)
        if reset is not None:
            keeps = keeps.masked_fill(reset[..., None], -torch.inf)
        largest = max_chunked(keeps, s, m)
        before = torch.cat([m[:, None], largest[:, :-1]], 1)
        decay = torch.where(before == -torch.inf, before, keeps + before - largest)
    key = (s - largest).exp()[..., None]
    sums, totals, w, u = _with_sum(torch.ones_like(key), key, v, decay, w[:, :, None], u[..., None])
    return sums / totals, (largest[:, -1].clone(), u[..., 0], w[:, :, 0])


FORMS: Forms = {"reference": reference, "torch": chunked}


@register("op:softmax_scan", paper="aaren")
def softmax_scan(
    score: Tensor, v: Tensor, m: Tensor, u: Tensor, w: Tensor, reset: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The mean of all values so far, weighted by e^score, after each token.

    score: (B, T, H), of any size
    v: (B, T, H, V)
    m: (B, H), the largest score before the first token; -inf at the beginning
    u: (B, H), the sum of e^(score - m) before it; everything is computed in its type
    w: (B, H, V), the sum of e^(score - m) v before it
    reset: (B, T) bool, True where a document begins

    Returns o (B, T, H, V) in the type of v, and m, u and w after the last token.
    """
    form = choose(FORMS, suits="reference" if v.shape[1] == 1 else "torch")
    o, (m, u, w) = form(score.to(u.dtype), v.to(u.dtype), (m, u, w), reset)
    return o.to(v.dtype), m, u, w
