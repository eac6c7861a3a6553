"""One vector for each document: means of its tokens, weighed by attention.

    a_t = softmax_t(s_t),   pooled = sum_t a_t h_t                       over the real tokens of the document
    s_t = tanh((P^T c) * (Q^T h_t))                          M heads at once, P and Q: D x M        low rank
    s_t = v^T tanh(W [h_t; c_t] + b)                         concatenated with features c_t         conditioned
    s_t = v^T (sigmoid(W c_t + b) * h_t)                     gated by them
    s_t = v^T ((W_1 c_t + b_1) * h_t + W_2 c_t + b_2)        transformed by them

Low rank (LAMA): Mehta, Rangwala, Ramakrishnan 2019, https://arxiv.org/abs/1912.00835. Without the tanh, heads sum up to the
bilinear score c^T (P Q^T) h_t. (Their equation 3.13 has an L2 norm too; where it stands is not known to us, and it is not here.)
Conditioned: Margatina, Baziotis, Potamianos 2019, https://arxiv.org/abs/1906.03674, whose features are those of words in
lexicons. They say where to look; what is pooled are the tokens themselves.
"""

import torch
from torch import Tensor, nn

from ostinato.layers.linear import Linear
from ostinato.registry import did_you_mean, register

CONDITIONS = ("concat", "gate", "affine", "none")


def attention_weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the real tokens of each document, (B, T, M) -> (B, T, M); all 0 where there are none."""
    if mask is None:
        return scores.softmax(1)
    nothing = ~mask.any(1)[:, None, None]  # a softmax over nothing is no number, and neither is its gradient
    return scores.masked_fill(~(mask[..., None] | nothing), -torch.inf).softmax(1).masked_fill(nothing, 0)


def _check(module: nn.Module, h: Tensor, dim: int, mask: Tensor | None) -> None:
    if h.ndim != 3 or 0 in h.shape or h.shape[-1] != dim:
        raise ValueError(f"{type(module).__name__} reads (batch, time, {dim}), none of them 0; got {tuple(h.shape)}")
    if mask is not None and (mask.dtype != torch.bool or mask.shape != h.shape[:2]):
        raise ValueError(f"mask is bool {tuple(h.shape[:2])} here; got {mask.dtype} {tuple(mask.shape)}")


@register("head:low_rank_attention_pooling", paper="lama_pooling")
class LowRankAttentionPooling(nn.Module):
    """Pooling by several attention distributions from one low-rank bilinear form, (B, T, D) -> (B, heads * D).

    dim: width D of the tokens
    heads: number of distributions M, the rank of the form
    bounded: whether scores go through a tanh
    """

    def __init__(self, dim: int, *, heads: int = 8, bounded: bool = True):
        super().__init__()
        if min(dim, heads) < 1:
            raise ValueError(f"dim and heads are at least 1; got {dim} and {heads}")
        self.dim, self.bounded = dim, bounded
        self.project_context = Linear(dim, heads, bias=False)  # P
        self.project_token = Linear(dim, heads, bias=False)  # Q
        self.context = nn.Parameter(torch.empty(dim))
        for weight in (self.project_context.weight, self.project_token.weight):
            nn.init.xavier_uniform_(weight)
        nn.init.normal_(self.context)

    def weights(self, h: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """The distributions over the tokens: (B, T, M)."""
        _check(self, h, self.dim, mask)
        asks = self.project_context(self.context.to(h.dtype) if context is None else context)
        scores = asks[..., None, :] * self.project_token(h)
        return attention_weights(torch.tanh(scores) if self.bounded else scores, mask)

    def forward(self, h: Tensor, mask: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """One vector for each document.

        h: (B, T, D)
        mask: (B, T) bool, True where a token is real
        context: (B, D), what each document is asked with; by default a learned vector for all
        """
        return torch.einsum("btm,btd->bmd", self.weights(h, mask, context), h).flatten(1)


@register("head:conditioned_attention_pooling", paper="attention_conditioning")
class ConditionedAttentionPooling(nn.Module):
    """Pooling by attention that looks where features of the tokens say, (B, T, D) and (B, T, F) -> (B, D).

    dim: width D of the tokens
    features: number F of features of a token
    condition: how features change the scores: "concat", "gate" or "affine"; "none" pools without them
    """

    def __init__(self, dim: int, features: int, *, condition: str = "gate"):
        super().__init__()
        if condition not in CONDITIONS:
            hint = did_you_mean(str(condition), CONDITIONS)
            raise ValueError(f"condition is one of {', '.join(CONDITIONS)}; got {condition!r}{hint}")
        if min(dim, features) < 1:
            raise ValueError(f"dim and features are at least 1; got {dim} and {features}")
        self.dim, self.features, self.condition = dim, features, condition
        self.project_token = Linear(dim, dim) if condition in ("concat", "none") else None
        width = {"concat": dim, "gate": dim, "affine": 2 * dim, "none": None}[condition]
        self.project_features = None if width is None else Linear(features, width, bias=condition != "concat")
        self.score = Linear(dim, 1, bias=False)

    def weights(self, h: Tensor, features: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """The distribution over the tokens: (B, T, 1)."""
        _check(self, h, self.dim, mask)
        seen, conditions = h, None
        if self.project_features is not None:
            if features is None or features.shape != (*h.shape[:2], self.features):
                got = None if features is None else tuple(features.shape)
                raise ValueError(f"features are {(*h.shape[:2], self.features)} here; got {got}")
            conditions = self.project_features(features.to(h.dtype))
        if self.project_token is not None:
            seen = self.project_token(h)
            seen = torch.tanh(seen if conditions is None else seen + conditions)
        elif conditions is not None and self.condition == "gate":
            seen = torch.sigmoid(conditions) * h
        elif conditions is not None:
            scale, shift = conditions.chunk(2, -1)
            seen = scale * h + shift
        return attention_weights(self.score(seen), mask)

    def forward(self, h: Tensor, features: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """One vector for each document.

        h: (B, T, D)
        features: (B, T, F), what is known of each token beforehand
        mask: (B, T) bool, True where a token is real
        """
        return (self.weights(h, features, mask) * h).sum(1)
