"""BIG LSTM: wide projected LSTMs on top of each other as a language model of words.

    x = dropout(embedding(w_t));   for each layer:  x = dropout(P h_t),  h_t, c_t = lstm(x_t, P h_{t-1});   logits = head(x)

The recurrence is much wider than what it hears, says and hears of itself: 8192 units, projected to 1024. Words are read from
a table or from their characters (`layers/char_cnn.py`), and told by a softmax that looks at some of them in training
(`sampled_softmax.py`), which may read characters too (`char_softmax.py`).

Jozefowicz, Vinyals, Schuster, Shazeer, Wu 2016, https://arxiv.org/abs/1602.02410.
"""

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from ostinato.contract import SequenceModule
from ostinato.layers.variational import check_rate
from ostinato.mixers.nonlinear_rnn.lstm import LSTM, LSTMState
from ostinato.models.language_model import LanguageModel
from ostinato.models.stack import Part, parse_pattern
from ostinato.registry import create, register


class BigLSTMState(NamedTuple):
    layers: tuple[LSTMState, ...]


class LSTMStack(SequenceModule):
    """LSTMs on top of each other, without anything beside them but dropout.

    dim: width D of input and output
    hidden: width of the recurrences
    layers: how many there are
    drop: share of what goes in and comes out that is dropped in training
    """

    def __init__(self, dim: int, hidden: int, layers: int, drop: float):
        super().__init__(dim)
        self.drop = check_rate("drop", drop)
        self.layers = nn.ModuleList(LSTM(dim, hidden=hidden, projected=hidden != dim) for _ in range(layers))

    @property
    def lstms(self) -> list[LSTM]:
        """The layers, as what they are."""
        return cast(list[LSTM], list(self.layers))

    def initial_state(self, batch: int) -> BigLSTMState:
        return BigLSTMState(tuple(cast(LSTMState, layer.initial_state(batch)) for layer in self.lstms))

    def read(self, x: Tensor, state: BigLSTMState, reset: Tensor | None) -> tuple[Tensor, BigLSTMState]:
        x, after = dropout(x, self.drop, self.training), []
        for layer, before in zip(self.lstms, state.layers, strict=True):
            x, last = layer(x, before, reset)
            x = dropout(x, self.drop, self.training)
            after.append(last)
        return x, BigLSTMState(tuple(after))


@register("model:big_lstm", paper="big_lstm")
class BigLSTM(LanguageModel):
    """BIG LSTM: a language model of projected LSTMs, for large vocabularies.

    vocab_size: number of different tokens, numbered from the most frequent on
    dim: width D of the embedding and of what the LSTMs say
    hidden: width of the recurrences; by default 8 D
    layers: number of LSTMs
    embedding: "table", or another embedding, as "char_cnn" or {"char_cnn": {"words": [...]}}
    head: "sampled_softmax" or another head, as {"char_softmax": {"words": [...], "correction": 128}}
    drop: share of what goes into an LSTM and comes out of it that is dropped in training
    """

    examples = (
        dict(vocab_size=11, dim=6, hidden=9, layers=2, drop=0.0),
        dict(vocab_size=13, dim=4, hidden=7, layers=1, embedding={"char_cnn": {"filters": [[1, 3], [4, 5]], "longest": 4}},
             head={"char_softmax": {"correction": 3, "filters": [[2, 5]], "highways": 1, "samples": 5}}),
    )  # fmt: skip

    def __init__(
        self,
        vocab_size: int,
        dim: int = 1024,
        *,
        hidden: int | None = None,
        layers: int = 2,
        embedding: Part = "table",
        head: Part = "sampled_softmax",
        drop: float = 0.1,
    ):
        if vocab_size < 1 or layers < 1:
            raise ValueError(f"vocab_size and layers are at least 1; got {vocab_size} and {layers}")
        super().__init__(1, dim, layers=1, pattern="boom", mlp=None)  # its parts are replaced
        self.vocab_size = vocab_size
        self.embedding: Any = _part("embedding", embedding, dim, vocab_size)
        self.stack = LSTMStack(dim, 8 * dim if hidden is None else hidden, layers, drop)
        self.norm = nn.Identity()
        self.head: Any = _part("head", head, dim, vocab_size)

    def random_input(self, batch: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        tokens = torch.randint(self.vocab_size, (batch, length), generator=generator)
        return tokens.to(next(self.parameters()).device)

    def cross_entropy(self, x: Tensor, targets: Tensor, reduction: str) -> Tensor:
        return self.head.loss(x, targets, reduction)


def _part(kind: str, part: Part, dim: int, vocab_size: int) -> nn.Module:
    """An embedding or a head by its name, or {name: {argument: value}}."""
    (name, arguments), *others = parse_pattern(part)
    if others:
        raise ValueError(f"one {kind} is expected here; got {len(others) + 1}")
    if (kind, name) == ("embedding", "table"):
        table = nn.Embedding(vocab_size, dim)
        nn.init.uniform_(table.weight, -0.1, 0.1)
        return table
    return create(f"{kind}:{name}", dim=dim, vocab_size=vocab_size, **arguments)
