"""ostinato search: train with settings drawn at random, and say which were best and which settings mattered."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from ostinato.train.config import assignments, load, override


def search(
    config: Annotated[Path, Argument(help="YAML file with the sections model, data and train, and a section search.")],
    trials: Annotated[int, Option(help="Trials in all; more than before continues a search.", min=1)] = 20,
    seed: Annotated[int, Option(help="Another one draws other settings.")] = 0,
    workers: Annotated[
        int | None, Option(help="Trials side by side; as many as there are cores if left out.", min=1)
    ] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="Any other setting: train.clip=0.5, model.mlp=null."),
    ] = None,
    out: Annotated[
        Path | None, Option(help="Folder of the search; runs/ and the name of the file if left out.")
    ] = None,
) -> None:
    """Train with settings drawn at random, and say which were best and how much each of them mattered.

    The section search has a space for each setting that is drawn: a list to choose from, or uniform, log_uniform, integer,
    log_integer with the first and the last value, as in `search: {train.learning_rate: {log_uniform: [1e-4, 1e-1]}}`.
    The same command again continues a search that was interrupted.

    ostinato search config.yaml --trials 50
    """
    values = load(config)
    spaces = values.pop("search", None)
    values = override(values, assignments(set_ or []))

    from ostinato.compare.search import search as run_search
    from ostinato.compare.search_show import ShowSearch, show

    folder = out or Path("runs", f"search-{config.stem}")
    try:
        found = run_search(
            {**values, "search": spaces}, folder, trials=trials, seed=seed, workers=workers, watcher=ShowSearch()
        )
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        raise
    show(found)
    if not found.trials:
        raise Exit(1)
