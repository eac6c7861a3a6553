"""Associative treecall: associative recall over trees. Of which word is this one a child?

    A -> h c_1 ... c_n        h one of the rule's own words, each c a word or another nonterminal: n = 1 to 3
    t_1 t_2 ... t_L  i        trees of a grammar one after the other, and one of their words  -> the head of i's parent

Keys and values of associative recall stand beside each other; here a value may stand far from its key, and which one it is
follows from the rules, which have to be learned. The grammar is drawn once, from its seed, and no nonterminal contains itself.
Single words fill the place that is left behind the last tree; every word that is asked for occurs once.

Arora, Rathi, Selvam, Csordas, Jurafsky, Potts 2025, https://arxiv.org/abs/2505.15105. There rules share their heads, and
children and siblings can be asked for too; here each rule has heads of its own, so that every string has one tree.
"""

import random
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Generator

from ostinato.registry import did_you_mean, register
from ostinato.tasks.task import Batch, TokenTask, at_end, integers

WORD = -1
HEADS = ("left", "right")
LONGEST_RULE = 3
TRIES = 8
STRINGS = 1000  # without a word that can be asked for, after which no more are drawn


@dataclass(frozen=True)
class Rule:
    """What a nonterminal may become: its children, WORD or a nonterminal each."""

    nonterminal: int
    children: tuple[int, ...]
    probability: float


@register("task:associative_treecall", paper="mechanistic_ar")
class AssociativeTreecall(TokenTask):
    """Trees as strings, then one of their words: what is the head of the tree that it is a child of?

    length: tokens before the question
    nonterminals: of the grammar
    rules: of each nonterminal
    heads: words that only one rule has as its head, for each rule
    words: number of other words
    head: where the head of a tree stands, "left" of its children or "right" of them
    grammar: seed of the grammar
    """

    shortest = 8

    def __init__(
        self,
        length: int = 32,
        *,
        nonterminals: int = 8,
        rules: int = 2,
        heads: int = 8,
        words: int = 128,
        head: str = "left",
        grammar: int = 0,
    ):
        if head not in HEADS:
            raise ValueError(f"head is {' or '.join(HEADS)}; got {head!r}{did_you_mean(head, HEADS)}")
        if min(nonterminals, rules, heads, words) < 1:
            raise ValueError(
                f"nonterminals, rules, heads and words are at least 1; got {nonterminals}, {rules}, {heads}, {words}"
            )
        self.heads, self.words, self.head = heads, words, head
        self._grow(random.Random(grammar), nonterminals, rules)
        self.first_word = len(self.rules) * heads
        self.vocab_size = self.first_word + words
        super().__init__(length)

    def _grow(self, dice: random.Random, nonterminals: int, rules: int) -> None:
        self.rules: list[Rule] = []
        for parent in range(nonterminals):
            weights = [dice.expovariate(1) for _ in range(rules)]
            for weight in weights:
                later = range(parent + 1, nonterminals)
                children = tuple(
                    dice.choice(later) if later and dice.random() < 0.5 else WORD
                    for _ in range(dice.randint(1, LONGEST_RULE))
                )
                self.rules.append(Rule(parent, children, weight / sum(weights)))
        self.start = [dice.expovariate(1) for _ in range(nonterminals)]
        self._of = [[n for n, rule in enumerate(self.rules) if rule.nonterminal == A] for A in range(nonterminals)]

    @property
    def chance(self) -> float:  # type: ignore[override]
        """About the best guess from the word that is asked for and the grammar alone: what its parent is most often."""
        trees = [weight / sum(self.start) for weight in self.start]
        of: dict[int, list[float]] = {}  # how many children of a kind there are of each rule
        for rule in self.rules:  # parents come before their children
            times = trees[rule.nonterminal] * rule.probability
            for child in set(rule.children):
                count = times * rule.children.count(child)
                of.setdefault(child, []).append(count)
                if child != WORD:
                    trees[child] += count
        every = sum(map(sum, of.values()))
        return sum(max(counts) for counts in of.values()) / every / self.heads

    def check_length(self, length: int) -> None:
        super().check_length(length)
        if length > 2 * self.vocab_size:
            raise ValueError(
                f"associative_treecall asks for a word that occurs once: it has up to {2 * self.vocab_size} tokens"
                f" with {self.vocab_size} words; got {length}"
            )

    def draw(self, size: int, length: int, generator: Generator) -> Batch:
        dice = random.Random(int(integers(0, 2**62, (1,), generator)))
        rows, answers, failed = [], [], 0
        while len(rows) < size:
            row = self._string(length, dice)
            above = self.parents(row)
            counts = Counter(row)
            once = [n for n, token in enumerate(row) if above[n] is not None and counts[token] == 1]
            if not once:
                failed += 1
                if failed == STRINGS and not rows:
                    raise ValueError(
                        f"with {self.words} words and {self.heads} heads of a rule hardly any string of {length} tokens has a"
                        " word that occurs once and has a parent: give it more words or heads"
                    )
                continue
            which = dice.choice(once)
            rows.append([*row, row[which]])
            answers.append(row[above[which]])  # type: ignore[index]
        return at_end(torch.tensor(rows), torch.tensor(answers))

    def _string(self, length: int, dice: random.Random) -> list[int]:
        """Trees until some in succession were too long for what is left, then single words."""
        row: list[int] = []
        failed = 0
        while failed < TRIES and len(row) < length:
            tree = self._tree(dice.choices(range(len(self.start)), self.start)[0], dice)
            fits = len(row) + len(tree) <= length
            row += tree if fits else []
            failed = 0 if fits else failed + 1
        return row + [self._word(dice) for _ in range(length - len(row))]

    def _tree(self, nonterminal: int, dice: random.Random) -> list[int]:
        choices = self._of[nonterminal]
        number = dice.choices(choices, [self.rules[n].probability for n in choices])[0]
        head = number * self.heads + dice.randrange(self.heads)
        below: list[int] = []
        for child in self.rules[number].children:
            below += [self._word(dice)] if child == WORD else self._tree(child, dice)
        return [head, *below] if self.head == "left" else [*below, head]

    def _word(self, dice: random.Random) -> int:
        return self.first_word + dice.randrange(self.words)

    def parents(self, row: list[int]) -> list[int | None]:
        """The place of the head above each token, None for those of no tree; ValueError for what the grammar has not."""
        tokens = row if self.head == "left" else row[::-1]
        found: list[int | None] = []
        open: list[tuple[int, list[int]]] = []  # heads, and the children that are still to come, the next one last
        for place, token in enumerate(tokens):
            rule = self.rules[token // self.heads] if token < self.first_word else None
            kind = rule.nonterminal if rule else WORD
            if open and open[-1][1].pop() != kind:
                raise ValueError(f"the grammar has no such tree: {row}")
            found.append(open[-1][0] if open else None)
            while open and not open[-1][1]:
                open.pop()
            if rule:
                children = list(rule.children)
                open.append((place, children[::-1] if self.head == "left" else children))
        if open:
            raise ValueError(f"the grammar has no such tree: {row}")
        if self.head == "left":
            return found
        return [None if place is None else len(row) - 1 - place for place in found[::-1]]

    def solve(self, row: list[int]) -> dict[int, int]:
        *tokens, item = row
        above = self.parents(tokens)[tokens.index(item)]
        assert above is not None
        return {len(tokens): tokens[above]}
