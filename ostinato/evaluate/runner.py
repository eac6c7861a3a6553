"""How well a model predicts a text: on the whole, by position in its context, and at lengths beyond those of training.

    overall      the text read from front to back with the state carried on, as a stream is; where the state of a model
                 grows with what it has read (a full attention cache), windows of the training length instead
    lengths      windows of each length, every one of which begins with an empty memory
    by_position  in those windows, the loss of tokens that are predicted from 1, 2, 3-4, 5-8, ... tokens of their document

Every token but the first of each document is predicted exactly once in each of these, whatever the length, so all of them
speak of the same tokens and bytes. A length that a model cannot read, or of which there is no text, is reported.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ostinato.data import IGNORE, TokenStore, sequential
from ostinato.evaluate.metrics import Sums, add, nothing, position_edges, positions, summary, sums_of
from ostinato.models.modes import undisturbed
from ostinato.tasks.next_token import token_losses

if TYPE_CHECKING:
    from ostinato.models.language_model import LanguageModel

Progress = Callable[[str, float], None]
"""Told what is being done, and which share of it has been."""


def evaluate(
    model: "LanguageModel",
    store: TokenStore,
    token_bytes: np.ndarray,
    lengths: Sequence[int],
    *,
    batch_size: int = 8,
    max_tokens: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model on documents; returns plain values, ready for JSON.

    store: the documents
    token_bytes: how many bytes each token stands for (`tokenizer.token_bytes`)
    lengths: tokens of context; the first is the length of training
    batch_size: sequences that are read at a time; fewer where the text is too short for so many of a length
    max_tokens: predict no more than this many tokens, the first ones; None for all
    progress: called now and then

    {"overall": {"context": None or tokens, MEASURES}, "lengths": [{"length", MEASURES, "by_position": [...]}, ...]}, where

        MEASURES     "tokens", "bytes", "loss" (nats per token), "standard_error" (of the loss), "bits_per_byte",
                     "perplexity"; or only "error", what went wrong in one line
        by_position  {"first", "last", MEASURES} of the tokens predicted from that much context
    """
    _check(model, store, token_bytes, lengths, batch_size, max_tokens)
    store = store if max_tokens is None else first_tokens(store, max_tokens + 1)
    sizes = torch.from_numpy(np.ascontiguousarray(token_bytes)).double()
    wanted = tuple(dict.fromkeys(lengths))

    def measured(name: str, length: int, *, carried: bool) -> dict[str, Any]:
        rows = min(batch_size, (len(store) - 1) // length) or 1
        try:
            if not carried and len(store) <= length:
                raise ValueError(f"the text has {len(store)} tokens, too few for this length")
            total, by_position = _sums(
                model, store, sizes, rows, length, wanted, carried, progress and _named(progress, name)
            )
        except ValueError as error:
            return {"error": " ".join(str(error).split())}
        except torch.OutOfMemoryError:
            return {"error": "there is not enough memory on this device"}
        if not total.tokens.any():
            return {"error": "no token can be predicted here: every document has a single token"}
        if not total.nats.isfinite().all():
            return {"error": "the loss is not finite"}
        result: dict[str, Any] = dict(summary(total, 0))
        if not carried:
            edges = position_edges(length, wanted)
            ranges = zip([1, *(edge + 1 for edge in edges)], edges)
            result["by_position"] = [
                {"first": first, "last": last, **summary(by_position, i)} for i, (first, last) in enumerate(ranges)
            ]
        return result

    bounded = has_bounded_state(model)
    overall = {"context": None} | measured("stream", wanted[0], carried=True) if bounded else None
    by_length = [{"length": length} | measured(f"length {length:,}", length, carried=False) for length in wanted]
    if overall is None:
        same = {name: value for name, value in by_length[0].items() if name not in ("length", "by_position")}
        overall = {"context": wanted[0]} | same
    return {"overall": overall, "lengths": by_length}


def has_bounded_state(model: "LanguageModel") -> bool:
    """Whether a stream without end can be read: a billion tokens need no more than twice the state of a million."""
    return model.state_bytes(1 << 30) <= 2 * model.state_bytes(1 << 20)


def first_tokens(store: TokenStore, number: int) -> TokenStore:
    """The documents in the first tokens of a store; the last of them may be cut."""
    return TokenStore(store.tokens[:number], store.starts[: np.searchsorted(store.starts, number)])


def _sums(
    model: "LanguageModel",
    store: TokenStore,
    sizes: Tensor,
    rows: int,
    length: int,
    lengths: tuple[int, ...],
    carried: bool,
    progress: Callable[[float], None] | None,
) -> tuple[Sums, Sums]:
    """Sums over windows of all tokens, and by position."""
    edges = torch.tensor(position_edges(length, lengths))
    steps = -(-(len(store) - 1) // (rows * length))
    device = next(model.parameters()).device
    total, by_position, state = nothing(1), nothing(len(edges)), None
    for step, batch in enumerate(sequential(store, rows, length), 1):
        inputs, begins = batch.tokens[:, :-1], batch.reset[:, :-1]
        targets = batch.targets.masked_fill(batch.reset[:, 1:], IGNORE)
        with undisturbed(model):
            before = state if carried else None
            losses, state = token_losses(model, inputs.to(device), targets.to(device), before, begins.to(device))
        counted = targets != IGNORE
        found = losses.cpu(), sizes[targets.masked_fill(~counted, 0)], counted
        ranges = torch.bucketize(positions(begins), edges)
        total = add(total, sums_of(*found, torch.zeros_like(ranges), 1))
        by_position = add(by_position, sums_of(*found, ranges, len(edges)))
        if progress is not None:
            progress(step / steps)
    return total, by_position


def _named(progress: Progress, name: str) -> Callable[[float], None]:
    return lambda share: progress(name, share)


def _check(
    model: "LanguageModel",
    store: TokenStore,
    token_bytes: np.ndarray,
    lengths: Sequence[int],
    batch_size: int,
    max_tokens: int | None,
) -> None:
    if not model.causal:
        raise ValueError("the loss of the next token needs a causal model; this one sees the whole sequence")
    if len(token_bytes) != model.vocab_size:
        raise ValueError(f"the model has {model.vocab_size} tokens and the tokenizer {len(token_bytes)}")
    if len(store) < 2:
        raise ValueError(f"nothing can be predicted in a text of {len(store)} token; at least 2 are needed")
    if not lengths or min(lengths) < 1:
        raise ValueError(
            f"lengths are numbers of tokens, at least one of them and each at least 1; got {list(lengths)}"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is at least 1; got {batch_size}")
    if max_tokens is not None and max_tokens < 1:
        raise ValueError(f"max_tokens is at least 1; got {max_tokens}")
