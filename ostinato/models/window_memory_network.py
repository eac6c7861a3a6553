"""A window memory network: the words around each mention of a candidate are a memory, and the most similar one answers.

    m_i = sum_j E_j[w_{i+j}],   q = sum_j E_j[q_{g+j}]      j = -(width - 1)/2 ... (width - 1)/2
    answer: the candidate in the middle of the window with the largest m_i . q

i are the places where a candidate is mentioned in the story, g is the gap of the question, and E_j a table of vectors for each
place of a window. Self-supervision: which windows have the answer in their middle is known in training, and the one among them
with the largest score is to win over all others,

    loss = log sum_i exp(m_i . q) - max over i whose middle is the answer of m_i . q

Hill, Bordes, Chopra, Weston 2016, https://arxiv.org/abs/1511.02301 (window memory and self-supervision), where steps of
stochastic gradient descent make that window win; here it wins in a softmax.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ostinato.registry import register

NOTHING = 0
"""The token of places outside of the text, and of words that are not in the vocabulary."""


class Windows(NamedTuple):
    """Questions, cut into windows: what `tasks.childrens_book_test.windows` makes of them.

    memories: B M W tokens of the windows around mentions of candidates
    mentions: B M which candidate is in the middle; -1 where a row has fewer windows
    query: B W tokens around the gap
    answer: B which candidate is right
    """

    memories: Tensor
    mentions: Tensor
    query: Tensor
    answer: Tensor


@register("model:window_memory_network", paper="childrens_book_test")
class WindowMemoryNetwork(nn.Module):
    """A window memory network: which candidate's surroundings are most like those of the gap?

    vocab_size: number of different tokens, of which 0 is none
    dim: width D of memories
    width: words of a window, an odd number
    """

    kind = "model"

    def __init__(self, vocab_size: int, dim: int = 64, *, width: int = 5):
        super().__init__()
        if vocab_size < 1 or dim < 1 or width < 1 or width % 2 == 0:
            raise ValueError(f"vocab_size, dim and width are at least 1, width odd; got {vocab_size}, {dim}, {width}")
        self.vocab_size, self.dim, self.width = vocab_size, dim, width
        self.tables = nn.Parameter(torch.randn(width, vocab_size, dim) * (width * dim) ** -0.5)

    def encode(self, windows: Tensor) -> Tensor:
        """(..., W) tokens -> (..., D)."""
        places = torch.arange(self.width, device=windows.device)
        vectors = self.tables[places, windows]
        return vectors.masked_fill((windows == NOTHING)[..., None], 0).sum(-2)

    def similarities(self, read: Windows) -> Tensor:
        """How similar each window is to that of the gap: (B, M), and -inf where there is none."""
        if read.query.shape[-1] != self.width:
            raise ValueError(f"windows have {self.width} words here; got {read.query.shape[-1]}")
        scores = torch.einsum("bmd,bd->bm", self.encode(read.memories), self.encode(read.query))
        return scores.masked_fill(read.mentions < 0, -torch.inf)

    def forward(self, read: Windows, candidates: int = 10) -> Tensor:
        """The largest similarity of each candidate's windows: (B, candidates), and -inf for who is not mentioned."""
        scores = self.similarities(read)
        found = torch.full((len(scores), candidates), -torch.inf, dtype=scores.dtype, device=scores.device)
        return found.scatter_reduce(1, read.mentions.clamp(min=0), scores, "amax")

    def loss(self, read: Windows) -> Tensor:
        """The mean over questions whose answer is mentioned in the story."""
        scores = self.similarities(read)
        right = read.mentions == read.answer[:, None]
        known = right.any(1)
        if not known.any():
            raise ValueError("no story mentions the answer of its question: there is nothing to learn from")
        best = scores.masked_fill(~right, -torch.inf)[known].amax(1)
        return (scores[known].logsumexp(1) - best).mean()
