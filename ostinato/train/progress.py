"""A bar with loss, speed and the time that is left; or plain lines, where nobody watches a terminal."""

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ostinato.runs import Run
from ostinato.train.callbacks import Callback


def duration(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class ShowProgress(Callback):
    """Shows on a console how far training is.

    console: where; None for standard error
    """

    def __init__(self, console: Console | None = None):
        self.console = console or Console(stderr=True, highlight=False)

    def begin(self, run: Run, step: int, steps: int) -> None:
        self._first, self._step, self._steps, self._began = step, step, steps, time.perf_counter()
        where = f"; going on after step {step}" if step else ""
        size = f"{run.info['parameters']:,} parameters" if "parameters" in run.info else "a model"
        self._print(f"{run.folder}: {size}, {steps} steps{where}")
        self._bar = None
        if self.console.is_terminal:
            columns = ("{task.completed}/{task.total}", "{task.fields[now]}", "ETA {task.fields[left]}")
            texts = [TextColumn(column) for column in columns]
            self._bar = Progress(BarColumn(), *texts, TimeElapsedColumn(), console=self.console, transient=True)
            self._task = self._bar.add_task("", total=steps, completed=step, now="", left="?")
            self._bar.start()

    def step(self, step: int) -> None:
        self._step = step
        if self._bar is not None:
            self._bar.update(self._task, completed=step, left=self._left())

    def metrics(self, line: dict[str, Any]) -> None:
        if "valid_loss" in line:
            text = "step {step}  validation loss {valid_loss:.4f}  bits per byte {valid_bits_per_byte:.4f}".format(
                **line
            )
            self._print(text)
            return
        now = "loss {loss:.4f}  {tokens_per_second:,.0f} tokens/s".format(**line)
        if self._bar is not None:
            self._bar.update(self._task, now=now)
        else:
            self._print(f"step {line['step']}/{self._steps}  {now}  ETA {self._left()}")

    def end(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _left(self) -> str:
        done = self._step - self._first
        return duration((time.perf_counter() - self._began) / done * (self._steps - self._step)) if done else "?"

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
