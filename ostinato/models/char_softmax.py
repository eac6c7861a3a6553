"""A softmax whose tokens are made of characters, with a small correction for each.

    z_w = x^T (cnn(characters of w) + M m_w) + b_w

The network learns from all words at once, and m_w tells words apart that are spelled alike and mean something else.
Jozefowicz, Vinyals, Schuster, Shazeer, Wu 2016, https://arxiv.org/abs/1602.02410, with m_w of 128 numbers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ostinato.layers.char_cnn import CharCNN
from ostinato.layers.kept import Kept
from ostinato.layers.linear import Linear
from ostinato.models.sampled_softmax import SampledSoftmax
from ostinato.registry import register


@register("head:char_softmax", paper="big_lstm")
class CharSoftmax(SampledSoftmax):
    """Logits from vectors that a convolutional network makes of the characters of each word, plus a small correction.

    A fresh one corrects nothing.

    dim: width D of what is read
    vocab_size: number of different words, numbered from the most frequent on
    words: the words, text or bytes, by their numbers; by default each is spelled as its number in decimals, and in a run as
        the tokenizer spells it
    correction: how many numbers each word has of its own; 0 for none
    samples: number of draws for a loss in training; no fewer than the vocabulary has words for the exact loss
    filters: [characters, number of filters] for each width of filters; by default 1 to 7 characters, 2 D filters
    characters: width of the embedding of a character
    highways: number of highway layers
    longest: characters of a word that are read at most, its two marks included
    """

    def __init__(
        self,
        dim: int,
        vocab_size: int,
        *,
        words: Sequence[str | bytes] | None = None,
        correction: int = 128,
        samples: int = 8192,
        filters: Sequence[Sequence[int]] | None = None,
        characters: int = 16,
        highways: int = 2,
        longest: int = 50,
    ):
        if correction < 0:
            raise ValueError(f"correction is how many numbers a word has of its own, at least 0; got {correction}")
        super().__init__(dim, vocab_size, samples=samples)
        self.cnn = CharCNN(
            dim,
            vocab_size,
            words=words,
            filters=filters,
            characters=characters,
            highways=highways,
            longest=longest,
        )
        self.correction = nn.Embedding(vocab_size, correction) if correction else None
        self.project_correction = Linear(correction, dim, bias=False) if correction else None
        if self.correction is not None:
            nn.init.zeros_(self.correction.weight)
        self._kept: Kept[Tensor] = Kept()

    def make_vectors(self, dim: int) -> None:
        """Nothing: they are made of characters."""

    def vectors(self, tokens: Tensor | None = None) -> Tensor:
        if tokens is None:
            # all words are read again only after something was learned
            return self._kept(self.all_vectors, [*self.parameters(), self.cnn.spelling])
        vectors = self.cnn(tokens)
        if self.correction is None or self.project_correction is None:
            return vectors
        return vectors + self.project_correction(self.correction(tokens))

    def all_vectors(self) -> Tensor:
        """e of all words, read some at a time, so that a large vocabulary needs little memory."""
        words = torch.arange(self.vocab_size, device=self.bias.device)
        return torch.cat([self.vectors(part) for part in words.split(4096)])
