"""Verbatim recall: a list of nouns, other words, and the list again: which noun is next, word for word?

    w ... w : n_1 n_2 ... n_N .  w w ... w  : n_1 n_2 ... n_N        n_1 is asked for at the second colon, n_2 at n_1, ...

    repeat surprisal   mean of -log p over the second list / the same over the first

0 for who has the list in memory, 1 for who has nothing of it; who remembers only what kind of nouns they were (the gist) has
log(nouns of a kind) / log(nouns), about. A second list in another order, or of other nouns, tells order and identity apart.

Armeni, Honey, Linzen 2022, https://arxiv.org/abs/2210.13569; here words are tokens without a meaning, and nouns of a kind
are those whose number is the same modulo the number of kinds.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from ostinato.layers.losses import IGNORED
from ostinato.registry import did_you_mean, register
from ostinato.tasks.task import Batch, TokenTask, integers

SECOND = ("repeated", "permuted", "novel")
PREFACE = 4  # words before the first list


@register("task:verbatim_recall", paper="verbatim_memory")
class VerbatimRecall(TokenTask):
    """A list of nouns, words in between, and the list once more: which noun is next?

    length: words between the lists
    items: nouns of a list
    nouns: number of different nouns
    kinds: number of kinds of nouns
    coherent: whether the nouns of a list are all of one kind
    words: number of different other words
    second: the second list is "repeated"; "permuted" and "novel" ones are for asking a model that is trained
    """

    measured_in = "words between"

    def __init__(
        self,
        length: int = 8,
        *,
        items: int = 5,
        nouns: int = 60,
        kinds: int = 5,
        coherent: bool = False,
        words: int = 20,
        second: str = "repeated",
    ):
        if second not in SECOND:
            raise ValueError(f"second is one of {', '.join(SECOND)}; got {second!r}{did_you_mean(second, SECOND)}")
        if min(items, kinds, words) < 1 or nouns % kinds or 2 * items > (nouns // kinds if coherent else nouns):
            raise ValueError(
                "kinds share the nouns evenly, and two lists have room among the nouns, of one kind where they are"
                f" coherent; got {items} items, {nouns} nouns of {kinds} kinds"
            )
        self.items, self.nouns, self.kinds = items, nouns, kinds
        self.coherent, self.words, self.second = coherent, words, second
        self.vocab_size, self.answers = nouns + words + 2, nouns
        self.colon, self.stop = nouns + words, nouns + words + 1
        super().__init__(length)

    def draw(self, size: int, length: int, generator: Generator) -> Batch:
        keys = torch.rand(size, self.nouns, generator=generator)
        if self.coherent:
            kind = integers(0, self.kinds, (size, 1), generator)
            keys = keys.masked_fill(torch.arange(self.nouns) % self.kinds != kind, torch.inf)
        drawn = keys.argsort(-1)
        first = again = drawn[:, : self.items]
        if self.second == "permuted":
            order = torch.rand(size, self.items, generator=generator).argsort(-1)
            again = first.gather(1, order)
        elif self.second == "novel":
            again = drawn[:, self.items : 2 * self.items]
        words = self.nouns + integers(0, self.words, (size, PREFACE + length), generator)
        colon, stop = torch.full((size, 1), self.colon), torch.full((size, 1), self.stop)
        inputs = torch.cat([words[:, :PREFACE], colon, first, stop, words[:, PREFACE:], colon, again], 1)
        targets = torch.full_like(inputs, IGNORED)
        targets[:, -self.items - 1 : -1] = again
        return Batch(inputs[:, :-1], targets[:, :-1], targets[:, :-1] != IGNORED)

    def surprisal(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """-log p of the nouns of the first and of the second list, (B, items) each."""
        losses = cross_entropy(outputs[:, :-1].transpose(1, 2).float(), batch.inputs[:, 1:], reduction="none")
        last = cross_entropy(outputs[:, -1].float(), batch.targets[:, -1], reduction="none")
        every = torch.cat([losses, last[:, None]], 1)
        return every[:, PREFACE : PREFACE + self.items], every[:, -self.items :]

    def solve(self, row: list[int]) -> dict[int, int]:
        if self.second != "repeated":
            raise NotImplementedError(f"nothing says which noun is next in a {self.second} list")
        begin = row.index(self.colon) + 1
        first = row[begin : row.index(self.stop)]
        return dict(enumerate(first, start=len(row) - self.items))
