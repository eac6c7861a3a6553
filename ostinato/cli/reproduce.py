"""ostinato reproduce: does the effect of a paper appear here?"""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option


def reproduce(
    name: Annotated[
        str | None, Argument(help="A reproduction, or the path of its file; all are listed if left out.")
    ] = None,
    short: Annotated[bool, Option("--short", help="The version of about a minute.")] = False,
    record: Annotated[bool, Option("--record", help="Write the result beside the reproductions.")] = False,
    workers: Annotated[
        int | None, Option(help="Trials side by side; as many as there are cores if left out.", min=1)
    ] = None,
    runs: Annotated[Path, Option(help="Folder of the trials; those that are done are not done again.")] = Path("runs"),
) -> None:
    """Train what a paper compares, at a small scale, and hold its claim against what is measured.

    Prints the paper's figure beside ours. Exit code 1 when the effect does not appear.

    ostinato reproduce parity
    """
    from rich.console import Console

    from ostinato.reproduce import effects, find_effect
    from ostinato.reproduce import reproduce as run
    from ostinato.reproduce.show import show

    console = Console(highlight=False)
    if name is None:
        for each in effects():
            console.print(f"{each:32} {find_effect(each).title}", markup=False, soft_wrap=True)
        return
    found = run(
        name,
        short=short,
        workers=workers,
        runs=runs,
        record=record,
        tell=lambda line: console.print(line, markup=False, soft_wrap=True),
    )
    show(found, console)
    if not found.holds:
        raise Exit(1)
