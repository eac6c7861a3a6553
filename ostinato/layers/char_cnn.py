"""An embedding made of the characters of each word.

    c = E[characters of w],   f_j = max over places of relu(F_j c + b_j)            F_j a convolution over j characters
    x = [f_1; f_2; ...],      x = t relu(W x + b) + (1 - t) x,  t = σ(W_t x + b_t)   a highway, several times
    e_w = P x

A word has marks at its beginning and its end. A filter may reach over the end, where characters are 0, but begins inside of
the word: so how many characters a word may have at most does not matter.

Kim, Jernite, Sontag, Rush 2015, https://arxiv.org/abs/1508.06615; Jozefowicz, Vinyals, Schuster, Shazeer, Wu 2016,
https://arxiv.org/abs/1602.02410. Highways: Srivastava, Greff, Schmidhuber 2015, https://arxiv.org/abs/1505.00387.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, pad

from ostinato.layers.linear import Linear
from ostinato.registry import register

NONE, BEGIN, END, FIRST = 0, 1, 2, 3
"""Numbers of what is no character: after the end of a word, its beginning, its end; those of bytes begin at the last."""

SHARES = (1, 1, 2, 4, 8, 16, 32)
"""How many filters of each width there are by default, from 1 character on, as parts of 64 of twice the width."""


def spelled(words: Sequence[str | bytes], longest: int) -> Tensor:
    """The characters of words, bytes of UTF-8 between two marks, (V, longest); what is too long is cut."""
    rows = torch.zeros(len(words), longest, dtype=torch.int16, device="cpu")
    for row, word in zip(rows, words, strict=True):
        text = word.encode() if isinstance(word, str) else word
        marked = [BEGIN, *(byte + FIRST for byte in text[: longest - 2]), END]
        row[: len(marked)] = torch.tensor(marked, dtype=torch.int16, device="cpu")
    return rows


class Highway(nn.Module):
    """y = t relu(W x + b) + (1 - t) x with t = σ(W_t x + b_t); a fresh one passes on σ(2) = 0.88 of its input.

    width: of input and output
    """

    def __init__(self, width: int):
        super().__init__()
        self.project = Linear(width, 2 * width)
        with torch.no_grad():
            self.project.bias[width:] = -2.0

    def forward(self, x: Tensor) -> Tensor:
        new, gate = self.project(x).chunk(2, -1)
        return torch.lerp(x, new.relu(), gate.sigmoid())


@register("embedding:char_cnn", paper="big_lstm")
class CharCNN(nn.Module):
    """An embedding that a convolutional network makes of the characters of a word: (...) integers -> (..., D).

    dim: width D
    vocab_size: number of different words
    words: the words, text or bytes, by their numbers; by default each is spelled as its number in decimals, and in a run as
        the tokenizer spells it
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
        filters: Sequence[Sequence[int]] | None = None,
        characters: int = 16,
        highways: int = 2,
        longest: int = 50,
    ):
        super().__init__()
        if min(dim, vocab_size, characters) < 1 or highways < 0 or longest < 3:
            raise ValueError(
                "dim, vocab_size and characters are at least 1, highways at least 0 and longest at least 3;"
                f" got {dim}, {vocab_size}, {characters}, {highways} and {longest}"
            )
        if filters is None:
            filters = [(width, max(1, dim * share // 32)) for width, share in enumerate(SHARES, 1)]
        if not filters or any(len(each) != 2 or min(each) < 1 for each in filters):
            raise ValueError(f"filters are pairs of a width and a number, both at least 1; got {list(filters)}")
        self.dim, self.vocab_size, self.longest = dim, vocab_size, longest
        given = words is not None
        words = [str(word) for word in range(vocab_size)] if words is None else words
        self.register_buffer("spelling", torch.empty(0, dtype=torch.int16))
        self.spelling: Tensor
        self.spell(words)
        self.spelled = given
        self.widths = [width for width, _ in filters]
        self.characters = nn.Embedding(FIRST + 256, characters, padding_idx=NONE)
        self.filters = nn.ModuleList(nn.Conv1d(characters, number, width) for width, number in filters)
        width = sum(number for _, number in filters)
        self.highways = nn.Sequential(*(Highway(width) for _ in range(highways)))
        self.project_out = Linear(width, dim)

    def spell(self, words: Sequence[str | bytes]) -> None:
        """Say how the words are spelled, by their numbers."""
        if len(words) != self.vocab_size:
            raise ValueError(f"each of {self.vocab_size} words is spelled; got {len(words)}")
        self.spelling = spelled(words, self.longest).to(self.spelling.device)
        self.spelled = True

    def forward(self, words: Tensor) -> Tensor:
        # a word that occurs often is read once
        different, place = words.unique(return_inverse=True)
        return embedding(place, self.read(self.spelling[different].long()))

    def read(self, spelling: Tensor) -> Tensor:
        """What the network makes of the characters of words: (N, L) -> (N, D)."""
        outside = (spelling == NONE)[:, None]
        # the embedding of no character is 0 whatever is learned
        x = self.characters(spelling).mT.masked_fill(outside, 0)
        found = []
        for width, filters in zip(self.widths, self.filters, strict=True):
            heard = filters(pad(x, (0, width - 1))).masked_fill(outside, -torch.inf)
            found.append(heard.amax(-1).relu())
        return self.project_out(self.highways(torch.cat(found, -1)))


def spell(model: nn.Module, words: Callable[[], Sequence[str | bytes]]) -> None:
    """Say how the words are spelled to all parts of a model that read characters and have not been told."""
    for part in model.modules():
        if isinstance(part, CharCNN) and not part.spelled:
            part.spell(words())
