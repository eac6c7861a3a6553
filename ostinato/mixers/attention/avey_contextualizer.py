"""Avey's neural processor: tokens of a context tell each other what they are by learned places and likeness.

    z_t = relu(W_e x_t + b_e)^2 = [l_t; r_t; h_t]                                  the enricher
    c_t = r_t * sum_{s <= t} V_ts cos(l_t, l_s) l_s    over the context of t       the contextualizer
    y_t = W_f [c_t; h_t] + b_f                                                     the fuser, which h_t reaches untouched

Contexts have a fixed length and are counted from the beginning of the document; V has a row and a column for each of their
places. Nothing goes from one context to the next: that is the ranker's part, in `model:avey`.
Hammoud and Acharya 2025, https://arxiv.org/abs/2506.11305; halves, widths and beginnings are those of the authors' code.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

from ostinato.contract import Mixer
from ostinato.layers.linear import Linear
from ostinato.layers.norms import l2_norm
from ostinato.mixers.attention.by_document import DocumentAttention, DocumentState
from ostinato.registry import register


@register("avey_contextualizer", paper="avey")
class AveyContextualizer(DocumentAttention):
    """Learned mixing of the tokens of a context, weighed by their likeness: neither attention nor recurrence.

    dim: width D of input and output
    context: tokens of a context
    expansion: width of the enriched tokens as a multiple of dim
    mixed: the part of it that is contextualised, half of it as gates; the rest goes by
    """

    examples = (dict(dim=8, context=9, expansion=2.0), dict(dim=6, context=16, expansion=3.5, mixed=0.8))

    def __init__(self, dim: int, *, context: int = 512, expansion: float = 4.0, mixed: float = 0.5):
        Mixer.__init__(self, dim)  # the projections are not those of attention
        width = int(dim * expansion)
        self.width = int(width * mixed + 1) // 2
        if context < 1 or not 0 < mixed <= 1 or not 0 < 2 * self.width <= width:
            raise ValueError(
                f"context is at least 1, mixed a part of the {width} enriched channels; got {context} and {mixed}"
            )
        self.segment = context
        self.project_in = Linear(dim, width)
        self.places = nn.Parameter(torch.randn(context, context) * context**-0.5)
        self.project_out = Linear(width - self.width, dim)

    def remembered(self) -> list[tuple[int, ...]]:
        return [(self.width,)]

    def ask(self, x: Tensor, position: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        left, rest = (
            relu(self.project_in(x)).square().split([self.width, self.project_in.out_features - self.width], -1)
        )
        return (left, rest), (left,)

    def mix(self, x: Tensor, state: DocumentState, reset: Tensor | None) -> tuple[Tensor, DocumentState]:
        (B, T, _), L = x.shape, self.places.shape[0]
        if reset is not None or state.tokens[0].shape[1] or bool((state.position % L).any()):
            return super().mix(x, state, reset)
        # contexts begin here: they are rows, and nothing has to be gathered
        (left, rest), _ = self.ask(x, state.position)
        kept = left.to(state.tokens[0].dtype)
        rows = [pad(part, (0, 0, 0, -T % L) if T > L else (0, 0)).flatten(0, 1) for part in (left, rest, kept)]
        left, rest, all_ = (part.unflatten(0, (-1, min(T, L))) for part in rows)
        y = self._look(left, rest, all_, self.places[: left.shape[1], : left.shape[1]])
        y = y.flatten(0, 1).unflatten(0, (B, -1))[:, :T]
        kept = kept[:, T - T % L :].clone() if T % L else kept.new_empty(B, 0, kept.shape[2])
        return self.project_out(y.to(x.dtype)), DocumentState((kept,), state.position + T)

    def look(self, asked: tuple[Tensor, ...], tokens: tuple[Tensor, ...], place: Tensor, real: Tensor | None) -> Tensor:
        (left, rest), (all_,) = asked, tokens
        return self._look(left, rest, all_, self.places[place, : all_.shape[1]], place)[:, :, None]

    def _look(self, left: Tensor, rest: Tensor, all_: Tensor, places: Tensor, place: Tensor | None = None) -> Tensor:
        """[c; h] of rows of tokens, from their enriched halves and the left ones of the context from its beginning."""
        kind = all_.dtype
        here = torch.arange(left.shape[1], device=left.device) if place is None else place
        before = torch.arange(all_.shape[1], device=left.device) <= here[..., None]
        likeness = l2_norm(left.to(kind), 1e-8) @ l2_norm(all_, 1e-8).mT
        mixed = (places.to(kind) * before * likeness) @ all_
        gate, bypass = rest.to(kind).split([self.width, rest.shape[-1] - self.width], -1)
        return torch.cat([mixed * gate, bypass], -1)
