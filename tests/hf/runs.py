"""Run folders for the tests of this folder."""

import torch
from safetensors.torch import save_model

from ostinato.data import BPETokenizer, ByteTokenizer
from ostinato.runs import Run

TEXT = "one line of text, and one more line of text; 東京 é 🎵\n" * 3


def make_run(folder, pattern, *, tokenizer="bytes", **model):
    """A run of a model with random weights, as if it had been trained."""
    torch.manual_seed(0)
    own = ByteTokenizer() if tokenizer == "bytes" else BPETokenizer.train([TEXT], 290)
    run = Run.create(folder, {"model": {"dim": 16, "layers": 2, "pattern": pattern} | model}, own)
    fresh = run.new_model()
    with torch.no_grad():
        fresh.embedding.weight.mul_(20)
    with run.writing(1) as beside:
        save_model(fresh, beside / "model.safetensors")
    return run
