"""ostinato evaluate: how well a trained model predicts a text."""

from pathlib import Path
from typing import Annotated, Any

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
    harness: Annotated[
        str | None, Option(help="Tasks of lm-evaluation-harness instead, by name, with commas between them.")
    ] = None,
    harness_folder: Annotated[
        Path | None,
        Option(help="Tasks of one's own for --harness: a folder of YAML files.", exists=True, file_okay=False),
    ] = None,
    limit: Annotated[int | None, Option(help="Documents of each task of --harness, the first ones.", min=1)] = None,
    fewshot: Annotated[int | None, Option(help="Examples before each question of --harness.", min=0)] = None,
    json: Annotated[Path | None, Option(help="Write all figures to this file too.", dir_okay=False)] = None,
) -> None:
    """Measure how well a trained model predicts a text.

    Bits per byte and perplexity of the whole text read as a stream, of
    windows of several lengths, and the loss by the tokens of context that
    predictions are made from.

    ostinato evaluate runs/gla-small --length 256 --length 4096

    ostinato evaluate runs/gla-small --harness lambada_openai,hellaswag
    """
    if length and min(length) < 1:
        raise BadParameter(f"--length is a number of tokens, at least 1; got {min(length)}")

    if harness is None and (harness_folder or limit or fewshot is not None):
        raise BadParameter("--harness-folder, --limit and --fewshot are for --harness")
    if harness is not None:
        if data or length or max_tokens:
            raise BadParameter("--harness has texts of its own: give it without --data, --length and --max-tokens")
        tasks = [name.strip() for name in harness.split(",") if name.strip()]
        how = {"batch_size": batch_size, "device": device, "limit": limit, "fewshot": fewshot}
        return _harness(run, tasks, harness_folder, json, **how)

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


def _harness(run: Path, tasks: list[str], folder: Path | None, json: Path | None, **how: Any) -> None:
    """Tasks of lm-evaluation-harness."""
    from ostinato.runs import Run

    opened = Run.open(run)
    try:
        from ostinato.harness import harness_run, show
    except ImportError as error:
        raise BadParameter(str(error)) from None
    from ostinato.evaluate.show import save

    result = harness_run(opened, tasks, folder, **how)
    show(result)
    if json is not None:
        save(result, json)
