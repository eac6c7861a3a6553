"""Tasks about places: what each kind asks for, and that a softmax over equal tokens is right at one place."""

import pytest
import torch
from torch import nn

from ostinato import create
from ostinato.tasks.position_sensitive import PositionSensitive


def expected(batch, row):
    return dict(enumerate(batch.targets[row].tolist()))


def test_each_token_says_its_place():
    batch = PositionSensitive(7, vocabulary=3).batch(4)
    assert batch.targets.tolist() == [list(range(7))] * 4
    assert batch.scored.all()
    assert PositionSensitive(5).batch(2, 9).targets[0].tolist() == list(range(9)), "lengths beyond training"


@pytest.mark.parametrize("length", [2, 7, 8])
def test_tokens_at_even_places_come_to_the_front(length):
    task = PositionSensitive(length, kind="even", vocabulary=9)
    batch = task.batch(5)
    for tokens, answers in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert answers == tokens[1::2] + [9] * (length - length // 2)
    assert all(dict(task.solve(batch.inputs[row].tolist())) == expected(batch, row) for row in range(5))
    assert task.score(task.oracle(batch), batch) == 1
    assert task.vocab_size == 10


def test_a_softmax_over_equal_tokens_is_right_at_one_place_and_factors_for_distances_at_all():
    """Whatever its bias, attention writes the same at each place; fixed factors and a threshold for each place are exact."""
    task = PositionSensitive(11, vocabulary=40, longest=11, same=True)
    batch = task.batch(6, split="test")
    assert (batch.inputs == batch.inputs[:, :1]).all()
    torch.manual_seed(0)
    embedding, head = nn.Embedding(task.vocab_size, 8), nn.Linear(8, task.outputs)
    plain = create("attention", dim=8, heads=2, position="t5")
    nn.init.normal_(plain.distance_bias.weight)
    with torch.no_grad():
        assert task.score(head(plain(embedding(batch.inputs))[0]), batch) <= 1 / 11 + 1e-9
        mixer = create("urpe_attention", dim=8, heads=2, position="none", farthest=11)
        mixer.factors.weight.copy_(2 * torch.arange(12)[:, None].expand(-1, 2) + 1)  # their mean of n is n
        x = torch.ones(6, 11, 8)
        n = mixer(x)[0][..., 0] / mixer(x[:, :1])[0][..., 0]
        assert task.score(-(n[..., None] - 1 - torch.arange(11)).abs(), batch) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(kind="odd"), "kind is identify or even; got 'odd'"),
        (dict(kind="evn"), "did you mean even"),
        (dict(vocabulary=1), "at least 2 different tokens; got 1"),
        (dict(length=9, longest=8), "has names for 8 places; a length of 9 needs more"),
        (dict(length=1), "lengths from 2 on; got 1"),
    ],
)
def test_refused_with_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        PositionSensitive(**arguments)
