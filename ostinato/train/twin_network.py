"""Twin networks: a model that reads forwards agrees with one that reads backwards on what both know of each token.

    loss = -log p(x_s | x_1 ... x_{s-1}) - log p'(x_s | x_T ... x_{s+1}) + alpha |A h_{s-1} + b - stop(h'_{s+1})|^2

h and h' are what the heads of the two models read where they predict x_s; all three parts are means over tokens. The backward
model learns to predict and nothing else, and is not needed once the other is trained.

Serdyuk, Ke, Sordoni, Trischler, Pal, Bengio 2017, https://arxiv.org/abs/1708.06742.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from ostinato.layers.linear import Linear
from ostinato.layers.losses import IGNORED
from ostinato.models.language_model import LanguageModel
from ostinato.registry import register


@register("train:twin_network", paper="twin_network")
class TwinNetwork(nn.Module):
    """Trains a language model together with one that reads backwards; `model` is what is used afterwards.

    model: the language model
    backward: the one that reads backwards, with the same vocabulary
    alpha: weight of the distance between their states
    """

    def __init__(self, model: LanguageModel, backward: LanguageModel, *, alpha: float = 1.0):
        super().__init__()
        if model.vocab_size != backward.vocab_size or not (model.causal and backward.causal):
            raise ValueError("twins are two causal language models with one vocabulary")
        if alpha < 0:
            raise ValueError(f"alpha is the weight of a distance, at least 0; got {alpha}")
        self.model, self.backward, self.alpha = model, backward, alpha
        self.match = Linear(model.dim, backward.dim)

    def loss(self, tokens: Tensor, reset: Tensor | None = None, *, reduction: str = "mean") -> Tensor:
        """The three parts added up.

        tokens: (B, T) integers, T at least 2
        reset: (B, T) bool, True at the first token of a document
        reduction: "mean" of each part over its tokens, or that times the number of tokens that the model predicts: "sum"
        """
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction is mean or sum; got {reduction!r}")
        forwards, backwards, distance, predicted = self.parts(tokens, reset)
        loss = forwards + backwards + self.alpha * distance
        return loss * predicted if reduction == "sum" else loss

    def parts(self, tokens: Tensor, reset: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means of the two cross-entropies and of the distance, and how many tokens the model predicts."""
        self.model.check_input(tokens)
        if tokens.shape[1] < 2:
            raise ValueError("the loss of the next token needs at least 2 tokens; got 1")
        begins = torch.zeros_like(tokens, dtype=torch.bool) if reset is None else reset
        ends = pad(begins[:, 1:], (0, 1), value=True)
        h, forwards = self._read(self.model, tokens, begins)
        h_, backwards = self._read(self.backward, tokens.flip(1), ends.flip(1))
        # h[s] predicts the token s + 1, and h_ read backwards up to s + 2 does
        ahead = self.match(h[:, :-1])
        behind = h_.flip(1)[:, 1:].detach()
        both = ~(begins[:, 1:-1] | begins[:, 2:])
        apart = (ahead - behind).square().sum(-1)
        distance = (apart * both).sum() / both.sum().clamp(min=1)
        return forwards, backwards, distance, (~begins[:, 1:]).sum()

    @staticmethod
    def _read(model: LanguageModel, tokens: Tensor, begins: Tensor) -> tuple[Tensor, Tensor]:
        """What the head reads of all tokens but the last, and the mean cross-entropy."""
        h, _ = model.hidden(tokens[:, :-1], model.initial_state(len(tokens)), begins[:, :-1])
        targets = tokens[:, 1:].long().masked_fill(begins[:, 1:], IGNORED)
        return h, model.cross_entropy(h, targets, "mean")
