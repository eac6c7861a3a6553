"""Several models as one: each word is as likely as they say on the average, with weights that a text decides.

    p(x) = sum_m w_m p_m(x),   w_m = mean_n of w_m p_m(x_n) / sum_k w_k p_k(x_n)        again and again: EM

No step of EM makes the text less likely, and its maximum is the only one. Chelba, Mikolov, Schuster, Ge, Brants, Koehn,
Robinson 2013, https://arxiv.org/abs/1312.3005, combine recurrent networks with n-grams so.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ostinato.registry import register


def _stacked(losses: Sequence[Tensor] | Tensor) -> Tensor:
    """log p of each model, (M, ...) in float64."""
    parts = [part.double() for part in losses]
    if not parts or len({part.shape for part in parts}) > 1 or parts[0].numel() == 0:
        raise ValueError("interpolation takes the losses of at least one model, all of one shape with something in it")
    return -torch.stack(parts)


@register("decode:interpolate", paper="lm1b")
def interpolate(losses: Sequence[Tensor] | Tensor, weights: Sequence[float] | Tensor) -> Tensor:
    """The loss of each word under the mixture of models: M tensors of one shape -> that shape, in nats.

    losses: -log p of the same words under each model
    weights: of the models, at least 0, with a sum of 1
    """
    log_p = _stacked(losses)
    w = torch.as_tensor(weights, dtype=torch.float64, device=log_p.device)
    if w.shape != log_p.shape[:1] or bool((w < 0).any()) or abs(float(w.sum()) - 1) > 1e-6:
        raise ValueError(
            f"weights are one for each of {len(log_p)} models, at least 0, with a sum of 1; got {w.tolist()}"
        )
    return -torch.logsumexp(log_p + w.log().view(-1, *[1] * (log_p.ndim - 1)), 0)


def interpolation_weights(losses: Sequence[Tensor] | Tensor, *, steps: int = 1000, tolerance: float = 1e-9) -> Tensor:
    """The weights under which a text is likeliest, by EM from equal ones: (M,).

    losses: -log p of the words of the text under each model, without those that are not predicted
    steps: at most so many
    tolerance: it ends where no weight changes by more
    """
    log_p = _stacked(losses).flatten(1)
    if bool((log_p == -torch.inf).all(0).any()):
        raise ValueError("a word of the text is impossible under every model: no weights make the text likely")
    w = torch.full((len(log_p),), 1 / len(log_p), dtype=torch.float64, device=log_p.device)
    for _ in range(steps):
        after = (log_p + w.log()[:, None]).softmax(0).mean(1)
        done = float((after - w).abs().max()) <= tolerance
        w = after
        if done:
            break
    return w
