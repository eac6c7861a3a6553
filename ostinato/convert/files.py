"""Checkpoint folders of transformers: config.json, and weights in safetensors or in torch's format, whole or in shards.

Nothing is executed: torch's files are read with `weights_only=True`. What is damaged or missing is one sentence.
"""

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ostinato.files import write_atomically

CONFIG = "config.json"
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEX = tuple(f"{name}.index.json" for name in WHOLE)
BESIDE = (
    "generation_config.json tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json "
    "merges.txt vocab.txt tokenizer.model spiece.model chat_template.jinja"
).split()
"""Files that are carried from a checkpoint to a run, and from there to an export, as they are."""
SHARD = 5 << 30


def locate(source: str | Path) -> Path:
    """The folder of a checkpoint, or the file of one without a config: the path itself, or the model of that name in the local cache of Hugging Face."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".pth" and path.is_file():
        return path
    if path.exists():
        raise ValueError(f"{source} is a file; a checkpoint is a folder with {CONFIG}, or the .pth of an RWKV-7")
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(source)):
        try:
            from huggingface_hub import snapshot_download

            return Path(snapshot_download(str(source), local_files_only=True))
        except ImportError:
            pass
        except Exception as error:  # of several kinds, by version: the answer is the same
            message = f"{source} is no folder, and no model in the local cache of Hugging Face; `hf download {source}` puts it there"
            raise FileNotFoundError(message) from error
    raise FileNotFoundError(f"no folder {source}")


def new_folder(folder: str | Path) -> Path:
    """A folder that is to be written; refuses one that holds something."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} holds something already; name a new folder")
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """A mapping in a JSON file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is no checkpoint: it has no {path.name}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: a mapping is expected")
    return values


class Weights:
    """The tensors of a checkpoint, read one by one.

    folder: where the files are, or the one file
    """

    def __init__(self, folder: Path):
        self.alone = folder.name if folder.is_file() else None
        self.folder = folder.parent if self.alone else folder
        self.closing = ExitStack()
        self.files: dict[str, Any] = {}
        self.homes = self._homes()
        for name, file in self.homes.items():
            if name not in self._opened(file):
                raise ValueError(f"{folder / file} lacks {name}, which its index says is there")

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *error: Any) -> None:
        self.closing.close()

    def _homes(self) -> dict[str, str]:
        """The file of each tensor."""
        if self.alone:
            return dict.fromkeys(self._opened(self.alone), self.alone)
        for name in INDEX:
            if (self.folder / name).is_file():
                homes = read_json(self.folder / name).get("weight_map")
                if not isinstance(homes, dict) or not all(
                    isinstance(file, str) and Path(file).name == file for file in homes.values()
                ):
                    raise ValueError(f"{self.folder / name} is damaged: it has no weight_map")
                if missing := sorted({file for file in homes.values() if not (self.folder / file).is_file()}):
                    raise ValueError(f"{self.folder} lacks {len(missing)} of its shards: {', '.join(missing[:3])}")
                return homes
        candidates = [self.folder / name for name in WHOLE if (self.folder / name).is_file()]
        candidates = candidates or sorted([*self.folder.glob("*.safetensors"), *self.folder.glob("*.pth")])
        if not candidates:
            raise ValueError(f"{self.folder} holds no weights: {WHOLE[0]} or {WHOLE[1]} is expected")
        if len(candidates) > 1 and candidates[0].name not in WHOLE:
            raise ValueError(f"{self.folder} holds {len(candidates)} files of weights and no index of them")
        return dict.fromkeys(self._opened(candidates[0].name), candidates[0].name)

    def _opened(self, file: str) -> Any:
        if file not in self.files:
            self.files[file] = self._open(self.folder / file)
        return self.files[file]

    def _open(self, path: Path) -> Any:
        """A mapping from names to tensors, or to slices that are not read yet."""
        try:
            if path.suffix == ".safetensors":
                file = self.closing.enter_context(safe_open(path, "pt"))
                return {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of unusual files; what cannot be read raises
                found = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise ValueError(f"{path.parent} lacks {path.name}") from None
        except Exception as error:  # a damaged pickle is an error of almost any kind
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise ValueError(f"{path} cannot be read: {reason}") from None
        found = found.get("state_dict", found) if isinstance(found, Mapping) else found
        if not isinstance(found, Mapping) or not all(isinstance(x, Tensor) for x in found.values()):
            raise ValueError(f"{path} cannot be read: it holds something other than named tensors")
        return found

    def __iter__(self):
        return iter(self.homes)

    def __contains__(self, name: str) -> bool:
        return name in self.homes

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read for that."""
        found = self.files[self.homes[name]][name]
        return tuple(found.shape if isinstance(found, Tensor) else found.get_shape())

    def get(self, name: str) -> Tensor:
        """A tensor."""
        found = self.files[self.homes[name]][name]
        return found if isinstance(found, Tensor) else found[:] if found.get_shape() else self._scalar(name)

    def _scalar(self, name: str) -> Tensor:
        with safe_open(self.folder / self.homes[name], "pt") as file:
            return file.get_tensor(name)


def save_weights(folder: Path, tensors: Mapping[str, Tensor], largest: int = SHARD) -> None:
    """Write model.safetensors, or several with an index where there are more bytes than `largest`."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if size and size + tensor.nbytes > largest:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    whole, total = WHOLE[0], len(shards)
    names = [whole] if total == 1 else [f"model-{i + 1:05d}-of-{total:05d}.safetensors" for i in range(total)]
    for name, shard in zip(names, shards, strict=True):
        save_file({key: x.contiguous() for key, x in shard.items()}, folder / name, metadata={"format": "pt"})
        (folder / name).chmod(0o644)  # safetensors makes files that their owner alone can read
    if total > 1:
        homes = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        about = {"total_size": sum(x.nbytes for x in tensors.values())}
        write_atomically(folder / INDEX[0], json.dumps({"metadata": about, "weight_map": homes}, indent=1))


def carry(source: Path, target: Path, names: Iterable[str] = BESIDE) -> list[str]:
    """Copy the files that are there, and say which."""
    carried = [name for name in names if (source / name).is_file()]
    for name in carried:
        write_atomically(target / name, (source / name).read_bytes())
    return carried
