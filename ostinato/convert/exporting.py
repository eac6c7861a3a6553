"""Runs as files that other programs read.

    transformers   a checkpoint of transformers' own class, where one has all that the model asks for, or of `ostinato.hf`
    ostinato       a checkpoint of `ostinato.hf` in any case
    safetensors    the weights under their names here, and a config.json of the model's arguments
    torch-export   the step as a program of torch, which runs without this library (`convert/program.py`)
    onnx           the step as a program of ONNX

For transformers' own classes the tables are those of import, read from the other side. An imported run keeps the config
that it came with; a run that was trained here gets one from its own arguments.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ostinato.convert import files, program, table
from ostinato.convert.architecture import Architecture
from ostinato.convert.importing import CARRIED, architecture_of, architectures
from ostinato.convert.settings import Settings
from ostinato.data.tokenizer import FILE, ByteTokenizer, Tokenizer, byte_symbols, load_tokenizer
from ostinato.files import folder_atomically, write_atomically
from ostinato.registry import did_you_mean
from ostinato.runs import Run

if TYPE_CHECKING:
    from ostinato.models.language_model import LanguageModel

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
"""What a config says of tokens, and every class of transformers understands."""


def export_run(
    run: Run, folder: str | Path, *, to: str = "transformers", step: int | None = None, largest: int = files.SHARD
) -> Path:
    """Write the weights of a run, or its step as a program, and the files of its tokenizer.

    Weights that were imported in 16 bits and still fit into them are written so.

    run: imported, or trained here
    folder: what is written, which must not exist yet
    to: one of FORMATS
    step: of the checkpoint; None for the newest that is intact
    largest: bytes of a file, above which weights are written in several
    """
    if to not in FORMATS:
        raise ValueError(f"there is no format {to!r}{did_you_mean(to, FORMATS)}; the formats are {', '.join(FORMATS)}")
    folder = files.new_folder(folder)
    model = run.model(step)
    with folder_atomically(folder) as beside:
        FORMATS[to](run, model, beside, largest)
        save_tokenizer(run, beside)
    return folder


def _transformers(run: Run, model: "LanguageModel", folder: Path, largest: int) -> None:
    """A class of transformers; ours where none has all that the model asks for."""
    kept = run.folder / CARRIED / files.CONFIG
    if kept.is_file():
        config = files.read_json(kept)
        architecture = architecture_of(config)
    elif (found := described(arguments_of(run, model))) is not None:
        architecture, config = found
    else:
        return _ostinato(run, model, folder, largest)
    arguments = architecture.arguments(Settings(config))
    tensors = table.write(architecture.rows(arguments), model.state_dict())
    tensors = {name: as_imported(name, x, run.info.get("imported", {})) for name, x in tensors.items()}
    _write(folder, config, tensors, largest)


def _ostinato(run: Run, model: "LanguageModel", folder: Path, largest: int) -> None:
    """The class of `ostinato.hf`, for which transformers needs not be there now."""
    arguments = arguments_of(run, model)
    config = {"architectures": ["OstinatoForCausalLM"], "dtype": "float32", "model": arguments}
    config |= {"model_type": "ostinato", "vocab_size": arguments.pop("vocab_size")}
    kept = run.folder / CARRIED / files.CONFIG
    said = files.read_json(kept) if kept.is_file() else {}
    config |= {name: said[name] for name in SPECIAL if said.get(name) is not None}
    _write(folder, config, {f"model.{name}": x for name, x in once(model).items()}, largest)


def _safetensors(run: Run, model: "LanguageModel", folder: Path, largest: int) -> None:
    """As they are here."""
    _write(folder, {"model": arguments_of(run, model)}, once(model), largest)


def _torch_export(run: Run, model: "LanguageModel", folder: Path, largest: int) -> None:
    program.torch_export(model, folder)
    _write(folder, {"model": arguments_of(run, model)}, None, largest)


def _onnx(run: Run, model: "LanguageModel", folder: Path, largest: int) -> None:
    program.onnx(model, folder)
    _write(folder, {"model": arguments_of(run, model)}, None, largest)


FORMATS: dict[str, Callable[[Run, "LanguageModel", Path, int], None]] = {
    "transformers": _transformers,
    "ostinato": _ostinato,
    "safetensors": _safetensors,
    "torch-export": _torch_export,
    "onnx": _onnx,
}


def _write(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor] | None, largest: int) -> None:
    write_atomically(folder / files.CONFIG, json.dumps(config, indent=2) + "\n")
    if tensors is not None:
        files.save_weights(folder, tensors, largest)


def arguments_of(run: Run, model: "LanguageModel") -> dict[str, Any]:
    """The arguments of a run's model, its vocabulary among them."""
    return {"vocab_size": model.vocab_size, **run.config["model"]}


def once(model: torch.nn.Module) -> dict[str, Tensor]:
    """The weights by name, each under the first of its names."""
    found: dict[tuple[Any, ...], str] = {}
    return {
        name: x
        for name, x in model.state_dict().items()
        if found.setdefault((x.data_ptr(), x.shape, x.stride()) if x.numel() else (name,), name) == name
    }


def save_tokenizer(run: Run, folder: Path) -> None:
    """The tokenizer as `AutoTokenizer` reads it: the files that a checkpoint came with, or those of the one used here."""
    if files.carry(run.folder / CARRIED, folder) or not (run.folder / "tokenizer" / FILE).is_file():
        return
    tokenizer = load_tokenizer(run.folder / "tokenizer")
    write_atomically(folder / FILE, as_published(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    write_atomically(folder / "tokenizer_config.json", json.dumps(settings | {"padding_side": "left"}, indent=2) + "\n")


def as_published(tokenizer: Tokenizer) -> str:
    """The tokenizer.json that the `tokenizers` library reads; bytes are a byte-level BPE that merges nothing."""
    if not isinstance(tokenizer, ByteTokenizer):
        return tokenizer.to_json()
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    backend = tokenizers.Tokenizer(models.BPE(byte_symbols(), []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return backend.to_str()


def as_imported(name: str, x: Tensor, origin: Mapping[str, Any]) -> Tensor:
    """A tensor in the type that it was imported in, where that holds all of its numbers."""
    kind = origin.get("dtypes", {}).get(name, origin.get("dtype"))
    narrow = x if kind is None else x.to(getattr(torch, kind))
    return narrow if torch.equal(narrow.to(x.dtype), x) else x


def described(arguments: Mapping[str, Any]) -> tuple[Architecture, dict[str, Any]] | None:
    """An architecture of transformers that has all that a model asks for, and its config; None if there is none.

    A config counts where reading it gives a model of the same arguments.
    """
    wanted = plain(arguments)
    for architecture in architectures().values():
        try:
            config = {"model_type": architecture.model_type, "architectures": [architecture.class_name]}
            config |= architecture.settings(arguments)
            settings = Settings(config)
            read = architecture.arguments(settings)
            settings.finish()
        except (ValueError, KeyError, TypeError):
            continue
        if plain(read) == wanted:
            return architecture, config
    return None


def plain(arguments: Mapping[str, Any]) -> Any:
    """What a model is, however its arguments are written: its parts, and the shapes of its weights."""
    from ostinato.models.named import build

    with torch.device("meta"):
        model = build(**arguments)
    options = {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, (int, float, str, bool, tuple, dict, list, type(None)))
    }
    kinds = {path: type(module) for path, module in model.named_modules()}
    return kinds, options, {name: x.shape for name, x in model.state_dict().items()}
