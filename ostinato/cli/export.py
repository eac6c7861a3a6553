"""ostinato export: a run as files that other programs read."""

from enum import Enum
from pathlib import Path
from typing import Annotated

from typer import Argument, Option


class Format(str, Enum):
    transformers = "transformers"
    ostinato = "ostinato"
    safetensors = "safetensors"
    torch_export = "torch-export"
    onnx = "onnx"


def export(
    run: Annotated[Path, Argument(help="Run folder, trained here or imported.")],
    output: Annotated[Path, Option("-o", "--output", help="The folder to write; it must not exist yet.")],
    to: Annotated[
        Format,
        Option(
            help="transformers: a checkpoint for AutoModelForCausalLM, of its own class where it has such a model, and "
            "otherwise of ostinato.hf, which `ostinato` asks for in any case; safetensors: the weights and a config; "
            "torch-export, onnx: the step as a program that runs without ostinato."
        ),
    ] = Format.transformers,
    step: Annotated[int | None, Option(help="Of the checkpoint; by default the newest.")] = None,
) -> None:
    """Write a model for other programs.

    An imported run keeps its config and the files of its tokenizer.

    ostinato export runs/qwen3 --to transformers -o checkpoints/qwen3
    """
    from ostinato.convert.exporting import export_run
    from ostinato.runs import Run

    print(export_run(Run.open(run), output, to=to.value, step=step))
