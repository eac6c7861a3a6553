"""MaxSim ranking: which earlier parts of a text are likest to the one that asks.

    s_nm = sum_c max_c' cos(a_nc, x_mc'),   m < before_n          how well the tokens of a_n are met by those of part m
    chosen_n = the k parts of the largest s_nm, in the order of time,   w_nm = s_nm / max of the chosen

    a  B n C D    the parts that ask          x  B N C D    all parts, C tokens each
    before  n, integers: part n may find the parts 0 .. before_n - 1

The late interaction of ColBERT (Khattab and Zaharia 2020, https://arxiv.org/abs/2004.12832) as the ranker of Avey (Hammoud
and Acharya 2025, https://arxiv.org/abs/2506.11305). The choice has no gradient, the weights have one. Equal tokens make equal
scores, up to rounding: of scores that differ by less than a thousandth, the later part's counts as the larger.

`reference` is the definition. The torch form goes through the parts that ask and makes C x (before_n C) cosines at a time.
"""

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from ostinato.ops.choice import Forms, choose
from ostinato.registry import register

EPS = 1e-8
STEP = 1e-3  # scores are told apart in steps of this size


def reference(asking: Tensor, parts: Tensor, before: list[int]) -> Tensor:
    """Token by token, as it is written above: (B, n, N), -inf for what may not be found."""
    scores = asking.new_full((*asking.shape[:2], parts.shape[1]), -torch.inf)
    for n, end in enumerate(before):
        for m in range(end):
            cosines = [
                (token[:, None] * parts[:, m]).sum(-1)
                / ((token.norm(dim=-1)[:, None] * parts[:, m].norm(dim=-1)) + EPS)
                for token in asking[:, n].unbind(1)
            ]
            scores[:, n, m] = torch.stack(cosines, 1).amax(-1).sum(-1)
    return scores


def matched(asking: Tensor, parts: Tensor, before: list[int]) -> Tensor:
    """The same in matrix products, one for each part that asks."""
    asking, parts = (normalize(x, dim=-1, eps=EPS) for x in (asking, parts))
    scores = asking.new_full((*asking.shape[:2], parts.shape[1]), -torch.inf)
    for n, end in enumerate(before):
        if end:
            found = asking[:, n] @ parts[:, :end].flatten(1, 2).mT
            scores[:, n, :end] = found.unflatten(-1, (end, -1)).amax(-1).sum(1)
    return scores


FORMS: Forms = {"reference": reference, "torch": matched}


@register("op:maxsim_ranker", paper="avey")
def maxsim_ranker(asking: Tensor, parts: Tensor, k: int, *, before: list[int]) -> tuple[Tensor, Tensor]:
    """The k earlier parts that are likest to each part that asks, and their weights.

    asking: (B, n, C, D)
    parts: (B, N, C, D)
    k: how many are found at most
    before: for each of the n parts how many may be found: those from 0 on

    Returns numbers (B, n, k) of parts in the order of time, -1 in front where there are fewer, and weights (B, n, k) in
    float32 or better: 1 for the likest, 0 where there is none.
    """
    B, n = asking.shape[:2]
    if asking.shape[2:] != parts.shape[2:] or len(parts) != B:
        raise ValueError(f"parts are as those that ask; got {tuple(asking.shape)} and {tuple(parts.shape)}")
    if k < 0 or len(before) != n or not all(0 <= end <= parts.shape[1] for end in before):
        raise ValueError(f"k is at least 0, before {n} numbers from 0 to {parts.shape[1]}; got {k} and {before}")
    kind = torch.promote_types(asking.dtype, torch.float32)
    asking, parts = asking.to(kind), parts.to(kind)
    number = min(k, max(before, default=0))
    if number == 0:
        return torch.full((B, n, k), -1, device=asking.device), asking.new_zeros(B, n, k)
    with torch.no_grad():
        scores = choose(FORMS, suits="torch")(asking, parts, before).double()
        later = torch.arange(parts.shape[1], device=asking.device) / parts.shape[1]
        best = ((scores / STEP).round() + later).topk(number, -1)
        chosen = best.indices.masked_fill(best.values == -torch.inf, -1).sort(-1).values
    # once more for what was chosen, so that the gradient costs k parts and not all of them
    row = torch.arange(B, device=asking.device)[:, None, None]
    found = normalize(parts, dim=-1, eps=EPS)[row, chosen.clamp(min=0)].flatten(2, 3)
    cosines = normalize(asking, dim=-1, eps=EPS) @ found.mT
    scores = cosines.unflatten(-1, (number, -1)).amax(-1).sum(2)
    highest = scores.masked_fill(chosen < 0, -torch.inf).amax(-1, keepdim=True)
    highest = highest.masked_fill(highest == -torch.inf, 1)
    weights = (scores / (highest.abs() + EPS)).masked_fill(chosen < 0, 0)
    return pad(chosen, (k - number, 0), value=-1), pad(weights, (k - number, 0))
