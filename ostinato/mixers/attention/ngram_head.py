"""N-gram heads: look at the tokens that came after the last times when the latest n tokens were the same.

    A_ij ~ 1[ x_i = x_{j-1}, ..., x_{i-n+1} = x_{j-n} ]   for j <= i,   sum_j A_ij = 1, or 0 where there is no such j
    y_i = W_1 h_i + sum_n W_{2n} sum_j A^n_ij h_j

A head of order n predicts as an n + 1-gram model of the context would. Nothing in A is learned.

Akyurek, Wang, Kim, Andreas 2024, https://arxiv.org/abs/2401.12973. There a layer is told the tokens; here it finds out which of
its inputs are alike: two are where they lie on the same side of 24 random planes. The inputs of a model's first mixer are
those of its tokens, so that is where it belongs; deeper, what came before tells tokens apart.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ostinato.layers.linear import Linear
from ostinato.mixers.attention.by_document import DocumentAttention
from ostinato.registry import register

PLANES = 24  # sides of so many planes make a whole number that a float32 has exactly
QUERIES = 256  # at a time


@register("ngram_head", paper="icll")
class NgramHead(DocumentAttention):
    """Attention to what followed the same n tokens before, a head for each n.

    dim: width D of input and output
    orders: the numbers n of latest tokens
    """

    planes: Tensor

    examples = (dict(dim=8), dict(dim=6, orders=(2,)))

    def __init__(self, dim: int, *, orders: tuple[int, ...] | list[int] = (1, 2, 3)):
        if not orders or min(orders) < 1:
            raise ValueError(f"orders are numbers of tokens, at least 1; got {orders!r}")
        super(DocumentAttention, self).__init__(dim)
        self.orders = tuple(orders)
        generator = torch.Generator().manual_seed(0)  # the same in all models
        self.register_buffer("planes", torch.randn(dim, PLANES, generator=generator))
        self.project_self = Linear(dim, dim, bias=False)
        self.project_out = Linear(len(self.orders) * dim, dim, bias=False)

    def remembered(self) -> list[tuple[int, ...]]:
        return [(), (self.dim,)]

    def random_input(self, batch: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        kinds = super().random_input(1, 3, generator)[0]  # few, so that n-grams come again
        return kinds[torch.randint(len(kinds), (batch, length), generator=generator)]

    def ask(self, x: Tensor, position: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        sides = x @ self.planes.to(x.dtype) > 0
        powers = 2.0 ** torch.arange(PLANES, dtype=self.state_like["dtype"], device=x.device)
        return (), ((sides * powers).sum(-1), x)

    def look(self, asked: tuple[Tensor, ...], tokens: tuple[Tensor, ...], place: Tensor, real: Tensor | None) -> Tensor:
        code, h = tokens
        found = [self._follow(code, h, some) for some in place.split(QUERIES, 1)]
        return torch.cat(found, 1)

    def _follow(self, code: Tensor, h: Tensor, place: Tensor) -> Tensor:
        """Means of what followed the n-grams that end at these places: (R, T) -> (R, T, orders, D)."""
        means = {}
        for n, match in matches(code, place, max(self.orders)):
            if n in self.orders:
                weight = match.to(h.dtype)
                means[n] = weight @ h / weight.sum(-1, keepdim=True).clamp(min=1)
        return torch.stack([means[n] for n in self.orders], 2)

    def finish(self, y: Tensor, x: Tensor) -> Tensor:
        return self.project_self(x) + super().finish(y, x)


def matches(code: Tensor, place: Tensor, highest: int) -> Iterator[tuple[int, Tensor]]:
    """For n = 1 to `highest`: which tokens followed the n-gram that ends at each of these places, (R, T, S) bool.

    code: (R, S) of the tokens, from the first
    place: (R, T)
    """
    end = torch.arange(code.shape[1], device=code.device)
    match = end <= place[..., None]
    for n in range(1, highest + 1):
        back = place - n + 1
        same = code.gather(1, back.clamp(min=0))[..., None] == code.roll(n, 1)[:, None]
        match = match & same & (end >= n) & (back >= 0)[..., None]
        yield n, match
