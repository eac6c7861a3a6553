"""A diagnosis on the terminal: what the trials are doing, and the scores as a table."""

from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from ostinato.compare.show import ShowJobs
from ostinato.diagnose.page import warnings
from ostinato.diagnose.run import Found
from ostinato.diagnose.trial import FACTORS, Trial
from ostinato.report.summary import Spread

LENGTHS = " / ".join(f"{times}\u00d7" for times in FACTORS)
COLUMN = " ".join(f"{times}\u00d7".rjust(4) for times in FACTORS)


class ShowTrials(ShowJobs):
    """Shows what each trial is doing."""

    def label(self, job: Any) -> str:
        return f"{job.mixer} on {job.task} (seed {job.seed})"

    def result(self, outcome: Trial) -> str:
        scores = " / ".join(_score(outcome.score(times)) for times in FACTORS)
        return f"{scores} at {LENGTHS} the length"


def show(found: Found, console: Console | None = None) -> None:
    """The scores, what to keep in mind, and the path of the report on a line of its own."""
    console = console or Console(highlight=False)
    diagnosis = found.diagnosis
    table = Table(title=diagnosis.title, title_justify="left", box=SIMPLE)
    table.add_column("task", no_wrap=True)
    for mixer in diagnosis.mixers:
        table.add_column(f"{mixer}\n{COLUMN}", justify="right", no_wrap=True)
    for task in diagnosis.tasks:
        cells = []
        for mixer in diagnosis.mixers:
            mine = [trial for trial in diagnosis.trials if (trial.task, trial.mixer) == (task, mixer)]
            cells.append(" ".join(_mean(mine, times).rjust(4) for times in FACTORS) if mine else "")
        table.add_row(task, *cells)
    console.print(table)
    for task, failure in diagnosis.failures:
        text = f"failed: {failure.mixer} on {task} (seed {failure.seed}): {failure.error}"
        console.print(text, markup=False, soft_wrap=True)
    for sentence in warnings(diagnosis):
        console.print(f"note: {sentence}", markup=False, soft_wrap=True)
    console.print(str(found.html), markup=False, soft_wrap=True)


def _mean(trials: list[Trial], times: int) -> str:
    scores = [score for trial in trials if (score := trial.score(times)) is not None]
    return _score(Spread.of(scores).mean if scores else None)


def _score(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.2f}"
