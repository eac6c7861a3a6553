"""A search on the terminal: a line for each trial while they last, the best of them, and what mattered."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ostinato.compare.search import FOUND, Searched, Trial
from ostinato.compare.show import ShowJobs
from ostinato.report.numbers import bits

BEST = 10
"""Trials that are shown."""
PAIRS = 3
"""Pairs of settings that are shown."""


class ShowSearch(ShowJobs):
    """Shows what each trial is doing."""

    def label(self, job: Any) -> str:
        return f"{job.mixer} ({', '.join(f'{short(name)} {written(value)}' for name, value in job.chosen.items())})"

    def result(self, outcome: Trial) -> str:
        return f"{bits(outcome.bits_per_byte)} bits per byte at step {outcome.step}"


def short(name: str) -> str:
    """A setting without its section."""
    return name.partition(".")[2]


def written(value: Any) -> str:
    """A value in three digits, if it is a number."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def show(searched: Searched, console: Console | None = None) -> None:
    """The best trials as a table, the shares of the settings, and the path of the figures on a line of its own."""
    console = console or Console(highlight=False)
    if searched.trials:
        table = Table(box=SIMPLE)
        for heading in ("trial", "bits per byte", *map(short, searched.trials[0].chosen)):
            table.add_column(heading, justify="right")
        for trial in searched.trials[:BEST]:
            table.add_row(str(trial.number), bits(trial.bits_per_byte), *map(written, trial.chosen.values()))
        console.print(table)
    for failure in searched.failures:
        console.print(f"failed: {failure.mixer}: {failure.error}", markup=False, soft_wrap=True)
    if searched.importance is None:
        console.print(f"note: {searched.note}", markup=False, soft_wrap=True)
    else:
        console.print("share of the variance of bits per byte that is due to", soft_wrap=True)
        single = searched.importance.single.items()
        pairs = ((f"{a} with {b}", share) for (a, b), share in searched.importance.pairs.items())
        for shares, most in ((single, len(searched.importance.single)), (pairs, PAIRS)):
            for name, share in sorted(shares, key=lambda each: -each[1].mean)[:most]:
                console.print(f"  {share.mean:6.1%} ± {share.deviation:.1%}  {name}", markup=False, soft_wrap=True)
    console.print(str(searched.folder / FOUND), markup=False, soft_wrap=True)
