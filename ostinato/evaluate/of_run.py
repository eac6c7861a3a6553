"""Evaluation of a run folder: its newest weights on its own validation text, or on any other."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ostinato.data import Tokenizer, TokenStore, documents
from ostinato.evaluate.runner import Progress, evaluate
from ostinato.models.modes import device as pick_device
from ostinato.runs import Run
from ostinato.train.begin import corpus_of

MULTIPLES = (1, 2, 4)  # of the training length


def evaluate_run(
    run: Run,
    data: str | Path | Sequence[str | Path] | None = None,
    lengths: Sequence[int] | None = None,
    *,
    batch_size: int = 8,
    max_tokens: int | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What `evaluate` measures, of the newest weights of a run, and what it was measured on.

    data: files and folders, all of whose text is predicted; None for the validation text of the run
    lengths: tokens of context; None for 1, 2 and 4 times the length of training
    device: where to compute; "auto" takes the GPU if there is one
    """
    checkpoint = run.newest()
    model, tokenizer = run.model(checkpoint and checkpoint.step, pick_device(device)), run.tokenizer()
    trained = run.config["train"]["length"]
    if data is None:
        store, of = corpus_of(run).valid, "validation text of the run"
    else:
        store = tokenised(documents(data, run.config["data"]["column"]), tokenizer, max_tokens)
        of = str(data) if isinstance(data, (str, Path)) else ", ".join(str(path) for path in data)
    measures = evaluate(
        model,
        store,
        tokenizer.token_bytes,
        [trained * multiple for multiple in MULTIPLES] if lengths is None else lengths,
        batch_size=batch_size,
        max_tokens=max_tokens,
        progress=progress,
    )
    return {
        "run": str(run.folder),
        "step": checkpoint and checkpoint.step,
        "parameters": model.parameter_count(),
        "data": of,
        "training_length": trained,
        **measures,
    }


def tokenised(texts: Iterable[str], tokenizer: Tokenizer, max_tokens: int | None = None) -> TokenStore:
    """A store of documents in memory; reading stops when there are enough tokens."""
    parts, starts, size = [], [], 0
    for text in texts:
        part = tokenizer.encode(text)
        parts.append(part)
        starts.append(size)
        size += len(part)
        if max_tokens is not None and size > max_tokens:
            break
    return TokenStore(np.concatenate(parts), np.array(starts))
