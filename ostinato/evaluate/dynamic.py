"""Dynamic evaluation: a model goes on learning from the text that it is judged on, after it has predicted it.

    l_i = loss of piece i with the weights θ_{i-1};   g = gradient of l_i
    sgd   θ_i = θ_{i-1} - η g                      + λ (θ_0 - θ_{i-1})
    rms   θ_i = θ_{i-1} - η g / (sqrt(M) + ε)      + min(1, λ sqrt(M) / mean sqrt(M)) (θ_0 - θ_{i-1})

θ_0 are the weights as they were trained, to which all of them return; M is the mean square of the gradient of each weight over
text of training (`mean_squares`), so that weights which always move a lot take small steps and return soon.

Krause, Kahembwe, Murray, Renals 2018, https://arxiv.org/abs/1709.07432: pieces of 5 words or 20 characters.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ostinato.evaluate.metrics import bits_per_byte, perplexity
from ostinato.layers.losses import IGNORED
from ostinato.registry import register
from ostinato.state import detach
from ostinato.tasks.next_token import Score, token_losses

if TYPE_CHECKING:
    from ostinato.data import Tokenizer, TokenStore
    from ostinato.models.language_model import LanguageModel


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, but with gradients; afterwards the model has its mode, its weights and their gradients back."""
    training, parameters = model.training, list(model.parameters())
    kept = [(parameter.detach().clone(), parameter.grad, parameter.requires_grad) for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
        parameter.requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        with torch.no_grad():
            for parameter, (value, grad, requires) in zip(parameters, kept, strict=True):
                parameter.copy_(value)
                parameter.grad = grad
                parameter.requires_grad_(requires)
        model.train(training)


def mean_squares(model: "LanguageModel", batches: Iterable[tuple[Tensor, Tensor | None]]) -> dict[str, Tensor]:
    """M of each weight: the mean over batches of the square of the gradient of the mean loss.

    batches: tokens (B, T) and resets (B, T) or None, of text that the model was trained on; best with as many tokens as
        are read together in evaluation
    """
    squares = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    number = 0
    with evaluating(model):
        model.eval()
        for tokens, reset in batches:
            found = torch.autograd.grad(model.loss(tokens, reset), list(model.parameters()), allow_unused=True)
            for square, g in zip(squares.values(), found, strict=True):
                if g is not None:
                    square += g.square()
            number += 1
    if not number:
        raise ValueError("mean_squares needs at least one batch; got none")
    return {name: square / number for name, square in squares.items()}


@register("decode:dynamic_evaluation")
def dynamic_evaluation(
    model: "LanguageModel",
    tokens: Tensor,
    *,
    rate: float,
    decay: float = 0.0,
    piece: int = 20,
    squares: Mapping[str, Tensor] | None = None,
    epsilon: float = 1e-5,
    reset: Tensor | None = None,
) -> Tensor:
    """The loss of each next token, in nats, of a model that learns while it reads: (B, T) -> (B, T - 1), 0 where a document begins.

    The model is left as it was found.

    model: a language model
    tokens: (B, T) integers; the rows of a batch adapt one set of weights together
    rate: η
    decay: λ, how much of the way back to its trained value a weight goes after each piece
    piece: tokens that are predicted between two updates
    squares: M of each weight for the rule rms, from `mean_squares`; None for sgd
    epsilon: ε
    reset: (B, T) bool, True where a document begins
    """
    if rate < 0 or not 0 <= decay <= 1 or piece < 1 or epsilon <= 0:
        raise ValueError(
            "rate is at least 0, decay from 0 to 1, piece at least 1 and epsilon above 0;"
            f" got {rate}, {decay}, {piece} and {epsilon}"
        )
    model.check_input(tokens)
    targets = tokens[:, 1:].long() if reset is None else tokens[:, 1:].long().masked_fill(reset[:, 1:], IGNORED)
    losses, state = [], None
    with evaluating(model):
        model.eval()
        steps = _Steps(model, rate, decay, squares, epsilon)
        for begin in range(0, tokens.shape[1] - 1, piece):
            part = slice(begin, min(begin + piece, tokens.shape[1] - 1))
            begins = None if reset is None else reset[:, part]
            found, after = token_losses(model, tokens[:, part], targets[:, part], state, begins)
            losses.append(found.detach())
            counted = (targets[:, part] != IGNORED).sum()
            if counted and rate > 0:
                steps(found.sum() / counted)
            state = None if after is None else detach(after)
    return torch.cat(losses, 1)


class _Steps:
    """The rule by which weights move."""

    def __init__(
        self, model: nn.Module, rate: float, decay: float, squares: Mapping[str, Tensor] | None, epsilon: float
    ):
        named = dict(model.named_parameters())
        self.parameters, self.rate = list(named.values()), rate
        self.origins = [parameter.detach().clone() for parameter in self.parameters]
        self.scales: list[Tensor | None] = [None] * len(named)
        self.decays: list[Tensor | float] = [decay] * len(named)
        if squares is not None:
            if squares.keys() != named.keys():
                odd = ", ".join(sorted(squares.keys() ^ named.keys())[:4])
                raise ValueError(f"squares are those of another model; they differ in {odd}")
            roots = [squares[name].sqrt() for name in named]
            mean = sum(float(root.sum()) for root in roots) / sum(root.numel() for root in roots)
            self.scales = [1 / (root + epsilon) for root in roots]
            self.decays = [(decay * root / max(mean, 1e-30)).clamp(max=1) for root in roots]

    def __call__(self, loss: Tensor) -> None:
        """Move the weights after a piece."""
        found = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        with torch.no_grad():
            for p, g, origin, scale, back in zip(
                self.parameters, found, self.origins, self.scales, self.decays, strict=True
            ):
                change = (origin - p) * back
                if g is not None:
                    change -= self.rate * (g if scale is None else g * scale)
                p += change


def dynamic_score(
    model: "LanguageModel",
    store: "TokenStore",
    tokenizer: "Tokenizer",
    *,
    max_tokens: int | None = None,
    **rule: Any,
) -> Score:
    """How well a model that learns while it reads predicts a store, as one stream from front to back.

    store: the documents
    tokenizer: says how many bytes tokens stand for
    max_tokens: read no more than that many tokens, from the front of the store
    rule: rate, decay, piece, squares and epsilon of `dynamic_evaluation`
    """
    size = len(store) if max_tokens is None else min(max_tokens, len(store))
    if size < 2:
        raise ValueError(f"at least 2 tokens are read, of which one is predicted; got {size}")
    device = next(model.parameters()).device
    tokens = torch.from_numpy(np.asarray(store.tokens[:size], np.int64))[None].to(device)
    reset = torch.zeros_like(tokens, dtype=torch.bool)
    reset[0, torch.from_numpy(np.asarray(store.starts[store.starts < size], np.int64)).to(device)] = True
    losses = dynamic_evaluation(model, tokens, reset=reset, **rule)
    counted = ~reset[:, 1:]
    count = int(counted.sum())
    if not count:
        raise ValueError("no token can be predicted here: every document has a single token")
    nats = float(losses.double().sum())
    bytes_ = float(torch.from_numpy(tokenizer.token_bytes)[tokens[:, 1:][counted].cpu()].sum())
    return Score(nats / count, bits_per_byte(nats, max(1.0, bytes_)), perplexity(nats, count), count, int(bytes_))
