"""The Children's Book Test: twenty sentences of a story, and a twenty-first in which one of ten words is missing.

    1 It was a splendid room .                                      s_1
    ...
    21 The XXXXX laughed .\tking\t\tking|queen|...|baby              q, the answer a, and the candidates C

A model gives each candidate a score, and answers with the best one. Language models score the sentence with the candidate in it:

    score(c) = sum_j log p(q_j with c in its gap | s_1 ... s_20, q_1 ... q_{j-1})

Blank lines stand between questions. Its four parts leave out named entities, common nouns, verbs and prepositions: in the first
two a memory of the story helps, in the others the words nearby are enough.

Hill, Bordes, Chopra, Weston 2016, https://arxiv.org/abs/1511.02301. Its books are not here.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ostinato.models.window_memory_network import NOTHING, Windows
from ostinato.registry import register

GAP = "XXXXX"


@dataclass(frozen=True)
class Question:
    """A story, a sentence with a gap, and the words that may stand there, all of them in words.

    context: the sentences before
    query: the sentence, with XXXXX where a word is missing
    answer: that word
    candidates: among which it is
    """

    context: list[list[str]]
    query: list[str]
    answer: str
    candidates: list[str]

    def filled(self, candidate: str) -> list[str]:
        """The sentence with a word in its gap."""
        return [candidate if word == GAP else word for word in self.query]


@register("task:childrens_book_test", paper="childrens_book_test")
def childrens_book_test(path: str | Path) -> list[Question]:
    """Read the questions of a file of the Children's Book Test, as it is published.

    path: the file, such as cbtest_NE_valid_2000ex.txt
    """
    lines = Path(path).read_text(encoding="utf-8").split("\n")
    questions, context = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            if context:
                raise ValueError(f"{path}, line {number}: a question ends without a line that has candidates")
            continue
        label, _, text = line.partition(" ")
        if label != str(len(context) + 1):
            raise ValueError(
                f"{path}, line {number}: the sentence has the number {len(context) + 1}; got {line[:40]!r}"
            )
        if "\t" not in text:
            context.append(text.split())
            continue
        questions.append(_question(context, text, f"{path}, line {number}"))
        context = []
    if context:
        raise ValueError(f"{path} ends within a question")
    if not questions:
        raise ValueError(f"{path} has no question")
    return questions


def _question(context: list[list[str]], text: str, where: str) -> Question:
    fields = [field.strip() for field in text.split("\t") if field.strip()]
    if len(fields) != 3 or fields[0].split().count(GAP) != 1:
        raise ValueError(f"{where}: a sentence with one {GAP}, the answer and the candidates stand between tabs")
    query, answer, candidates = fields[0].split(), fields[1], [word for word in fields[2].split("|") if word]
    if answer not in candidates or len(set(candidates)) != len(candidates):
        raise ValueError(f"{where}: the answer {answer!r} is one of different candidates; got {fields[2]!r}")
    return Question(context, query, answer, candidates)


def accuracy(questions: Iterable[Question], score: Callable[[Question], Sequence[float]]) -> float:
    """The share of questions whose answer has the best score; of equal ones the first candidate counts.

    score: one number for each candidate of a question
    """
    right = []
    for question in questions:
        scores = [float(value) for value in score(question)]
        if len(scores) != len(question.candidates):
            raise ValueError(f"there are {len(question.candidates)} candidates, and {len(scores)} scores")
        right.append(question.candidates[scores.index(max(scores))] == question.answer)
    if not right:
        raise ValueError("there is no question")
    return sum(right) / len(right)


def by_frequency(question: Question) -> list[int]:
    """How often each candidate stands in the story: what the paper calls maximum frequency (context)."""
    words = [word for sentence in question.context for word in sentence]
    return [words.count(candidate) for candidate in question.candidates]


def by_language_model(
    losses: Callable[[list[int]], Tensor], encode: Callable[[list[str]], list[int]], *, context: bool = True
) -> Callable[[Question], list[float]]:
    """A score for `accuracy`: how likely the sentence is with each candidate in its gap.

    losses: -log p of each of some tokens given those before it, (T,)
    encode: from words to tokens, one for each
    context: whether the story is read before
    """

    def score(question: Question) -> list[float]:
        before = encode([word for sentence in question.context for word in sentence]) if context else []
        filled = [before + encode(question.filled(candidate)) for candidate in question.candidates]
        return [-float(losses(tokens)[len(before) :].sum()) for tokens in filled]

    return score


def vocabulary(questions: Sequence[Question]) -> dict[str, int]:
    """A number for each word of some questions, from 1 on."""
    words = {word for one in questions for sentence in [*one.context, one.query, one.candidates] for word in sentence}
    return {word: number for number, word in enumerate(sorted(words), start=1)}


def windows(questions: Sequence[Question], numbers: dict[str, int], width: int = 5) -> Windows:
    """Cut questions into windows of so many words, an odd number. A story is read as one text."""
    if width < 1 or width % 2 == 0:
        raise ValueError(f"width is odd, so that a window has a middle; got {width}")
    if not questions:
        raise ValueError("there is no question")
    half = width // 2

    def around(words: list[str], place: int) -> list[int]:
        there = range(place - half, place + half + 1)
        return [numbers.get(words[n], NOTHING) if 0 <= n < len(words) else NOTHING for n in there]

    rows = []
    for question in questions:
        words = [word for sentence in question.context for word in sentence]
        which = {candidate: n for n, candidate in enumerate(question.candidates)}
        rows.append([(around(words, place), which[word]) for place, word in enumerate(words) if word in which])
    longest = max(1, max(map(len, rows)))
    empty = ([NOTHING] * width, -1)
    rows = [row + [empty] * (longest - len(row)) for row in rows]
    return Windows(
        torch.tensor([[window for window, _ in row] for row in rows]),
        torch.tensor([[mention for _, mention in row] for row in rows]),
        torch.tensor([around(question.query, question.query.index(GAP)) for question in questions]),
        torch.tensor([question.candidates.index(question.answer) for question in questions]),
    )
