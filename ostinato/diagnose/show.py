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

SCORES = len(" / ".join("1.00" for _ in FACTORS))
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
    console.print(diagnosis.title)
    for mixers in _side_by_side(diagnosis.mixers, diagnosis.tasks, console.width):
        table = Table(box=SIMPLE)
        table.add_column("task", overflow="fold")
        for mixer in mixers:
            table.add_column(f"{mixer}\n{LENGTHS}", justify="right", no_wrap=True, min_width=SCORES)
        for task in diagnosis.tasks:
            cells = []
            for mixer in mixers:
                mine = [trial for trial in diagnosis.trials if (trial.task, trial.mixer) == (task, mixer)]
                cells.append(" / ".join(_mean(mine, times) for times in FACTORS) if mine else "")
            table.add_row(task, *cells)
        console.print(table)
    for task, failure in diagnosis.failures:
        text = f"failed: {failure.mixer} on {task} (seed {failure.seed}): {failure.error}"
        console.print(text, markup=False, soft_wrap=True)
    for sentence in warnings(diagnosis):
        console.print(f"note: {sentence}", markup=False, soft_wrap=True)
    console.print(str(found.html), markup=False, soft_wrap=True)


def _side_by_side(mixers: list[str], tasks: list[str], width: int) -> list[list[str]]:
    """The mixers in groups whose columns fit beside that of the tasks, at least one in each."""
    many = max(1, (width - max(map(len, tasks)) - 4) // (max(SCORES, *map(len, mixers)) + 2))
    return [mixers[start : start + many] for start in range(0, len(mixers), many)]


def _mean(trials: list[Trial], times: int) -> str:
    scores = [score for trial in trials if (score := trial.score(times)) is not None]
    return _score(Spread.of(scores).mean if scores else None)


def _score(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.2f}"
