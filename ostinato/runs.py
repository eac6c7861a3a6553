"""The folder of a run: all that is known about a trained model, and nothing about how it was trained.

    runs/notes/
      config.yaml                          every setting
      info.json                            what it was made from: parameters, corpus, versions
      tokenizer/tokenizer.json
      metrics.jsonl                        a line of numbers every few steps
      tensorboard/
      checkpoints/step-00000100/           model.safetensors, what is needed to train on, and
                                manifest.json, the checksums of all of it

A folder of checkpoints is filled under another name and renamed, so a crash at any moment leaves only whole ones; the
checksums find those that were damaged later. `Run.model` gives the newest that is intact.
"""

import json
import logging
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ostinato.files import folder_atomically, sha256_of_file, write_atomically

if TYPE_CHECKING:
    import torch

    from ostinato.data import Tokenizer
    from ostinato.models.language_model import LanguageModel

CONFIG = "config.yaml"
INFO = "info.json"
METRICS = "metrics.jsonl"
MANIFEST = "manifest.json"
MODEL = "model.safetensors"
CARRIED = "hugging_face"
"""The folder in a run that was imported which keeps the files of the checkpoint beside its weights."""

log = logging.getLogger(__name__)


class Checkpoint(NamedTuple):
    """The weights after a step, and what is needed to train on from there."""

    step: int
    folder: Path

    def damage(self) -> str | None:
        """What is wrong with its files; None if they are what was written."""
        try:
            manifest = json.loads((self.folder / MANIFEST).read_text())
            for name, checksum in manifest.items():
                if sha256_of_file(self.folder / name) != checksum:
                    return f"{name} is not what was written"
        except FileNotFoundError as error:
            return f"{Path(error.filename).name} is missing"
        except (OSError, ValueError, AttributeError):
            return f"{MANIFEST} cannot be read"
        return None


class Run:
    """A run folder that exists.

    folder: where it is
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @staticmethod
    def exists(folder: str | Path) -> bool:
        """Whether a folder holds a run."""
        return (Path(folder) / CONFIG).is_file()

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run in a folder; says what the folder lacks if it holds none."""
        folder = Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"no run folder {folder}")
        if not cls.exists(folder):
            inside = sorted(path.parent for path in folder.glob(f"*/{CONFIG}"))
            hint = f"; there is one in {inside[0]}" if inside else ""
            raise ValueError(f"{folder} is no run folder: `ostinato train` writes {CONFIG} into one{hint}")
        return cls(folder)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        config: Mapping[str, Any],
        tokenizer: "Tokenizer",
        info: Mapping[str, Any] | None = None,
    ) -> "Run":
        """A new run folder, whole at once.

        config: every setting, as nested mappings; `model` holds the arguments of the language model
        tokenizer: between text and the numbers that the model reads
        info: other facts to remember, such as parameters and versions
        """
        import yaml

        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            what = "a run" if cls.exists(folder) else "something else"
            raise ValueError(f"{folder} holds {what} already; name a new folder")
        with folder_atomically(folder) as beside:
            write_atomically(beside / CONFIG, yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
            write_atomically(beside / INFO, json.dumps(dict(info or {}), indent=1))
            tokenizer.save(beside / "tokenizer")
            (beside / "checkpoints").mkdir()
        return cls(folder)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every setting, as nested mappings."""
        import yaml

        try:
            config = yaml.safe_load((self.folder / CONFIG).read_text(encoding="utf-8"))
            if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
                raise ValueError
        except (yaml.YAMLError, ValueError):
            raise ValueError(f"{self.folder / CONFIG} is not the config of a run") from None
        return config

    @cached_property
    def info(self) -> dict[str, Any]:
        """Facts about the run: parameters, corpus, versions."""
        try:
            return json.loads((self.folder / INFO).read_text())
        except FileNotFoundError:
            return {}

    def tokenizer(self) -> "Tokenizer":
        """What is between text and the numbers that the model reads."""
        from ostinato.data import load_tokenizer

        if not (self.folder / "tokenizer").is_dir():
            raise ValueError(f"{self.folder} has no tokenizer: none came with the checkpoint, or it was removed")
        return load_tokenizer(self.folder / "tokenizer", self.config["model"].get("vocab_size"))

    def end_of_text(self) -> frozenset[int]:
        """The tokens that end a text, as an imported model says; none where nothing ends one.

        A run that was trained here has none: its documents follow each other without a token between them.
        """
        carried, found = self.folder / CARRIED, None
        for name in ("generation_config.json", "config.json"):
            if (found := _json(carried / name).get("eos_token_id")) is not None:
                break
        else:
            words = _json(carried / "tokenizer_config.json").get("eos_token")
            words = words.get("content") if isinstance(words, dict) else words
            added = _json(carried / "tokenizer.json").get("added_tokens")
            if words is not None and isinstance(added, list):
                found = [each.get("id") for each in added if isinstance(each, dict) and each.get("content") == words]
        several = found if isinstance(found, list) else [found]
        return frozenset(each for each in several if isinstance(each, int) and each >= 0)

    def begin_of_text(self) -> int | None:
        """The token that texts begin with, as the config of an imported model says; None where it says none."""
        found = _json(self.folder / CARRIED / "config.json").get("bos_token_id")
        return found if isinstance(found, int) else None

    def new_model(self) -> "LanguageModel":
        """A model as the config describes it, with fresh weights."""
        from ostinato.layers.char_cnn import spell
        from ostinato.models.named import build

        arguments = {**self.config["model"]}
        # an imported model says how many tokens it has: its embedding may have rows that no token uses
        vocab_size = arguments.pop("vocab_size", None) or self.tokenizer().vocab_size
        model = build(vocab_size, **arguments)
        spell(model, lambda: self.tokenizer().pieces)
        return model

    def model(self, step: int | None = None, device: "torch.device | str" = "cpu") -> "LanguageModel":
        """The trained model, ready to be used (in evaluation mode).

        step: of the checkpoint; None for the newest that is intact
        device: where its weights shall be
        """
        from safetensors.torch import load_model

        checkpoint = self.newest() if step is None else self.checkpoint(step)
        if checkpoint is None:
            raise ValueError(f"{self.folder} has no checkpoint yet; `ostinato train --resume {self.folder}` goes on")
        model = self.new_model()
        load_model(model, checkpoint.folder / MODEL)
        return model.to(device).eval()

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints, the oldest first. Whether they are intact is not looked at."""
        found = (
            Checkpoint(int(path.name.removeprefix("step-")), path)
            for path in (self.folder / "checkpoints").glob("step-*")
            if re.fullmatch(r"step-\d+", path.name)
        )
        return sorted(found)

    def checkpoint(self, step: int) -> Checkpoint:
        """The checkpoint of a step, if it is there and intact."""
        for checkpoint in self.checkpoints():
            if checkpoint.step == step:
                if damage := checkpoint.damage():
                    raise ValueError(f"{checkpoint.folder} is damaged: {damage}")
                return checkpoint
        there = ", ".join(str(checkpoint.step) for checkpoint in self.checkpoints()) or "none"
        raise ValueError(f"{self.folder} has no checkpoint of step {step}; it has {there}")

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is intact; a line in the log says which were passed over, and why."""
        for checkpoint in reversed(self.checkpoints()):
            damage = checkpoint.damage()
            if damage is None:
                return checkpoint
            log.warning("%s is damaged and passed over: %s", checkpoint.folder, damage)
        return None

    @contextmanager
    def writing(self, step: int) -> Iterator[Path]:
        """A folder to fill, which becomes the checkpoint of that step."""
        folder = self.folder / "checkpoints" / f"step-{step:08d}"
        with folder_atomically(folder) as beside:
            yield beside
            files = sorted(path.name for path in beside.iterdir())
            manifest = {name: sha256_of_file(beside / name) for name in files}
            write_atomically(beside / MANIFEST, json.dumps(manifest, indent=1))

    def keep(self, last: int) -> None:
        """Remove all checkpoints but the last ones."""
        for checkpoint in self.checkpoints()[:-last]:
            shutil.rmtree(checkpoint.folder)

    def rewind(self, step: int) -> None:
        """Remove what came after a step, and what a process that was killed left half written."""
        for checkpoint in self.checkpoints():
            if checkpoint.step > step:
                shutil.rmtree(checkpoint.folder)
        for left in [*self.folder.glob(f".{METRICS}.*"), *(self.folder / "checkpoints").glob(".step-*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        if (self.folder / METRICS).exists():
            kept = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
            write_atomically(self.folder / METRICS, "".join(kept))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl. One that is being written at this moment is left out."""
        try:
            lines = (self.folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def add_metrics(self, line: Mapping[str, Any]) -> None:
        """Write a line of metrics; null for what is not finite, which JSON cannot say."""
        finite = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in line.items()
        }
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(finite) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing to this run."""
        from filelock import FileLock, Timeout

        lock = FileLock(self.folder / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"another process is training in {self.folder}; wait for it, or stop it") from None
        try:
            yield
        finally:
            lock.release()


def _json(path: Path) -> dict[str, Any]:
    """A mapping in a JSON file; an empty one where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("a mapping is expected")
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return content
