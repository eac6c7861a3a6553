"""Sampled softmax: in training, a token is told apart from some others instead of all of them.

    loss_t = -z_t + log(exp(z_t) + sum_s exp(z_s - log(n q_s))),   z_w = x^T e_w + b_w,   s one of n draws from q, but not t
    q_w = log((w + 2) / (w + 1)) / log(V + 1)

The sum is an unbiased estimate of that over all tokens, so the gradient goes to that of the softmax as n grows. Tokens are
numbered from the most frequent to the least, and q has about the frequencies of words. Draws are shared by all rows.

Bengio, Senécal 2003 and Jean, Cho, Memisevic, Bengio 2014, https://arxiv.org/abs/1412.2007; Jozefowicz, Vinyals, Schuster,
Shazeer, Wu 2016, https://arxiv.org/abs/1602.02410, who lower z_t by log q_t too: then the estimate is right in the limit only.
"""

import math

import torch
from torch import Tensor, nn

from ostinato.layers.losses import IGNORED, chunked_cross_entropy
from ostinato.ops.linear import linear
from ostinato.registry import register


def log_uniform(vocab_size: int, tokens: Tensor) -> Tensor:
    """log q of tokens, in float64."""
    return ((tokens + 2.0).double() / (tokens + 1.0).double()).log().log() - math.log(math.log(vocab_size + 1))


def draw_log_uniform(vocab_size: int, number: int, device: torch.device | str = "cpu") -> Tensor:
    """So many independent draws from q, by the inverse of its distribution function log(w + 2) / log(V + 1)."""
    u = torch.rand(number, dtype=torch.float64, device=device)
    return ((u * math.log(vocab_size + 1)).exp().long() - 1).clamp(0, vocab_size - 1)


@register("head:sampled_softmax", paper="big_lstm")
class SampledSoftmax(nn.Module):
    """Logits of a vocabulary, and a loss that in training reads a few tokens of it.

    dim: width D of what is read
    vocab_size: number of different tokens, numbered from the most frequent on
    samples: number of draws n for a loss in training; no fewer than the vocabulary has tokens for the exact loss
    """

    def __init__(self, dim: int, vocab_size: int, *, samples: int = 8192):
        super().__init__()
        if min(dim, vocab_size, samples) < 1:
            raise ValueError(f"dim, vocab_size and samples are at least 1; got {dim}, {vocab_size} and {samples}")
        self.vocab_size, self.samples = vocab_size, samples
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.make_vectors(dim)

    def make_vectors(self, dim: int) -> None:
        """What the vectors of tokens are made of."""
        self.weight = nn.Parameter(torch.empty(self.vocab_size, dim).uniform_(-0.1, 0.1))

    def vectors(self, tokens: Tensor | None = None) -> Tensor:
        """e of some tokens, or of all: (...) -> (..., D)."""
        return self.weight if tokens is None else self.weight[tokens]

    def forward(self, x: Tensor) -> Tensor:
        """The logits of all tokens, (..., D) -> (..., vocab)."""
        return linear(x, self.vectors(), self.bias)

    def loss(self, x: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of the targets that are predicted: an estimate in training, exact otherwise.

        x: (..., D)
        targets: (...) integers; -100 where nothing is predicted
        reduction: "mean" over the predicted tokens, "sum", or "none" for the loss of each token in the shape of targets
        """
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(f"reduction is mean, sum or none; got {reduction!r}")
        if not self.training or self.samples >= self.vocab_size:
            # the bias as one more channel of the input
            weight = torch.cat([self.vectors(), self.bias[:, None]], 1)
            x = torch.cat([x, torch.ones_like(x[..., :1])], -1)
            return chunked_cross_entropy(x, weight, targets, reduction=reduction)
        losses = self.sampled(x.flatten(0, -2), targets.flatten()).view(targets.shape)
        if reduction == "none":
            return losses
        return losses.sum() if reduction == "sum" else losses.sum() / (targets != IGNORED).sum().clamp(min=1)

    def sampled(self, x: Tensor, targets: Tensor, draws: Tensor | None = None) -> Tensor:
        """An estimate of the loss of each target from some draws: (N, D), (N,), (n,) -> (N,)."""
        draws = draw_log_uniform(self.vocab_size, self.samples, x.device) if draws is None else draws
        counted = targets != IGNORED
        expected = targets.masked_fill(~counted, 0)
        # the vectors of both, in one go: those of a network are dear
        vectors = self.vectors(torch.cat([expected, draws]))
        of_target, of_draws = vectors[: len(expected)], vectors[len(expected) :]
        own = (x * of_target).sum(-1) + self.bias[expected]
        # in float32 or better, as the exact loss is
        kind = torch.promote_types(own.dtype, torch.float32)
        often = log_uniform(self.vocab_size, draws) + math.log(len(draws))
        others = linear(x, of_draws, self.bias[draws]).to(kind) - often.to(kind)
        others = others.masked_fill(draws == expected[:, None], -torch.inf)
        own = own.to(kind)
        return (torch.logsumexp(torch.cat([own[:, None], others], 1), 1) - own).masked_fill(~counted, 0)
