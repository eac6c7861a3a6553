"""A maximum entropy model of words: a number for each sequence of words that ends with the one to be predicted, added up.

    z_w = b_w + sum_k λ_k[w_{t-k+1} ... w_t, w],   k = 1 ... order - 1;   p(w) = softmax(z)_w

Of all distributions in which these sequences are as frequent as in a text, this is the one of the largest entropy, where λ are
those that make the text likeliest. Histories share `buckets` rows of numbers for each length, by a hash (Mikolov, Deoras, Povey,
Burget, Černocký 2011, https://doi.org/10.1109/ASRU.2011.6163930); what reaches over the beginning of a document is left out.

Rosenfeld 1994; it is a baseline of Chelba, Mikolov, Schuster, Ge, Brants, Koehn, Robinson 2013, https://arxiv.org/abs/1312.3005.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ostinato.contract import SequenceModule
from ostinato.layers.losses import IGNORED
from ostinato.ops.dilated_convolution import delayed
from ostinato.registry import register

FACTOR = 0x5851F42D4C957F2D
"""Odd and large: products with it, modulo 2^64, are as good as random (Knuth's MMIX)."""


class MaxEntState(NamedTuple):
    words: Tensor  # B order-2 1 int64, the last words and 1; 0 where there is none


@register("model:maxent_lm", paper="lm1b")
class MaxEntLM(SequenceModule):
    """A maximum entropy model of words with features of up to `order` words: (B, T) integers -> (B, T, vocab) logits.

    A fresh one finds all words equally likely, and its loss has one minimum.

    vocab_size: number of different tokens
    order: words of the longest sequences that are features
    buckets: rows of numbers that histories of a length share; no fewer than the vocabulary has words, so that those of one
        word have rows of their own
    """

    kind = "model"
    examples = (dict(vocab_size=7, order=4, buckets=20), dict(vocab_size=5, order=3, buckets=5))

    def __init__(self, vocab_size: int, *, order: int = 4, buckets: int = 1 << 16):
        super().__init__(vocab_size)
        if vocab_size < 1 or order < 2 or buckets < vocab_size:
            raise ValueError(
                "vocab_size is at least 1, order at least 2 and buckets at least vocab_size;"
                f" got {vocab_size}, {order} and {buckets}"
            )
        self.vocab_size, self.order, self.buckets = vocab_size, order, buckets
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        # the last row is for histories that there are not: it stays 0
        self.features = nn.ModuleList(
            nn.Embedding(buckets + 1, vocab_size, padding_idx=buckets, _weight=torch.zeros(buckets + 1, vocab_size))
            for _ in range(order - 1)
        )

    def check_input(self, tokens: Tensor) -> None:
        if tokens.ndim != 2 or 0 in tokens.shape or tokens.is_floating_point() or tokens.dtype == torch.bool:
            got = f"{tokens.dtype} {tuple(tokens.shape)}"
            raise ValueError(f"MaxEntLM reads integers (batch, time), neither of them 0; got {got}")
        readable = tokens.device.type == "cpu" and not torch.compiler.is_compiling()
        if readable and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise ValueError(f"tokens are 0 to {self.vocab_size - 1}; got {int(tokens.min())} to {int(tokens.max())}")

    def random_input(self, batch: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(self.vocab_size, (batch, length), generator=generator).to(self.bias.device)

    def initial_state(self, batch: int) -> MaxEntState:
        return MaxEntState(torch.zeros(batch, self.order - 2, 1, dtype=torch.long, device=self.bias.device))

    def rows(self, tokens: Tensor, state: MaxEntState, reset: Tensor | None) -> tuple[list[Tensor], MaxEntState]:
        """Which row each history has, from the shortest: (B, T) -> order - 1 of (B, T), and the state."""
        words, after = delayed(tokens.long()[..., None] + 1, state.words, self.order - 1, reset=reset)
        history, rows = torch.zeros_like(tokens, dtype=torch.long), []
        for word in reversed(words):
            there = word[..., 0] > 0
            history = history * FACTOR + word[..., 0]
            # the history of one word is its number, and has a row of its own; longer ones are mixed
            mixed = history - 1 if not rows else (history * FACTOR) >> 17
            rows.append((mixed % self.buckets).masked_fill(~there, self.buckets))
        return rows, MaxEntState(after)

    def read(self, tokens: Tensor, state: MaxEntState, reset: Tensor | None) -> tuple[Tensor, MaxEntState]:
        rows, after = self.rows(tokens, state, reset)
        logits = self.bias.expand(*tokens.shape, -1)
        for feature, row in zip(self.features, rows, strict=True):
            # the row of what there is not is 0, whatever was done to it
            logits = logits + feature(row).masked_fill((row == self.buckets)[..., None], 0)
        return logits, after

    def loss(self, tokens: Tensor, reset: Tensor | None = None) -> Tensor:
        """Mean cross-entropy, in nats, of each next token given those before it: (B, T) -> one number."""
        logits, _ = self(tokens[:, :-1], None, None if reset is None else reset[:, :-1])
        targets = tokens[:, 1:].long() if reset is None else tokens[:, 1:].long().masked_fill(reset[:, 1:], IGNORED)
        return cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)
