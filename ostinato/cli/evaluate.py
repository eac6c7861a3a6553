"""ostinato evaluate: how well a trained model predicts a text."""

from pathlib import Path
from typing import Annotated

from typer import Argument, BadParameter, Exit, Option


def evaluate(
    run: Annotated[Path, Argument(help="Folder that `ostinato train` wrote.")],
    data: Annotated[
        list[Path] | None, Option(help="Files and folders to predict; by default the run's validation text.")
    ] = None,
    length: Annotated[
        list[int] | None, Option(help="Tokens of context, several times; by default 1, 2 and 4 times that of training.")
    ] = None,
    max_tokens: Annotated[int | None, Option(help="Predict the first so many tokens only.", min=1)] = None,
    batch_size: Annotated[int, Option(help="Sequences that are read at a time.", min=1)] = 8,
    device: Annotated[str, Option(help="cpu or cuda; auto takes the GPU if there is one.")] = "auto",
    json: Annotated[Path | None, Option(help="Write all figures to this file too.", dir_okay=False)] = None,
) -> None:
    """Measure how well a trained model predicts a text.

    Bits per byte and perplexity of the whole text read as a stream, of
    windows of several lengths, and the loss by the tokens of context that
    predictions are made from.

    ostinato evaluate runs/gla-small --length 256 --length 4096
    """
    if length and min(length) < 1:
        raise BadParameter(f"--length is a number of tokens, at least 1; got {min(length)}")

    from rich.console import Console

    from ostinato.evaluate.of_run import evaluate_run
    from ostinato.evaluate.show import progress_bar, save, show
    from ostinato.runs import Run

    opened = Run.open(run)
    with progress_bar() as progress:
        result = evaluate_run(
            opened,
            data or None,
            length or None,
            batch_size=batch_size,
            max_tokens=max_tokens,
            device=device,
            progress=progress,
        )
    console = Console()
    show(result, console if console.is_terminal else Console(width=120))
    if json is not None:
        save(result, json)
    if all("error" in part for part in (result["overall"], *result["lengths"])):
        raise Exit(1)
