"""Kneser-Ney: how often words followed each other, with what is taken from all counts given to words that did not.

    p(w | h) = (c(hw) - d) / c(h) + [sum of d over the words after h] / c(h)  p(w | h')            h' without its first word
    d = D_min(c, 3)                              three discounts for each length, or one number for all

c counts occurrences for the longest h, and below it how many different words stand before hw: a word that is frequent after one
other only is no likely word elsewhere. The shortest h is empty; below it all words are equally likely. The beginning
of a document, BEGIN, is the first word of histories there; as nothing stands before it, c counts occurrences of these.

Kneser, Ney 1995; the three discounts: Chen, Goodman 1999, https://doi.org/10.1006/csla.1999.0128. It is the baseline of Chelba,
Mikolov, Schuster, Ge, Brants, Koehn, Robinson 2013, https://arxiv.org/abs/1312.3005.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ostinato.registry import register

BEGIN = -1
"""What stands before the first word of a document."""

Gram = tuple[int, ...]


class Followers(NamedTuple):
    """What followed a history: counts, their sum, and what discounts take from it."""

    counts: dict[int, int]
    total: int
    taken: float


@register("model:kneser_ney", paper="lm1b")
class KneserNey:
    """An interpolated Kneser-Ney model of words: counted, not trained.

    vocab_size: number of different tokens
    order: words of the longest history, and one
    discount: what is taken from a count, above 0 and below 1; None for three discounts for each length, from the counts
    """

    def __init__(self, vocab_size: int, *, order: int = 5, discount: float | None = None):
        if vocab_size < 1 or order < 1:
            raise ValueError(f"vocab_size and order are at least 1; got {vocab_size} and {order}")
        if discount is not None and not 0 < discount < 1:
            raise ValueError(f"discount is above 0 and below 1; got {discount}")
        self.vocab_size, self.order, self.discount = vocab_size, order, discount
        self.levels: list[dict[Gram, Followers]] = []
        self.discounts: list[tuple[float, float, float, float]] = []

    def fit(self, documents: Iterable[Sequence[int]]) -> "KneserNey":
        """Count the words of documents, in place of what was counted before."""
        highest: Counter[Gram] = Counter()
        for document in documents:
            words = [int(word) for word in document]
            if words and not 0 <= min(words) <= max(words) < self.vocab_size:
                raise ValueError(f"tokens are 0 to {self.vocab_size - 1}; got {min(words)} to {max(words)}")
            words = [BEGIN, *words]
            highest.update(tuple(words[max(0, t + 1 - self.order) : t + 1]) for t in range(1, len(words)))
        if not highest:
            raise ValueError("nothing can be counted: there is no token")
        grams: dict[int, Counter[Gram]] = {length: Counter() for length in range(1, self.order + 1)}
        for gram, count in highest.items():
            grams[len(gram)][gram] += count
        for length in range(self.order, 1, -1):
            for gram in grams[length]:
                grams[length - 1][gram[1:]] += 1
        self.discounts = [self._discounts(grams[length]) for length in range(1, self.order + 1)]
        self.levels = [self._level(grams[length], self.discounts[length - 1]) for length in range(1, self.order + 1)]
        return self

    def _level(self, grams: Counter[Gram], discounts: tuple[float, ...]) -> dict[Gram, Followers]:
        after: defaultdict[Gram, dict[int, int]] = defaultdict(dict)
        for gram, count in grams.items():
            after[gram[:-1]][gram[-1]] = count
        return {
            history: Followers(counts, sum(counts.values()), sum(discounts[min(c, 3)] for c in counts.values()))
            for history, counts in after.items()
        }

    def _discounts(self, grams: Counter[Gram]) -> tuple[float, float, float, float]:
        """What is taken from a count of 0, 1, 2 and more."""
        if self.discount is not None:
            return (0.0, self.discount, self.discount, self.discount)
        n = Counter(min(count, 5) for count in grams.values())
        y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.5
        found = [k - (k + 1) * y * n[k + 1] / n[k] if n[k] else y * k for k in (1, 2, 3)]
        # each is at most its count; where there is too little to estimate from, some is taken all the same
        one, two, more = (max(d, 0.1) for d in found)
        return (0.0, one, two, more)

    def probability(self, history: Sequence[int], word: int) -> float:
        """How likely a word is after others, the first of which may be BEGIN."""
        self._check_fitted()
        found = 1 / self.vocab_size
        for length in range(min(self.order, len(history) + 1)):
            followers = self.levels[length].get(tuple(history[len(history) - length :]))
            if followers is None:
                break  # what never occurred says nothing, and neither does anything longer
            count = followers.counts.get(word, 0)
            own = count - self.discounts[length][min(count, 3)]
            found = (own + followers.taken * found) / followers.total
        return found

    def distribution(self, history: Sequence[int]) -> Tensor:
        """How likely each word is after others: (V,) in float64."""
        return torch.tensor([self.probability(history, word) for word in range(self.vocab_size)], dtype=torch.float64)

    def losses(self, document: Sequence[int]) -> Tensor:
        """-log p of each word of a document given those before it, in nats: (T,) in float64."""
        words = [BEGIN, *(int(word) for word in document)]
        found = [
            -math.log(self.probability(words[max(0, t + 1 - self.order) : t], words[t])) for t in range(1, len(words))
        ]
        return torch.tensor(found, dtype=torch.float64)

    def _check_fitted(self) -> None:
        if not self.levels:
            raise ValueError("this model has counted nothing yet; fit(documents) does")
