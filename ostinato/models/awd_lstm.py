"""AWD-LSTM: LSTMs on top of each other as a language model, regularised wherever that does not break their memory.

    x = E'[w_t];   for each layer:  h_t, c_t = lstm(m * x_t, R' h_{t-1}),   x = h;   logits = E (m * x_t) + b
    loss = cross-entropy + alpha mean((m * h_t)^2) + beta mean((h_{t+1} - h_t)^2)                in training

R' and E' have weights and tokens dropped, m are masks that stay the same along the sequence (`layers/variational.py`). The
first layers are wider than the embedding, the last is as wide, and the head shares its weights.

Merity, Keskar, Socher 2017, https://arxiv.org/abs/1708.02182. The rest of its training: `train/nt_asgd.py` and
`train/variable_bptt.py`; the cache that it reads with: `generate/neural_cache.py`.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ostinato.contract import SequenceModule
from ostinato.layers.linear import Linear
from ostinato.layers.losses import IGNORED, chunked_cross_entropy
from ostinato.layers.variational import (
    activation_regularization,
    check_rate,
    embedding_dropout,
    variational_dropout,
    weight_drop,
)
from ostinato.models.language_model import LanguageModel
from ostinato.ops.cells import lstm
from ostinato.registry import register


class LSTMState(NamedTuple):
    h: Tensor  # B 1 K
    c: Tensor  # B 1 K


class AWDState(NamedTuple):
    layers: tuple[LSTMState, ...]


class DroppedLSTM(nn.Module):
    """An LSTM from one width to another, whose recurrent weights are dropped for a whole call.

    width: of the input
    hidden: width K of the recurrence and the output
    drop: share of the recurrent weights that are dropped in training
    """

    def __init__(self, width: int, hidden: int, drop: float):
        super().__init__()
        self.hidden, self.drop = hidden, drop
        self.project_in = Linear(width, 4 * hidden)
        self.recurrent = nn.Parameter(torch.empty(1, hidden, 4 * hidden))
        for parameter in (*self.project_in.parameters(), self.recurrent):
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, x: Tensor, state: LSTMState, reset: Tensor | None) -> tuple[Tensor, LSTMState]:
        R = weight_drop(self.recurrent, self.drop, self.training)
        y, after = lstm(x, self.project_in.weight, self.project_in.bias, R, state, reset)
        return y.flatten(-2), LSTMState(*after)


@register("model:awd_lstm", paper="awd_lstm")
class AWDLSTM(LanguageModel):
    """AWD-LSTM: a language model of LSTMs with dropped recurrent weights and masks that last a sequence.

    vocab_size: number of different tokens
    dim: width D of the embedding and of the last layer
    hidden: width of the other layers; by default as much wider as in the paper, 1150 / 400
    layers: number of LSTMs
    drop_weights: share of the recurrent weights that are dropped for a sequence
    drop_tokens: share of the vocabulary that the embedding drops for a sequence
    drop_input: share of the channels that are dropped before the first layer
    drop_hidden: share of the channels that are dropped between layers
    drop_output: share of the channels that are dropped before the head
    alpha: weight of the penalty on large outputs, in training
    beta: weight of the penalty on outputs that change, in training
    tie: whether the head shares the weights of the embedding
    """

    examples = (dict(vocab_size=11, dim=6, hidden=9, layers=2), dict(vocab_size=7, dim=5, layers=1, tie=False))

    def __init__(
        self,
        vocab_size: int,
        dim: int = 400,
        *,
        hidden: int | None = None,
        layers: int = 3,
        drop_weights: float = 0.5,
        drop_tokens: float = 0.1,
        drop_input: float = 0.4,
        drop_hidden: float = 0.25,
        drop_output: float = 0.4,
        alpha: float = 2.0,
        beta: float = 1.0,
        tie: bool = True,
    ):
        SequenceModule.__init__(self, dim)
        if vocab_size < 1 or layers < 1:
            raise ValueError(f"vocab_size and layers are at least 1; got {vocab_size} and {layers}")
        self.vocab_size, self.causal, self.soft_cap = vocab_size, True, None
        self.rates = {
            "drop_tokens": drop_tokens,
            "drop_input": drop_input,
            "drop_hidden": drop_hidden,
            "drop_output": drop_output,
        }
        for name, rate in {"drop_weights": drop_weights, **self.rates}.items():
            check_rate(name, rate)
        self.alpha, self.beta = alpha, beta
        hidden = round(dim * 1150 / 400) if hidden is None else hidden
        widths = [dim, *[hidden] * (layers - 1), dim]
        self.embedding = nn.Embedding(vocab_size, dim)
        self.lstms = nn.ModuleList(DroppedLSTM(*pair, drop_weights) for pair in zip(widths, widths[1:]))
        self.head = Linear(dim, vocab_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.head.weight, -0.1, 0.1)
        nn.init.zeros_(self.head.bias)
        if tie:
            self.head.weight = self.embedding.weight

    @property
    def layers(self) -> list[DroppedLSTM]:
        """The LSTMs, as what they are."""
        return cast(list[DroppedLSTM], list(self.lstms))

    def initial_state(self, batch: int) -> AWDState:
        return AWDState(
            tuple(
                LSTMState(*(torch.zeros(batch, 1, layer.hidden, **self.state_like) for _ in range(2)))
                for layer in self.layers
            )
        )

    def state_bytes(self, tokens: int) -> int:
        return SequenceModule.state_bytes(self, tokens)

    def outputs(self, tokens: Tensor, state: AWDState, reset: Tensor | None) -> tuple[Tensor, Tensor, AWDState]:
        """The output of the last layer after dropout and before it, (B, T, D) each, and the state."""
        weight = embedding_dropout(self.embedding.weight, self.rates["drop_tokens"], self.training)
        x = variational_dropout(embedding(tokens.long(), weight), self.rates["drop_input"], self.training)
        after, raw = [], x
        for i, (layer, before) in enumerate(zip(self.layers, state.layers, strict=True)):
            if i:
                x = variational_dropout(raw, self.rates["drop_hidden"], self.training)
            raw, last = layer(x, before, reset)
            after.append(last)
        return variational_dropout(raw, self.rates["drop_output"], self.training), raw, AWDState(tuple(after))

    def hidden(self, tokens: Tensor, state: AWDState, reset: Tensor | None) -> tuple[Tensor, AWDState]:
        x, _, after = self.outputs(tokens, state, reset)
        return x, after

    def logits(self, x: Tensor) -> Tensor:
        return self.head(x)

    def read(self, tokens: Tensor, state: AWDState, reset: Tensor | None) -> tuple[Tensor, AWDState]:
        x, after = self.hidden(tokens, state, reset)
        return self.logits(x), after

    def loss_and_state(
        self, tokens: Tensor, reset: Tensor | None = None, state: Any = None, *, reduction: str = "mean"
    ) -> tuple[Tensor, Any]:
        """Cross-entropy of each next token given those before it, in training with the penalties; and the state."""
        if not self.training or not (self.alpha or self.beta):
            return super().loss_and_state(tokens, reset, state, reduction=reduction)
        self.check_input(tokens)
        self._check_flags("reset", reset, tokens)
        if tokens.shape[1] < 2:
            raise ValueError("the loss of the next token needs at least 2 tokens; got 1")
        before = None if reset is None else reset[:, :-1]
        state = self.initial_state(len(tokens)) if state is None else state
        x, raw, after = self.outputs(tokens[:, :-1], state, before)
        targets = tokens[:, 1:].long() if reset is None else tokens[:, 1:].long().masked_fill(reset[:, 1:], IGNORED)
        loss = self.cross_entropy(x, targets, reduction)
        penalty = activation_regularization(x, raw, self.alpha, self.beta, before)
        return loss + penalty * ((targets != IGNORED).sum() if reduction == "sum" else 1), after

    def cross_entropy(self, x: Tensor, targets: Tensor, reduction: str) -> Tensor:
        # the bias of the head as one more channel of the input
        weight = torch.cat([self.head.weight, self.head.bias[:, None]], 1)
        return chunked_cross_entropy(
            torch.cat([x, torch.ones_like(x[..., :1])], -1), weight, targets, reduction=reduction
        )
