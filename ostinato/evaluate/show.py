"""What an evaluation found: tables for people, JSON for programs, and a bar while it lasts."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rich.progress
from rich.console import Console
from rich.table import Table

from ostinato.evaluate.runner import Progress
from ostinato.files import write_atomically

MISSING = "-"


def show(result: dict[str, Any], console: Console) -> None:
    """Print an evaluation of a run as two tables: on the whole and by length, and by position."""
    about = f"{result['run']}, step {result['step']:,}, {result['parameters']:,} parameters; {result['data']}"
    console.print(about, markup=False, highlight=False)
    console.print(_by_length(result))
    for length in result["lengths"]:
        if "error" in length:
            console.print(f"length {length['length']:,}: {length['error']}", markup=False)
    if "error" in result["overall"] and result["overall"]["context"] is None:
        console.print(f"stream: {result['overall']['error']}", markup=False)
    if any("by_position" in length for length in result["lengths"]):
        console.print("loss in nats per token, with its standard error, by tokens of context:", highlight=False)
        console.print(_by_position(result))


def save(result: dict[str, Any], path: Path) -> None:
    """Write an evaluation as JSON."""
    write_atomically(path, json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A bar on stderr for each thing that is being done; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    tasks: dict[str, rich.progress.TaskID] = {}
    with rich.progress.Progress(console=console, transient=True, disable=not console.is_terminal) as bar:

        def progress(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=1.0)
            bar.update(tasks[name], completed=share)

        yield progress


def _by_length(result: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("context")
    for name in ("bits per byte", "perplexity", "loss", "tokens", "bytes"):
        table.add_column(name, justify="right")
    if result["overall"]["context"] is None:
        table.add_row("stream, memory carried on", *_measures(result["overall"]))
    for length in result["lengths"]:
        times = length["length"] / result["training_length"]
        name = "as in training" if times == 1 else f"{times:.3g} x training"
        table.add_row(f"{length['length']:,} ({name})", *_measures(length))
    return table


def _measures(values: dict[str, Any]) -> list[str]:
    return [
        _number(values.get("bits_per_byte"), ".4f"),
        _number(values.get("perplexity"), ".4g"),
        _with_error(values),
        _number(values.get("tokens"), ",d"),
        _number(values.get("bytes"), ",d"),
    ]


def _by_position(result: dict[str, Any]) -> Table:
    """One row for each range of positions, one column for each length."""
    read = [length for length in result["lengths"] if "by_position" in length]
    table = Table()
    table.add_column("context", justify="right")
    for length in read:
        table.add_column(f"length {length['length']:,}", justify="right")
    cells = [{(part["first"], part["last"]): part for part in length["by_position"]} for length in read]
    for first, last in sorted({span for column in cells for span in column}):
        name = f"{first:,}" if first == last else f"{first:,} to {last:,}"
        table.add_row(name, *(_with_error(column.get((first, last), {})) for column in cells))
    return table


def _with_error(values: dict[str, Any]) -> str:
    loss, error = values.get("loss"), values.get("standard_error")
    return _number(loss, ".4f") + ("" if error is None else f" \u00b1 {error:.4f}")


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None else format(value, form)
