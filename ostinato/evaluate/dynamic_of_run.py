"""Dynamic evaluation of a run folder: how well its newest weights predict a text while they go on learning from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ostinato.data import Batches, documents
from ostinato.evaluate.dynamic import dynamic_score, mean_squares
from ostinato.evaluate.of_run import tokenised
from ostinato.models.modes import device as pick_device
from ostinato.runs import Run
from ostinato.train.begin import corpus_of

RATES = {"sgd": 0.1, "rms": 1e-4}
"""Rates that are small enough for most models; the best one is found on text for validation."""


def evaluate_run_dynamically(
    run: Run,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    rule: str = "rms",
    rate: float | None = None,
    decay: float = 0.002,
    piece: int = 20,
    batches: int = 100,
    max_tokens: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """How well a run predicts a text as it was trained, and while it learns: {"static": MEASURES, "dynamic": MEASURES, ...}.

    data: files and folders of text; None for the validation text of the run
    rule: "sgd", or "rms" with squares of gradients on text of the training
    rate: of the rule; by default a small one
    decay: how much of the way back to its trained value a weight goes after each piece
    piece: tokens that are predicted between two updates
    batches: rows of training text, of `piece` tokens each, that the squares are means over
    max_tokens: read no more than so many tokens
    device: where to compute; "auto" takes the GPU if there is one

    MEASURES are "loss" (nats per token), "bits_per_byte", "perplexity", "tokens" and "bytes".
    """
    if rule not in RATES:
        raise ValueError(f"rule is {' or '.join(RATES)}; got {rule!r}")
    if batches < 1:
        raise ValueError(f"batches is at least 1; got {batches}")
    checkpoint = run.newest()
    where = pick_device(device)
    model, tokenizer = run.model(checkpoint and checkpoint.step, where), run.tokenizer()
    corpus = corpus_of(run) if data is None or rule == "rms" else None
    squares = None
    if rule == "rms":
        assert corpus is not None
        supply = Batches(corpus.train, 1, piece, seed=run.config["train"]["seed"])
        drawn = (supply(position)[0] for position in range(batches))
        squares = mean_squares(model, ((batch.tokens.to(where), batch.reset.to(where)) for batch in drawn))
    if data is None:
        assert corpus is not None
        store = corpus.valid
    else:
        store = tokenised(documents(data, run.config["data"]["column"]), tokenizer, max_tokens)
    rate = RATES[rule] if rate is None else rate
    found = {
        name: dynamic_score(
            model, store, tokenizer, max_tokens=max_tokens, rate=speed, decay=decay, piece=piece, squares=squares
        )
        for name, speed in (("static", 0.0), ("dynamic", rate))
    }
    about = {"run": str(run.folder), "step": checkpoint and checkpoint.step, "rule": rule, "rate": rate}
    return {**about, "decay": decay, "piece": piece, **{name: score._asdict() for name, score in found.items()}}
