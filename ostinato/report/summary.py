"""One row for each mixer: means over seeds, how far seeds lie apart, and what a reader should be warned of.

± is the standard deviation over seeds (of a sample: n - 1), and is there only for two seeds and more.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import fmean, stdev

from ostinato.report.results import Comparison, Run

UNEQUAL = 0.03
"""Sizes of models that differ by more than this share are not a fair comparison, and the report says so."""


@dataclass(frozen=True)
class Spread:
    """A figure over seeds."""

    mean: float
    deviation: float | None
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        values = list(values)
        return cls(fmean(values), stdev(values) if len(values) > 1 else None, min(values), max(values))


@dataclass(frozen=True)
class Row:
    """One mixer of the comparison, over the seeds that ended."""

    mixer: str
    runs: list[Run]

    def spread(self, figure: Callable[[Run], float | None]) -> Spread | None:
        """A figure over the seeds; None where a run lacks it."""
        values = [figure(run) for run in self.runs]
        known = [value for value in values if value is not None]
        return Spread.of(known) if len(known) == len(values) else None

    @property
    def final(self) -> Spread:
        return Spread.of(run.final_bits_per_byte for run in self.runs)

    def along(self, parts: Callable[[Run], list], x: Callable, y: Callable) -> list[tuple[float, Spread]]:
        """Curves of the seeds as one: the mean of x and the spread of y at each index that all of them have."""
        curves = [parts(run) for run in self.runs]
        return [(fmean(map(x, here)), Spread.of(map(y, here))) for here in zip(*curves)]


def rows(comparison: Comparison) -> list[Row]:
    """The mixers that were trained, the lowest loss first."""
    found = [
        Row(mixer, sorted((run for run in comparison.runs if run.mixer == mixer), key=lambda run: run.seed))
        for mixer in comparison.mixers
    ]
    trained = [row for row in found if row.runs]
    return sorted(trained, key=lambda row: row.final.mean if math.isfinite(row.final.mean) else math.inf)


def at_length(run: Run, length: int) -> float | None:
    """The loss of sequences of that length, if it was measured."""
    return next((part.bits_per_byte for part in run.lengths if part.length == length), None)


def warnings(comparison: Comparison) -> list[str]:
    """What makes this comparison less than it seems, a sentence each."""
    found = []
    sizes = {run.mixer: run.parameters for run in comparison.runs}
    if sizes:
        small, large = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        if sizes[large] > sizes[small] * (1 + UNEQUAL):
            found.append(
                f"Models differ in size by more than {UNEQUAL:.0%}: {small} has {sizes[small]:,} parameters "
                f"and {large} has {sizes[large]:,}."
            )
    tokens = {run.tokens for run in comparison.runs}
    if len(tokens) > 1:
        found.append(f"Models were not trained on equally many tokens: {min(tokens):,} to {max(tokens):,}.")
    seeds = [len(row.runs) for row in rows(comparison)]
    if len(set(seeds)) > 1:
        found.append(f"Mixers have different numbers of finished runs, {min(seeds)} to {max(seeds)}.")
    elif seeds and seeds[0] == 1:
        found.append("There is one run for each mixer, so how much of a difference is chance is not known (--seeds 3).")
    if comparison.failures:
        found.append(f"{len(comparison.failures)} of the runs failed; see the section on them.")
    for run in comparison.runs:
        for part in run.lengths:
            if part.error:
                found.append(f"{run.mixer} (seed {run.seed}) was not judged at length {part.length:,}: {part.error}.")
    if comparison.missing:
        names = ", ".join(f"{mixer} (seed {seed})" for mixer, seed in comparison.missing)
        found.append(f"Not finished when this was written: {names}. The same command continues them.")
    return found
