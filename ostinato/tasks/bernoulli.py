"""Bits of sources that change now and then, and the predictors that are exact for each way in which they may change.

    theta ~ Beta(1/2, 1/2), new after each change;   P(b_t = 1) = theta;   predict b_t from b_1 ... b_{t-1}

    KT       P(1) = (ones + 1/2) / (seen + 1)                          no change at all
    Bayes    sum_r P(run r | past) KT(ones and zeros of the run)       a change with probability h(age of the run)
    LIN      the same with h(age) = 1 / (2 age)
    PTW      P_d(b) = KT(b) / 2 + P_{d-1}(first half) P_{d-1}(second half) / 2,   P_0 = KT      changes on a binary tree

Genewein et al. 2023, https://arxiv.org/abs/2302.03067. The sum over runs: Adams, MacKay 2007,
https://arxiv.org/abs/0710.3742. LIN: Willems 1996, "Coding for a binary independent piecewise-identically-distributed
source": whether a run goes on is itself predicted by KT. PTW: Veness, White, Bowling, Gyorgy 2013, "Partition tree
weighting", https://arxiv.org/abs/1211.0587; it takes log T numbers and steps for each bit where a sum over runs takes T.
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from ostinato.registry import did_you_mean, register
from ostinato.tasks.task import Batch, TokenTask

PRIORS = ("hazard", "lin", "ptw")


def kt(bits: Tensor) -> Tensor:
    """The probability that each of (B, T) bits is 1, given those before it, for one source: the estimate of Krichevsky
    and Trofimov."""
    ones = bits.double().cumsum(1) - bits
    return (ones + 0.5) / (torch.arange(bits.shape[1]) + 1)


def lin_hazard(age: Tensor) -> Tensor:
    """How likely a run of that many bits ends before the next one, by Willems' LIN."""
    return 0.5 / age


def bayes(bits: Tensor, hazard: float | Callable[[Tensor], Tensor]) -> Tensor:
    """The same where the source changes before each bit but the first.

    hazard: probability of a change; or what gives it for runs of so many bits
    """
    B, T = bits.shape
    weight = torch.ones(B, 1, dtype=torch.float64)  # of each beginning of the run that is going on
    ones, seen = torch.zeros(B, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    found = []
    for t in range(T):
        if t:
            h = hazard(seen) if callable(hazard) else torch.full_like(seen, hazard)
            weight = torch.cat([(1 - h) * weight, (h * weight).sum(1, keepdim=True)], 1)
            ones = torch.cat([ones, torch.zeros(B, 1, dtype=torch.float64)], 1)
            seen = torch.cat([seen, torch.zeros(1, dtype=torch.float64)])
        each = (ones + 0.5) / (seen + 1)
        found.append((weight * each).sum(1))
        bit = bits[:, t, None].double()
        weight = weight * torch.where(bit > 0, each, 1 - each)
        weight = weight / weight.sum(1, keepdim=True)
        ones, seen = ones + bit, seen + 1
    return torch.stack(found, 1)


def tree_depth(length: int) -> int:
    """Depth of the smallest binary tree over so many bits."""
    return (length - 1).bit_length()


def ptw(bits: Tensor, depth: int | None = None) -> Tensor:
    """The same where the bits are cut in halves, these too or not, down to single bits: each with probability 1/2.

    depth: of the tree, which has 2^depth bits; None for the smallest
    """
    B, T = bits.shape
    depth = tree_depth(T) if depth is None else depth
    if 2**depth < T:
        raise ValueError(f"a tree of depth {depth} has {2**depth} bits; got {T}")
    half = math.log(0.5)
    # one node of each level lies on the path to the bit: what it has seen (zeros, ones), log KT of it, and the log
    # weight of its first half, once the path goes through the second
    counts = torch.zeros(depth + 1, B, 2, dtype=torch.float64)
    evidence, first = torch.zeros(2, depth + 1, B, dtype=torch.float64)
    done = torch.zeros(depth + 1, B, dtype=torch.float64)  # log weight of each level after the last bit
    root, found = torch.zeros(B, dtype=torch.float64), []
    for t in range(T):
        for level in range(depth + 1):
            if t % 2**level == 0:  # a new node begins here
                counts[level], evidence[level], first[level] = 0, 0, 0
            elif level and t % 2 ** (level - 1) == 0:
                first[level] = done[level - 1]
        chance = (counts + 0.5) / (counts.sum(-1, keepdim=True) + 1)
        if_so = evidence[..., None] + chance.log()
        weights = [if_so[0]]
        for level in range(1, depth + 1):
            halves = first[level][:, None] + weights[-1]
            weights.append(torch.logaddexp(half + if_so[level], half + halves))
        found.append((weights[-1][:, 1] - root).exp())
        bit = bits[:, t].long()
        rows = torch.arange(B)
        done = torch.stack(weights)[:, rows, bit]
        root, evidence = done[-1], if_so[:, rows, bit]
        counts[:, rows, bit] += 1
    return torch.stack(found, 1)


def tree_changes(size: int, length: int, generator: Generator) -> Tensor:
    """Where sources drawn from the prior of PTW change: (size, length) bool."""
    depth = tree_depth(length)
    changes = torch.zeros(size, 2**depth, dtype=torch.bool)
    inside = torch.ones(size, 1, dtype=torch.bool)  # whether a node of this level is there
    for level in range(depth, 0, -1):
        cut = inside & (torch.rand(inside.shape, generator=generator) < 0.5)
        changes[:, 2 ** (level - 1) :: 2**level] = cut
        inside = cut.repeat_interleave(2, 1)
    return changes[:, :length]


def run_changes(size: int, length: int, hazard: float | Callable[[Tensor], Tensor], generator: Generator) -> Tensor:
    """Where sources change that change with a probability, of its own or for each age of a run."""
    dice = torch.rand(size, length, generator=generator)
    if not callable(hazard):
        return dice < hazard
    age, changes = torch.ones(size), [torch.ones(size, dtype=torch.bool)]
    for t in range(1, length):
        changes.append(dice[:, t] < hazard(age))
        age = torch.where(changes[-1], 1, age + 1)
    return torch.stack(changes, 1)


@register("task:piecewise_stationary", paper="piecewise_stationary")
class PiecewiseStationary(TokenTask):
    """Bits of a source that changes now and then: how likely is the next one? The score is 0 for guessing, 1 for Bayes.

    length: number of bits
    hazard: probability of a change before each bit, for the prior of that name
    prior: when sources change: "hazard" at any time, "lin" more rarely the longer they were the same, "ptw" on a binary tree
    """

    metric = "share of what Bayes gains over guessing"
    measured_in = "bits"
    shortest = 16
    answers = 1  # chance is no accuracy here
    chance = 0.0  # type: ignore[assignment]

    def __init__(self, length: int = 64, *, hazard: float = 0.05, prior: str = "hazard"):
        if not 0 <= hazard <= 1:
            raise ValueError(f"hazard is a probability; got {hazard}")
        if prior not in PRIORS:
            raise ValueError(f"prior is one of {', '.join(PRIORS)}; got {prior!r}{did_you_mean(prior, PRIORS)}")
        self.prior = prior
        self.hazard = lin_hazard if prior == "lin" else hazard
        self.vocab_size = 3  # 2 comes before the first bit
        super().__init__(length)

    def draw(self, size: int, length: int, generator: Generator) -> Batch:
        if self.prior == "ptw":
            changes = tree_changes(size, length, generator)
        else:
            changes = run_changes(size, length, self.hazard, generator)
        changes[:, 0] = True
        # Beta(1/2, 1/2) is the distribution of sin^2 of a uniform angle
        theta = (torch.rand(size, length, generator=generator) * math.pi / 2).sin().square()
        source = torch.where(changes, torch.arange(length), 0).cummax(1).values
        bits = (torch.rand(size, length, generator=generator) < theta.gather(1, source)).long()
        inputs = torch.cat([torch.full((size, 1), 2), bits[:, :-1]], 1)
        return Batch(inputs, bits, torch.ones_like(bits, dtype=torch.bool))

    def exact(self, bits: Tensor) -> Tensor:
        """The probability that each of (B, T) bits is 1, given those before it and how sources change."""
        return ptw(bits) if self.prior == "ptw" else bayes(bits, self.hazard)

    def oracle(self, batch: Batch) -> Tensor:
        """Logits of the exact probabilities."""
        p = self.exact(batch.targets)  # at t it has read the bits before t only
        never = torch.zeros_like(p)
        return torch.stack([1 - p, p, never], -1).log()

    def score(self, outputs: Tensor, batch: Batch) -> float:
        best = self.loss(self.oracle(batch), batch).item()
        return (math.log(2) - self.loss(outputs, batch).item()) / (math.log(2) - best)

    def solve(self, row: list[int]) -> dict[int, int]:
        raise NotImplementedError("the next bit is not known, only how likely it is")
