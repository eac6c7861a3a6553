"""Avey: a ranker finds the parts of the text that matter now, and a neural processor mixes them with the current one.

    parts of C tokens;   found_i = the k parts before part i that are likest, each times its likeness       the ranker
    H = [found_i; part i];   for each layer:   H = H + contextualizer(norm(H));   the last C of H are read   the processor

The ranker looks at embeddings, once for all layers; where fewer than k parts have been, zeros stand in front. How long a text
is has nothing to do with how wide a context is: (k + 1) C tokens.
Hammoud and Acharya 2025, https://arxiv.org/abs/2506.11305. There part i itself asks, so that its first tokens hear what the
last ones ask for. Here the part before it asks, and is among those found: what is found never depends on what comes later.
With asks="current" it is as there, and the model is not causal.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from ostinato.layers.cache import append, without
from ostinato.layers.positions import document_positions
from ostinato.mixers.attention.by_document import documents
from ostinato.models.language_model import LanguageModel
from ostinato.ops.maxsim_ranker import maxsim_ranker
from ostinato.registry import register


class AveyState(NamedTuple):
    tokens: Tensor  # B n int64, the documents so far
    position: Tensor  # B int64, tokens of the document so far; that many of the last n are its own


@register("model:avey", paper="avey")
class Avey(LanguageModel):
    """A language model that finds parts of the past by their likeness, without attention or recurrence.

    vocab_size: number of different tokens
    dim: width D of the residual stream
    layers: number of layers of the neural processor
    part: tokens C of a part
    found: how many parts of the past the current one is read with
    asks: which part the ranker compares with those before: the "previous" one, or the "current" one as in the paper
    expansion: width of the enriched tokens as a multiple of dim
    mixed: the part of it that is contextualised
    tie: whether the head shares the weights of the embedding
    """

    examples = (
        dict(vocab_size=11, dim=8, layers=2, part=6, found=2, expansion=2.0),
        dict(vocab_size=11, dim=8, layers=1, part=9, found=1, expansion=2.0, asks="current"),
    )

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        layers: int = 4,
        part: int = 64,
        found: int = 7,
        asks: str = "previous",
        expansion: float = 4.0,
        mixed: float = 0.5,
        tie: bool = True,
    ):
        if asks not in ("previous", "current"):
            raise ValueError(f"asks is previous or current; got {asks!r}")
        if part < 1 or found < 0:
            raise ValueError(f"part is at least 1 and found at least 0; got {part} and {found}")
        mixer = {"context": (found + 1) * part, "expansion": expansion, "mixed": mixed}
        super().__init__(vocab_size, dim, layers=layers, pattern={"avey_contextualizer": mixer}, mlp=None, tie=tie)
        self.part, self.found = part, found
        self.causal = asks == "previous"

    def initial_state(self, batch: int) -> AveyState:
        nothing = torch.zeros(batch, 0, dtype=torch.long, device=self.embedding.weight.device)
        return AveyState(nothing, nothing.new_zeros(batch))

    def state_bytes(self, tokens: int) -> int:
        return 8 * tokens + 8

    def hidden(self, tokens: Tensor, state: AveyState, reset: Tensor | None) -> tuple[Tensor, AveyState]:
        position = document_positions(state.position, tokens.shape[1], reset)
        cache, after = append(state.tokens, tokens), position[:, -1] + 1
        x = self._processed(cache, position, None)
        return self.norm(x), AveyState(without(cache, cache.shape[1] - int(after.max())), after)

    def encode(self, tokens: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
        position = document_positions(torch.zeros_like(tokens[:, 0]), tokens.shape[1], reset)
        return self.logits(self.norm(self._processed(tokens, position, mask)))

    def _processed(self, cache: Tensor, place: Tensor, mask: Tensor | None) -> Tensor:
        """What the processor makes of new tokens, the last ones of (B, S), at these places (B, T) of their documents."""
        (B, T), y, order = place.shape, [], []
        for some in documents(place, cache.shape[1] - T):
            real = some.real if mask is None else some.real & mask[some.row, some.keys]
            found = self._document(cache[some.row, some.keys], real, some.place)
            y.append(found[some.asks])
            order.append((some.row * T + some.queries)[some.asks])
        return torch.cat(y).index_select(0, torch.cat(order).argsort()).unflatten(0, (B, T))

    def _document(self, tokens: Tensor, real: Tensor, place: Tensor) -> Tensor:
        """The same for documents from their first token: (R, S) of which (R, T) are asked for -> (R, T, D)."""
        (R, S), C = tokens.shape, self.part
        x = pad(self.embedding(tokens.long()) * real[..., None], (0, 0, 0, -S % C))
        parts = x.unflatten(1, (-1, C))
        first, last = int(place.min()) // C, int(place.max()) // C
        asking = parts[:, first : last + 1]
        if self.causal:
            asking = torch.cat([parts[:, max(first - 1, 0) : first or 1], asking[:, :-1]], 1)
        chosen, weights = maxsim_ranker(asking, parts, self.found, before=list(range(first, last + 1)))
        row = torch.arange(R, device=x.device)[:, None, None]
        found = parts[row, chosen.clamp(min=0)] * weights.to(x.dtype)[..., None, None]
        context = torch.cat([found.flatten(2, 3), parts[:, first : last + 1]], 2).flatten(0, 1)
        for block in self.stack.blocks:
            context, _ = block(context)
        y = context[:, -C:].unflatten(0, (R, -1)).flatten(1, 2)
        return y.gather(1, (place - first * C)[..., None].expand(-1, -1, self.dim))
