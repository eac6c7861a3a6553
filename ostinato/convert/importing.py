"""Checkpoints of transformers as models and as run folders.

    model = ostinato.from_pretrained("checkpoints/Qwen3-0.6B")
    logits, state = model(tokens)

The architecture says what the config means and which tensor is which (`convert/architecture.py`). Everything is checked
before anything is read: an unknown setting, a tensor that is missing, one too many or of another shape is one sentence.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ostinato.convert import files, table
from ostinato.convert.architecture import Architecture
from ostinato.convert.settings import Settings
from ostinato.files import folder_atomically, write_atomically
from ostinato.registry import create, did_you_mean, entries
from ostinato.runs import CARRIED, Run

if TYPE_CHECKING:
    from ostinato.models.language_model import LanguageModel

LONGEST = 2048
"""Tokens of context, at most, that `ostinato evaluate` takes as the length of training of an imported model."""


class Imported(NamedTuple):
    """A model, and what it was made from."""

    model: "LanguageModel"
    arguments: dict[str, Any]
    architecture: Architecture
    dtypes: dict[str, str]  # of the tensors of theirs that are not float32


def architectures() -> dict[str, Architecture]:
    """What can be imported, by the name that config.json has for it."""
    return {entry.target.model_type: entry.target() for entry in entries("convert")}


def architecture_of(config: Mapping[str, Any]) -> Architecture:
    """The architecture of a config; refuses an unknown one by name."""
    known, name = architectures(), config.get("model_type")
    if name is None and {"d_model", "n_layer"} <= config.keys():
        name = "mamba_ssm"  # whose configs have no name
    if not isinstance(name, str) or name not in known:
        hint = did_you_mean(str(name), known)
        raise ValueError(f"ostinato cannot import model_type {name!r}{hint}; it imports {', '.join(sorted(known))}")
    return known[name]


def config_of(origin: Path) -> dict[str, Any]:
    """The config of a checkpoint; where there is none, and the weights are those of an RWKV-7, what they say themselves."""
    alone = origin.is_file() or (not (origin / files.CONFIG).exists() and any(origin.glob("*.pth")))
    if not alone:
        return files.read_json(origin / files.CONFIG)
    from ostinato.convert.rwkv7 import RWKV7Pth

    with files.Weights(origin) as weights:
        return RWKV7Pth.config(weights)


def from_pretrained(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: "torch.device | str" = "cpu",
    ignore: Iterable[str] = (),
) -> "LanguageModel":
    """A model of transformers, or of a run folder, ready to be used: ``logits, state = model(tokens)``.

    source: folder of the checkpoint, name of a model in the local cache of Hugging Face, or a run folder
    dtype: type of the weights
    device: where they shall be
    ignore: names in config.json that change no number
    """
    if Run.exists(source):
        return Run.open(source).model(device=device).to(dtype)
    return load(files.locate(source), dtype, ignore).model.to(device).eval()


def load(folder: Path, dtype: torch.dtype = torch.float32, ignore: Iterable[str] = ()) -> Imported:
    """The model in a checkpoint folder."""
    config = config_of(folder)
    architecture, settings = architecture_of(config), Settings(config, ignore)
    try:
        arguments = architecture.arguments(settings)
        settings.finish()
        with torch.device("meta"):
            model = create(architecture.model, **arguments)
        rows = [row for row in architecture.rows(arguments) if row.ours]
    except (TypeError, KeyError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise ValueError(f"{folder / files.CONFIG} makes no model: {error}") from error
    with files.Weights(folder) as weights:
        names = match(architecture, arguments, rows, weights, model.state_dict())
        dtypes = {}

        def get(name: str) -> Tensor:
            x = weights.get(names[name])
            if not x.is_floating_point():
                raise ValueError(f"{folder}: {name} holds {x.dtype}; weights that are quantised cannot be imported")
            if x.dtype != torch.float32:
                dtypes[name] = str(x.dtype).removeprefix("torch.")
            return x.to(dtype)

        ours = {name: x.clone(memory_format=torch.contiguous_format) for name, x in table.read(rows, get).items()}
    together = shared(model)
    for first, *others in together:
        ours |= dict.fromkeys(others, ours[first])
    model.load_state_dict(ours, assign=True)
    for first, *others in together:
        for module, _, name in (other.rpartition(".") for other in others):
            setattr(model.get_submodule(module), name, model.get_parameter(first))
    return Imported(model, arguments, architecture, dtypes)


def shared(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [each for each in names.values() if len(each) > 1]


def match(
    architecture: Architecture,
    arguments: Mapping[str, Any],
    rows: Sequence[table.Row],
    weights: files.Weights,
    ours: Mapping[str, Tensor],
) -> dict[str, str]:
    """The name in the checkpoint of each tensor of the table; refuses a checkpoint that does not fit it.

    ours: the tensors of the model, which need not have numbers
    """
    expected = {name: tuple(x.shape) for name, x in table.write(rows, ours).items()}
    bare = not any(name.startswith(architecture.prefix) for name in weights)
    begin = architecture.prefix if bare else ""
    heads = (architecture.head, "lm_head.weight")
    found = {architecture.canonical(name if name in heads else begin + name): name for name in weights}
    names = {name: found.get(name, name.removeprefix(begin)) for name in expected}
    embedding = next(row.theirs[0] for row in rows if row.ours == ("embedding.weight",))
    if architecture.head_may_lack and architecture.head in names and names[architecture.head] not in weights:
        names[architecture.head] = names[embedding]
    what = f"a {architecture.model_type} model of this config"
    if missing := [name for name in names.values() if name not in weights]:
        raise ValueError(f"{weights.folder} lacks {some(missing)}, which {what} has")
    head = found.get(architecture.head)
    tied = arguments.get("tie", True)
    if tied and head is not None and not torch.equal(weights.get(head), weights.get(names[embedding])):
        raise ValueError(f"{weights.folder}: the config ties {head} to the embedding, and the weights are not equal")
    known = {*names.values(), head}
    for name in weights:
        first = None if name in known else architecture.repeated(name, arguments)
        if first is None:
            continue
        if first not in weights or not torch.equal(weights.get(name), weights.get(first)):
            raise ValueError(f"{weights.folder}: {name} is not equal to {first}, which {what} has in its place")
        known.add(name)
    unknown = [x for x in weights if x not in known and not any(re.fullmatch(y, x) for y in architecture.ignored)]
    if unknown:
        raise ValueError(f"{weights.folder} holds {some(unknown)}, which {what} does not have")
    for name, shape in expected.items():
        if (found := weights.shape(names[name])) != shape:
            raise ValueError(f"{weights.folder}: {names[name]} has the shape {found}; {what} has {shape}")
    return names


def some(names: Sequence[str]) -> str:
    """The first of some names."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def import_run(source: str | Path, folder: str | Path, *, ignore: Iterable[str] = ()) -> Run:
    """A run folder made from a checkpoint of transformers, whole at once.

    source: folder of the checkpoint, or name of a model in the local cache of Hugging Face
    folder: the run, which must not exist yet
    ignore: names in config.json that change no number
    """
    from safetensors.torch import save_model

    from ostinato import __version__
    from ostinato.runs import MODEL

    origin, folder = files.locate(source), files.new_folder(folder)
    config = config_of(origin)
    known = architecture_of(config)
    if known.model != "model:language_model":
        what = f"a {known.model_type} model does not go on from what was said, so it makes no run"
        raise ValueError(f"{what}; `ostinato.from_pretrained` reads it")
    imported = load(origin, ignore=ignore)
    lengths = (config.get(name) for name in ("max_position_embeddings", "n_positions"))
    longest = next((length for length in lengths if isinstance(length, int) and length > 0), LONGEST)
    settings = {
        "model": imported.arguments,
        "data": {"column": "text"},
        "train": {"length": min(LONGEST, longest)},
    }
    info = {
        "imported": {"from": str(source), "model_type": imported.architecture.model_type, **short(imported.dtypes)},
        "parameters": imported.model.parameter_count(),
        "ostinato": __version__,
    }
    with folder_atomically(folder) as beside:
        run = Run.create(beside, settings, _Carried(origin), info)  # type: ignore[arg-type]
        with run.writing(0) as checkpoint:
            save_model(imported.model, str(checkpoint / MODEL))
            (checkpoint / MODEL).chmod(0o644)
        write_atomically(beside / CARRIED / files.CONFIG, json.dumps(config, indent=2))
        files.carry(origin, beside / CARRIED)
    return Run.open(folder)


class _Carried:
    """The tokenizer of a checkpoint, which is copied as it is; but text is not composed before it is encoded.

    Many tokenizers do that (NFC), so that text does not always come back as it was. Composed text, which nearly all text
    is, has the same tokens without it.
    """

    def __init__(self, origin: Path):
        self.origin = origin

    def save(self, folder: str | Path) -> None:
        name = "tokenizer.json"
        if not (self.origin / name).is_file():
            return
        tokenizer = files.read_json(self.origin / name)
        if not isinstance(tokenizer.get("model"), dict):
            raise ValueError(f"{self.origin / name} is damaged: it says no model")
        if tokenizer.get("normalizer") == {"type": "NFC"}:
            text = json.dumps(tokenizer | {"normalizer": None}, ensure_ascii=False)
            write_atomically(Path(folder) / name, text)
        else:
            files.carry(self.origin, Path(folder), [name])


def short(dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Types of tensors by name: the most frequent one, and those that differ from it."""
    kinds: Iterable[str] = dtypes.values()
    if not dtypes:
        return {}
    most = max(sorted(set(kinds)), key=list(kinds).count)
    return {"dtype": most, "dtypes": {name: kind for name, kind in dtypes.items() if kind != most}}
