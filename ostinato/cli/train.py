"""ostinato train: train a language model, or go on where training stopped."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, BadParameter, Option

from ostinato.train.config import assignments, load, meaning, override


def train(
    config: Annotated[Path | None, Argument(help="YAML file with the sections model, data and train.")] = None,
    data: Annotated[list[str] | None, Option(help="A file or folder to learn from; may be repeated.")] = None,
    model: Annotated[str | None, Option(help="A paper's model, as in xlstm or xlstm:base.")] = None,
    mixer: Annotated[list[str] | None, Option(help="Mixer of the layers; repeated: a pattern, layer by layer.")] = None,
    params: Annotated[str | None, Option(help="Number of parameters, as in 5M; it picks the width.")] = None,
    dim: Annotated[int | None, Option(help="Width, instead of a number of parameters.")] = None,
    layers: Annotated[int | None, Option(help="Number of layers.")] = None,
    steps: Annotated[str | None, Option(help=meaning("train.steps"))] = None,
    tokens: Annotated[str | None, Option(help=meaning("train.tokens"))] = None,
    batch_size: Annotated[int | None, Option(help=meaning("train.batch_size"))] = None,
    length: Annotated[int | None, Option(help=meaning("train.length"))] = None,
    lr: Annotated[float | None, Option(help=meaning("train.learning_rate"))] = None,
    optimizer: Annotated[str | None, Option(help=meaning("train.optimizer"))] = None,
    schedule: Annotated[str | None, Option(help=meaning("train.schedule"))] = None,
    precision: Annotated[str | None, Option(help=meaning("train.precision"))] = None,
    seed: Annotated[int | None, Option(help=meaning("train.seed"))] = None,
    tokenizer: Annotated[str | None, Option(help=meaning("data.tokenizer"))] = None,
    set_: Annotated[
        list[str] | None,
        Option("--set", metavar="KEY=VALUE", help="Any other setting: train.clip=0.5, model.mlp=null."),
    ] = None,
    out: Annotated[Path | None, Option(help="Folder of the run; runs/ and a name if it is left out.")] = None,
    resume: Annotated[Path | None, Option(help="Go on with the run in this folder, with its own settings.")] = None,
    no_resume: Annotated[bool, Option("--no-resume", help="Refuse a folder that holds a run already.")] = False,
) -> None:
    """Train a language model, or go on where training stopped.

    The same command again continues a run that was stopped or killed; its result is the same as if it had not been.

    ostinato train --data notes/ --mixer gla --params 5M --out runs/notes
    """
    name, _, size = (model or "").removeprefix("model:").partition(":")
    flags = {
        "model": {
            "name": name or None,
            "size": size or None,
            "pattern": mixer and [_mixer(word) for word in mixer],
            "params": params,
            "dim": dim,
            "layers": layers,
        },
        "data": {"paths": data, "tokenizer": tokenizer},
        "train": {
            "steps": steps,
            "tokens": tokens,
            "batch_size": batch_size,
            "length": length,
            "learning_rate": lr,
            "optimizer": optimizer,
            "schedule": schedule,
            "precision": precision,
            "seed": seed,
        },
    }
    given = {
        name: {key: value for key, value in section.items() if value is not None} for name, section in flags.items()
    }
    given = override({name: section for name, section in given.items() if section}, assignments(set_ or []))
    if resume is not None and (config or given or out or no_resume):
        raise BadParameter("--resume continues a run with its own settings; leave the others out")
    values = None if resume is not None else override(load(config) if config else {}, given)
    folder = resume or out or Path("runs", _name(values or {}))

    from ostinato.train.loop import train as run_training
    from ostinato.train.progress import ShowProgress

    try:
        run = run_training(values, folder, resume=not no_resume, callbacks=[ShowProgress()])
    except KeyboardInterrupt:
        print(f"\nstopped; this goes on from the last checkpoint: ostinato train --resume {folder}")
        raise
    _conclude(run)


def _conclude(run: Any) -> None:
    from accelerate import PartialState

    if not PartialState().is_main_process:
        return
    score = next((line for line in reversed(run.metrics()) if "valid_loss" in line), None)
    print(f"{run.folder} is trained ({run.config['train']['steps']} steps)")
    if score is not None:
        print(f"validation: {score['valid_bits_per_byte']:.4f} bits per byte, {score['valid_loss']:.4f} nats per token")
    print(f'try it: ostinato generate {run.folder} --prompt "The "')


def _mixer(word: str) -> Any:
    """ "gla", or a mixer with arguments: "{attention: {window: 64}}"."""
    import yaml

    try:
        return yaml.safe_load(word)
    except yaml.YAMLError:
        raise BadParameter(f"--mixer is a name or {{name: {{argument: value}}}}; got {word!r}") from None


def _name(values: dict[str, Any]) -> str:
    """What a run is called if nobody says it: its mixers and its size."""
    from ostinato.models.budget import format_count
    from ostinato.models.layouts import LAYOUTS
    from ostinato.train.config import MODEL

    model = values.get("model") or {}
    pattern = model.get("pattern") or model.get("mixer") or model.get("name") or MODEL["pattern"]
    parts = pattern if isinstance(pattern, list) else [pattern]
    names = [next(iter(part), "mixer") if isinstance(part, dict) else part for part in parts]
    params = model.get("params")
    size = format_count(params) if isinstance(params, int) else params
    if not size and model.get("name") and not model.get("dim"):
        sized = str(model["name"]).removeprefix("model:") in LAYOUTS  # others are classes of their own
        size = model.get("size") or ("small" if sized else "paper")
    size = size or f"dim{model.get('dim') or MODEL['dim']}"
    return "-".join(str(name) for name in dict.fromkeys([*names, size]))
