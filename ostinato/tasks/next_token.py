"""Predicting the next token: how well a model does, in nats for each token and in bits for each byte.

    loss           = mean over targets of -log p(token | all before it in its document)
    bits_per_byte  = sum of -log2 p / number of bytes that the targets stand for
    perplexity     = exp(loss)

Bits per byte compare models with different tokenizers, losses and perplexities do not. The first token of a document is
no target: nothing says that it comes.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ostinato.layers.losses import IGNORED, LARGEST_LOGITS
from ostinato.state import State

if TYPE_CHECKING:
    from ostinato.data import Tokenizer, TokenStore


class Score(NamedTuple):
    """How well text was predicted."""

    loss: float  # nats per token
    bits_per_byte: float
    perplexity: float
    tokens: int  # that were predicted
    bytes: int  # that they stand for


def token_losses(
    model: Any, tokens: Tensor, targets: Tensor, state: State | None = None, reset: Tensor | None = None
) -> tuple[Tensor, State | None]:
    """-log p of each target, and the state after the tokens: (B, T) integers twice -> (B, T), 0 where a target is -100.

    Any causal model that reads tokens and gives logits will do. It reads in pieces short enough for the logits to stay
    small, which changes nothing.
    """
    if not model.causal:
        raise ValueError("the next token is predicted by a causal model; this one sees the whole sequence")
    B, T = tokens.shape
    piece = max(1, LARGEST_LOGITS // (B * model.vocab_size))
    losses = []
    for i in range(0, T, piece):
        part = slice(i, i + piece)
        logits, state = model(tokens[:, part], state, None if reset is None else reset[:, part])
        expected = targets[:, part]
        flat = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
        found = cross_entropy(flat, expected.flatten(), ignore_index=IGNORED, reduction="none")
        losses.append(found.view(expected.shape))
    return torch.cat(losses, 1), state


@torch.no_grad()
def bits_per_byte(
    model: Any,
    store: "TokenStore",
    tokenizer: "Tokenizer",
    batch_size: int = 8,
    length: int = 512,
    max_tokens: int | None = None,
    *,
    stream: bool = True,
) -> Score:
    """How well a model predicts a store, read from front to back with the state handed on.

    The store is cut into `batch_size` parts, each of which is read as one stream: a token sees all that came before it in
    its document, however long, but for the few documents that a cut between parts goes through.

    batch_size: parts that are read side by side
    length: tokens that are read at once; where the state is handed on it changes time and memory and nothing else
    max_tokens: read no more than that many tokens, from the front of the store
    stream: False begins each `length` tokens of a part with no memory
    """
    from ostinato.data import TokenStore, sequential

    if max_tokens is not None and max_tokens < len(store):
        if max_tokens < 2:
            raise ValueError(f"max_tokens is at least 2, of which one is predicted; got {max_tokens}")
        store = TokenStore(store.tokens[:max_tokens], store.starts[store.starts < max_tokens])
    device = next(model.parameters()).device
    sizes = torch.from_numpy(tokenizer.token_bytes)
    was_training = model.training
    model.eval()
    try:
        state, nats, count, byte_count = None, 0.0, 0, 0
        for batch in sequential(store, min(batch_size, len(store) - 1), length):
            targets = batch.targets.masked_fill(batch.reset[:, 1:], IGNORED)
            inputs = (batch.tokens[:, :-1], targets, batch.reset[:, :-1])
            tokens, expected, reset = (tensor.to(device) for tensor in inputs)
            losses, state = token_losses(model, tokens, expected, state if stream else None, reset)
            nats += losses.double().sum().item()
            counted = targets[targets != IGNORED]
            count += len(counted)
            byte_count += int(sizes[counted].sum())
    finally:
        model.train(was_training)
    if not count:
        raise ValueError("no token can be predicted here: every document has a single token")
    loss = nats / count
    perplexity = math.exp(loss) if loss < 700 else math.inf
    return Score(loss, nats / math.log(2) / max(1, byte_count), perplexity, count, byte_count)
