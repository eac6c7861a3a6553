"""A run folder with fresh weights, as `ostinato train` would have written it after no step."""

from pathlib import Path

import torch
from safetensors.torch import save_model

from ostinato.data import prepare
from ostinato.runs import Run

LENGTH = 16  # of training
TEXT = "".join(f"line {i}: é → 🎵 and {i * i} more\n" for i in range(90))


def make_run(folder: Path, *, pattern: str = "gla", text: str = TEXT, seed: int = 0) -> Run:
    """A run on a text file beside it, with the corpus in a cache beside it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = folder.parent / "text.txt"
    source.write_text(text, encoding="utf-8")
    corpus = prepare(source, cache_dir=folder.parent / "cache")
    config = {
        "model": {"dim": 16, "layers": 1, "pattern": [pattern]},
        "data": {"paths": [str(source)], "column": "text"},
        "train": {"length": LENGTH},
    }
    info = {"corpus": {"fingerprint": corpus.fingerprint, "folder": str(corpus.folder)}}
    run = Run.create(folder, config, corpus.tokenizer, info)
    add_checkpoint(run, 0, seed)
    return run


def add_checkpoint(run: Run, step: int, seed: int) -> None:
    """Other weights, as if training had gone on."""
    torch.manual_seed(seed)
    model = run.new_model()
    with torch.no_grad():
        model.embedding.weight.mul_(10)
    with run.writing(step) as beside:
        save_model(model, beside / "model.safetensors")
