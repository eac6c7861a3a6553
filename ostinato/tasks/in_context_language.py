"""In-context language learning: strings of a random automaton that is new in every problem; which symbols may come next?

    # s_1 s_2 ... s_l # s_1 ...        P(s | q) = 1 / edges of q where one is labelled s,   q' = delta(q, s);   q = 0 at #

    states 4 to `states`;  of each, 1 to `edges` edges with different labels, to different other states;  labels from a
    random part of the alphabet;  strings of 1 to `longest` symbols, each of which begins in state 0

All states accept, so the end of a string says nothing and is not asked for. Equivalent states are not merged: strings and
their probabilities would be the same.

Akyurek, Wang, Kim, Andreas 2024, https://arxiv.org/abs/2401.12973.
"""

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy

from ostinato.layers.losses import IGNORED
from ostinato.registry import register
from ostinato.tasks.task import Batch, TokenTask, integers

FEWEST_STATES = 4
FEWEST_LABELS = 4


@register("task:in_context_language_learning", paper="icll")
class InContextLanguageLearning(TokenTask):
    """Strings of an automaton that is new in every problem: the score is how often the likeliest symbol is a legal one.

    A target holds the symbol that comes next and the set of those that might: ``next + vocab_size * sum of 2^symbol``.

    length: tokens of a problem, the ends of strings among them
    symbols: size of the alphabet; a language uses four of them or more
    states: most states that an automaton has
    edges: most edges that leave a state
    longest: most symbols of a string
    """

    metric = "legal predictions"
    shortest = 8

    def __init__(self, length: int = 128, *, symbols: int = 18, states: int = 12, edges: int = 4, longest: int = 20):
        if not FEWEST_LABELS <= symbols <= 50 or states < FEWEST_STATES or not 1 <= edges < FEWEST_STATES + 1:
            raise ValueError(
                f"symbols is {FEWEST_LABELS} to 50, states at least {FEWEST_STATES} and edges 1 to {FEWEST_STATES};"
                f" got {symbols}, {states} and {edges}"
            )
        if longest < 1:
            raise ValueError(f"longest is the most symbols of a string, at least 1; got {longest}")
        self.symbols, self.states, self.edges, self.longest = symbols, states, edges, longest
        self.vocab_size = symbols + 1  # the last is the end of a string
        super().__init__(length)

    @property
    def chance(self) -> float:  # type: ignore[override]
        """Of a symbol that is always the same: a state has so many edges on average."""
        return (1 + self.edges) / 2 / self.symbols

    def draw(self, size: int, length: int, generator: Generator) -> Batch:
        label, goal, degree = self.automata(size, generator)
        legal = (1 << label).masked_fill(torch.arange(self.edges) >= degree[..., None], 0).sum(-1)  # size N
        rows = torch.arange(size)
        state, left = torch.zeros(size, dtype=torch.long), integers(1, self.longest + 1, (size,), generator)
        dice = torch.rand(size, length, generator=generator)
        lengths = integers(1, self.longest + 1, (size, length), generator)
        inputs, targets = [torch.full((size,), self.symbols)], []
        for t in range(length):
            ends = left == 0
            edge = (dice[:, t] * degree[rows, state]).long()
            token = torch.where(ends, self.symbols, label[rows, state, edge])
            targets.append(torch.where(ends, IGNORED, token + self.vocab_size * legal[rows, state]))
            state = torch.where(ends, 0, goal[rows, state, edge])
            left = torch.where(ends, lengths[:, t], left - 1)
            inputs.append(token)
        found = torch.stack(targets, 1)
        return Batch(torch.stack(inputs[:-1], 1), found, found != IGNORED)

    def automata(self, size: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Labels and goals of the edges of random automata (size, states, edges), and how many each state has."""
        N, S, E = self.states, self.symbols, self.edges
        states = integers(FEWEST_STATES, N + 1, (size, 1, 1), generator)
        labels = integers(FEWEST_LABELS, S + 1, (size, 1, 1), generator)
        order = torch.rand(size, 1, S, generator=generator).argsort(-1)
        keys = torch.rand(size, N, S, generator=generator).masked_fill(order.argsort(-1) >= labels, torch.inf)
        label = keys.argsort(-1)[..., :E]
        place = torch.arange(N)
        keys = torch.rand(size, N, N, generator=generator)
        keys = keys.masked_fill((place >= states) | (place == place[:, None]), torch.inf)
        goal = keys.argsort(-1)[..., :E]
        degree = 1 + (torch.rand(size, N, generator=generator) * torch.clamp(states[..., 0] - 1, max=E)).long()
        return label, goal, degree

    def symbols_of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The next token at each place, IGNORED where none is expected, and which are legal there (B, T, vocab) bool."""
        targets = batch.targets.clamp(min=0)
        sets = targets // self.vocab_size
        legal = (sets[..., None] >> torch.arange(self.vocab_size)) & 1
        return torch.where(batch.scored, targets % self.vocab_size, IGNORED), legal.bool()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        following = self.symbols_of(batch)[0]
        return cross_entropy(outputs.flatten(0, 1).float(), following.flatten(), ignore_index=IGNORED)

    def score(self, outputs: Tensor, batch: Batch) -> float:
        legal = self.symbols_of(batch)[1]
        return legal.gather(-1, outputs.argmax(-1, keepdim=True))[..., 0][batch.scored].double().mean().item()

    def distance(self, outputs: Tensor, batch: Batch) -> float:
        """Total variation between what is predicted and the automaton, over the symbols: mean of sum |p - q| / 2."""
        p = outputs[batch.scored][:, : self.symbols].double().softmax(-1)
        q = self.oracle(batch)[batch.scored][:, : self.symbols].exp()
        return ((p - q).abs().sum(-1) / 2).mean().item()

    def oracle(self, batch: Batch) -> Tensor:
        """Of who knows the automaton: log probabilities of the symbols. Nobody who sees only the strings knows as much."""
        legal = self.symbols_of(batch)[1].double()
        return (legal / legal.sum(-1, keepdim=True).clamp(min=1)).log()

    def solve(self, row: list[int]) -> dict[int, int]:
        raise NotImplementedError("which symbols are legal follows from the automaton, of which only strings are known")
