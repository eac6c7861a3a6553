"""ostinato import: a model of transformers as a run folder."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option


def import_(
    source: Annotated[
        str,
        Argument(help="Folder of a checkpoint, the .pth of an RWKV-7, or a model in the local cache of Hugging Face."),
    ],
    output: Annotated[Path, Option("-o", "--output", help="The run folder to write; it must not exist yet.")],
    ignore: Annotated[
        list[str] | None, Option(help="A name in config.json that changes no number, and is not known here.")
    ] = None,
) -> None:
    """Make a run folder of a model of transformers.

    Afterwards `ostinato generate` and `ostinato evaluate --data` read it as
    they read a model that was trained here, where its tokenizer is a
    byte-level BPE.

    ostinato import checkpoints/Qwen3-0.6B -o runs/qwen3
    """
    from ostinato.convert.importing import import_run

    run = import_run(source, output, ignore=ignore or ())
    print(f"{run.folder}: {run.info['imported']['model_type']}, {run.info['parameters']:,} parameters")
    try:
        run.tokenizer()
    except (ValueError, OSError) as error:
        print(f"{run.folder}: text cannot be read with it, tokens can: {error}")
