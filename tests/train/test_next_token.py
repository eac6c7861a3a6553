"""Bits per byte against closed forms and against the loss that a model is trained with."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from ostinato import LanguageModel
from ostinato.data import TokenStore
from ostinato.tasks.next_token import bits_per_byte, token_losses

V = 11


PIECES = SimpleNamespace(token_bytes=np.arange(1, V + 1))
"""A tokenizer: token n stands for n + 1 bytes."""


class Uniform(nn.Module):
    """Knows nothing, and counts what it is shown."""

    causal, vocab_size = True, V

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(V))
        self.seen = 0

    def forward(self, tokens, state=None, reset=None):
        self.seen += tokens.numel()
        return self.weight.expand(*tokens.shape, V), (torch.zeros(len(tokens), 1),)


def store(*lengths, seed=0):
    tokens = np.random.default_rng(seed).integers(V, size=sum(lengths)).astype(np.uint8)
    return TokenStore(tokens, np.cumsum([0, *lengths[:-1]]))


def model(seed=0):
    torch.manual_seed(seed)
    made = LanguageModel(V, 12, layers=2, pattern=[{"gla": {"heads": 3}}]).double()
    with torch.no_grad():  # away from a fresh model, which predicts the same everywhere
        made.embedding.weight.mul_(40)
    return made


def test_who_knows_nothing_needs_log_v():
    text = store(5, 1, 30)
    score = bits_per_byte(Uniform(), text, PIECES, batch_size=2, length=7)
    targets = np.delete(text.tokens, [0, 5, 6])  # but the first tokens of documents
    assert (score.tokens, score.bytes) == (33, int((targets.astype(int) + 1).sum()))
    assert score.loss == pytest.approx(math.log(V))
    assert score.perplexity == pytest.approx(V)
    assert score.bits_per_byte == pytest.approx(math.log2(V) * 33 / score.bytes)


def test_one_stream_is_judged_as_it_is_trained():
    text = store(9, 40, 1, 23)
    tokens, reset = torch.from_numpy(text.tokens.astype(np.int64))[None], torch.zeros(1, 73, dtype=torch.bool)
    reset[0, text.starts] = True
    made = model()
    expected = made.loss(tokens, reset).item()
    for length in (1, 10, 72, 200):
        assert bits_per_byte(made, text, PIECES, 1, length).loss == pytest.approx(
            expected, rel=1e-6
        )  # a loss is computed in float32


def test_documents_that_parts_do_not_cut_are_judged_as_if_alone():
    """Two rows of 12 targets: the second begins at a document."""
    text = store(12, 13)
    made = model()
    alone = [
        made.loss(torch.from_numpy(text.document(i).astype(np.int64))[None], reduction="sum").item() for i in (0, 1)
    ]
    for length in (5, 12):
        score = bits_per_byte(made, text, PIECES, 2, length)
        assert score.loss * score.tokens == pytest.approx(sum(alone), rel=1e-6)


def test_the_state_is_handed_on_unless_windows_are_asked_for():
    made, text = model(), store(60)
    tokens = torch.from_numpy(text.tokens.astype(np.int64))[None]
    windows = [made.loss(tokens[:, i : i + 7], reduction="sum").item() for i in range(0, 59, 6)]
    score = bits_per_byte(made, text, PIECES, 1, 6, stream=False)
    assert score.loss == pytest.approx(sum(windows) / 59, rel=1e-6)
    assert abs(bits_per_byte(made, text, PIECES, 1, 6).loss - score.loss) > 1e-3


def test_only_the_front_is_read():
    uniform = Uniform()
    score = bits_per_byte(uniform, store(5, 95), PIECES, batch_size=3, length=4, max_tokens=20)
    assert score.tokens == 18
    assert uniform.seen <= 24
    with pytest.raises(ValueError, match="max_tokens is at least 2, of which one is predicted; got 1"):
        bits_per_byte(uniform, store(5), PIECES, max_tokens=1)


def test_more_parts_than_tokens():
    assert bits_per_byte(Uniform(), store(3), PIECES, batch_size=8).tokens == 2
    with pytest.raises(ValueError, match="every document has a single token"):
        bits_per_byte(Uniform(), store(1, 1), PIECES)


def test_losses_are_the_same_in_pieces(monkeypatch):
    made = model()
    tokens = torch.randint(V, (2, 30))
    targets = torch.randint(V, (2, 30)).masked_fill(torch.rand(2, 30) < 0.2, -100)
    whole, state = token_losses(made, tokens, targets)
    monkeypatch.setattr("ostinato.tasks.next_token.LARGEST_LOGITS", 2 * V * 7)
    pieces, other = token_losses(made, tokens, targets)
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(other.stack.layers[0].mixer.S, state.stack.layers[0].mixer.S)
    assert (whole[targets == -100] == 0).all()
    assert (whole[targets != -100] > 0).all()


def test_the_model_stays_in_its_mode():
    made = model().train()
    bits_per_byte(made, store(9), PIECES)
    assert made.training
    made.causal = False
    with pytest.raises(ValueError, match="predicted by a causal model"):
        bits_per_byte(made, store(9), PIECES)
