"""Sentences to model one by one, split as the One Billion Word Benchmark splits them.

    each sentence once, in random order  ->  100 parts: 99 to learn from, one that is held out, in 50 parts again
    words that occur 3 times or more are the vocabulary, <UNK> stands for the others;   <S> w_1 ... w_n </S>
    perplexity = exp(mean of -log p(w | all before it in its sentence))       over words and </S>, not <S>

The order depends on the sentences alone: a sentence has its place wherever it stood, and on every machine. The text is given
in words, with blanks between them. Words are numbered from the most frequent on, as `head:sampled_softmax` and
`head:adaptive_softmax` want them.

Chelba, Mikolov, Schuster, Ge, Brants, Koehn, Robinson 2013, https://arxiv.org/abs/1312.3005, who call the first of the 50 parts
the test set. Its corpus is not here.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ostinato.registry import register

UNKNOWN, BEGIN, END = "<UNK>", "<S>", "</S>"


@dataclass(frozen=True)
class Sentences:
    """Sentences in words, split.

    train: to learn from
    held_out: the other ones, in parts, the first of which is for the test
    words: the vocabulary, the most frequent word first
    """

    train: list[str]
    held_out: list[list[str]]
    words: list[str]

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each word."""
        return {word: number for number, word in enumerate(self.words)}

    def encode(self, sentence: str) -> list[int]:
        """The numbers of <S>, of the words, and of </S>."""
        unknown = self.numbers[UNKNOWN]
        words = (self.numbers.get(word, unknown) for word in sentence.split())
        return [self.numbers[BEGIN], *words, self.numbers[END]]

    def decode(self, tokens: Sequence[int]) -> str:
        """The words of some numbers, without <S> and </S>."""
        return " ".join(word for word in (self.words[token] for token in tokens) if word not in (BEGIN, END))


@register("task:lm1b", paper=("lm1b", "big_lstm"))
def lm1b(
    sentences: Iterable[str], *, parts: int = 100, held_out: int = 50, minimum: int = 3, seed: int = 0
) -> Sentences:
    """Split sentences to learn from and sentences that are held out, and count their words.

    sentences: in words, with blanks between them; those that occur again are left out
    parts: one of so many parts is held out
    held_out: how many parts it is cut into
    minimum: how often a word of the vocabulary occurs, in what is learned from
    seed: another one gives another order
    """
    if parts < 2 or held_out < 1 or minimum < 1:
        raise ValueError(f"parts is at least 2, held_out and minimum at least 1; got {parts}, {held_out} and {minimum}")
    once = {" ".join(sentence.split()) for sentence in sentences}
    once.discard("")
    for word in (UNKNOWN, BEGIN, END):
        if any(word in sentence.split() for sentence in once if word in sentence):
            raise ValueError(f"{word} is a word of a sentence already; it stands for something else here")
    if len(once) < parts:
        raise ValueError(f"at least {parts} different sentences are split; got {len(once)}")
    order = sorted(once, key=lambda sentence: hashlib.sha256(f"{seed} {sentence}".encode()).digest())
    size = len(order) // parts
    kept, train = order[:size], order[size:]
    return Sentences(train, [kept[part::held_out] for part in range(held_out)], _vocabulary(train, minimum))


def published(folder: str | Path, *, minimum: int = 3) -> Sentences:
    """The benchmark as it is published, which is split already: one sentence to a line of `news.en-*` files.

    folder: has training-monolingual.tokenized.shuffled/ and heldout-monolingual.tokenized.shuffled/
    minimum: how often a word of the vocabulary occurs, in what is learned from
    """
    train, held_out = (
        [_lines(file) for file in sorted(Path(folder, f"{name}-monolingual.tokenized.shuffled").glob("news.en*-of-*"))]
        for name in ("training", "heldout")
    )
    if not train or not held_out:
        raise ValueError(f"{folder} has no news.en-*-of-* in training- and heldout-monolingual.tokenized.shuffled/")
    sentences = [sentence for part in train for sentence in part]
    return Sentences(sentences, held_out, _vocabulary(sentences, minimum))


def _lines(file: Path) -> list[str]:
    return [" ".join(line.split()) for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]


def _vocabulary(train: list[str], minimum: int) -> list[str]:
    counts = Counter(word for sentence in train for word in sentence.split())
    known = {word: count for word, count in counts.items() if count >= minimum}
    known[UNKNOWN] = sum(counts.values()) - sum(known.values())
    known[BEGIN] = known[END] = len(train)
    return sorted(known, key=lambda word: (-known[word], word))
