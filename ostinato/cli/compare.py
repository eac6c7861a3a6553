"""ostinato compare: train several mixers on the same data and budget, and report."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option

from ostinato.train.config import assignments, load, meaning, override


def compare(
    mixers: Annotated[
        list[str],
        Argument(help="Mixers; gla+attention for a pattern, {attention: {window: 64}} for one with arguments."),
    ],
    data: Annotated[
        list[str] | None,
        Option(help="A file or folder to learn from; may be repeated. The source of Python's library if left out."),
    ] = None,
    params: Annotated[str | None, Option(help="Number of parameters of each model; 300k if left out.")] = None,
    tokens: Annotated[str | None, Option(help="Tokens that each model is trained on; 1M if left out.")] = None,
    length: Annotated[int | None, Option(help="Tokens of a sequence; 256 if left out.")] = None,
    batch_size: Annotated[int | None, Option(help="Sequences of a batch; 8 if left out.")] = None,
    layers: Annotated[int | None, Option(help="Number of layers; 4 if left out.")] = None,
    lr: Annotated[float | None, Option(help=meaning("train.learning_rate"))] = None,
    tokenizer: Annotated[str | None, Option(help=meaning("data.tokenizer"))] = None,
    seeds: Annotated[int, Option(help="Runs of each mixer, for error bars.", min=1)] = 1,
    workers: Annotated[
        int | None,
        Option(help="Runs side by side, which share the cores; as many as there are cores if left out.", min=1),
    ] = None,
    ray: Annotated[
        str | None, Option(metavar="ADDRESS", help="Run on this Ray cluster: auto, local, ray://host:10001.")
    ] = None,
    config: Annotated[Path | None, Option(help="YAML file with the sections model, data and train.")] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="Any other setting: train.clip=0.5, model.mlp=null."),
    ] = None,
    out: Annotated[Path | None, Option(help="Folder of the comparison; one in runs/ if left out.")] = None,
) -> None:
    """Train mixers on the same data, in the same order, with equal parameters and tokens, and write an HTML report.

    The same command again continues a comparison that was interrupted. What failed is tried again, the rest is not.

    ostinato compare gla attention gated_deltanet+attention --params 1M --tokens 5M --seeds 3
    """
    flags = {
        "model": {"params": params, "layers": layers},
        "data": {"paths": data, "tokenizer": tokenizer},
        "train": {"tokens": tokens, "length": length, "batch_size": batch_size, "learning_rate": lr},
    }
    given = {name: {key: value for key, value in part.items() if value is not None} for name, part in flags.items()}
    given = {name: part for name, part in given.items() if part}
    values = override(override(load(config) if config else {}, given), assignments(set_ or []))

    import shlex
    import sys

    from ostinato.compare import compare as run_comparison
    from ostinato.compare.show import ShowJobs, show

    command = shlex.join(["ostinato", *sys.argv[1:]])
    try:
        found = run_comparison(
            mixers, out, config=values, seeds=seeds, workers=workers, ray=ray, watcher=ShowJobs(), command=command
        )
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here")
        raise
    show(found)
    if found.comparison.failures:
        raise Exit(1)
