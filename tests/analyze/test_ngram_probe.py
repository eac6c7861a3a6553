"""The probe finds a head that follows n-grams, and says of one that looks everywhere that it does not."""

import pytest
import torch
from torch import nn

from ostinato.analyze.ngram_probe import attention_weights, ngram_probe
from ostinato.models.language_model import LanguageModel
from ostinato.registry import create

KINDS = 5


class Built(nn.Module):
    """One head that looks at what followed this token, and one that looks at all tokens alike."""

    def __init__(self):
        super().__init__()
        self.attention = create("attention", dim=2 * KINDS, heads=2, head_dim=KINDS, position="none")
        one, none = torch.eye(KINDS), torch.zeros(KINDS, KINDS)
        wide = 40 * torch.cat([one, none], 1)  # the token itself
        before = torch.cat([none, one], 1)  # the one before
        nothing = torch.cat([none, none], 1)
        with torch.no_grad():
            self.attention.project_in.weight.copy_(torch.cat([wide, nothing, before, nothing, nothing, nothing]))

    def forward(self, tokens):
        now = torch.eye(KINDS)[tokens]
        last = now.roll(1, 1)
        last[:, 0] = 0
        return self.attention(torch.cat([now, last], -1))


def test_a_head_that_was_built_to_follow_bigrams_is_found():
    tokens = torch.randint(KINDS, (6, 60), generator=torch.Generator().manual_seed(0))
    found = {(row.head, row.order): row for row in ngram_probe(Built(), tokens, (1, 2))}
    assert {row.layer for row in found.values()} == {"attention"}
    assert found[0, 1].share == pytest.approx(1, abs=1e-5)
    assert 0.1 < found[0, 1].even < 0.25  # one token of five
    assert found[1, 1].share == pytest.approx(found[1, 1].even, abs=1e-6)
    assert found[1, 2].share == pytest.approx(found[1, 2].even, abs=1e-6)
    assert found[1, 2].even < found[0, 2].share < found[0, 1].share


@pytest.mark.parametrize("arguments", [{}, {"kv_heads": 1, "window": 5, "qk_norm": True}])
def test_weights_are_those_that_the_layer_reads_with(arguments):
    mixer = create("attention", dim=12, heads=3, **arguments).double()
    x = torch.randn(2, 11, 12, dtype=torch.float64)
    weights = attention_weights(mixer, x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 11, dtype=torch.float64))
    position = torch.arange(11).expand(2, -1)
    values = mixer.project(x, position)[1][1]
    values = values.repeat_interleave(3 // values.shape[2], 2)
    torch.testing.assert_close(
        mixer.project_out(torch.einsum("bhij,bjhv->bihv", weights, values).flatten(-2)), mixer(x)[0]
    )


def test_every_layer_of_a_model_is_looked_at_and_left_alone():
    model = LanguageModel(7, 8, layers=3, pattern=[{"attention": {"heads": 2}}, "gru"])
    model.train()
    tokens = torch.randint(7, (2, 30))
    found = ngram_probe(model, tokens, orders=[1])
    assert [(row.layer, row.head) for row in found] == [
        (f"stack.layers.{layer}.mixer", head) for layer in (0, 2) for head in (0, 1)
    ]
    assert model.training
    assert not model.stack.blocks[0].mixer._forward_pre_hooks


def test_what_cannot_be_looked_at_is_refused():
    with pytest.raises(ValueError, match="no attention whose weights"):
        ngram_probe(LanguageModel(7, 8, layers=1, pattern=["gru"]), torch.zeros(1, 5, dtype=torch.long))
    with pytest.raises(ValueError, match="orders are numbers of tokens"):
        ngram_probe(Built(), torch.zeros(1, 5, dtype=torch.long), ())
