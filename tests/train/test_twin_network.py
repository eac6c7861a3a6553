"""Twin networks: which states meet, who learns from it, and what is left when the twin is gone."""

import pytest
import torch
from torch.testing import assert_close

import ostinato
from ostinato.train.twin_network import TwinNetwork


def language_model(seed=0, dim=6, **arguments):
    torch.manual_seed(seed)
    given = dict(vocab_size=9, dim=dim, layers=1, pattern="lstm", mlp=None)
    return ostinato.create("model:language_model", **(given | arguments)).double()


def twins(alpha=1.0):
    model, backward = language_model(), language_model(1, dim=5)
    return TwinNetwork(model, backward, alpha=alpha).double()


def test_without_a_weight_it_is_two_likelihoods():
    pair, tokens = twins(0.0), torch.randint(9, (3, 20))
    both = pair.model.loss(tokens) + pair.backward.loss(tokens.flip(1))
    assert_close(pair.loss(tokens), both, check_dtype=False)
    assert_close(pair.loss(tokens, reduction="sum"), 57 * pair.loss(tokens))


def test_states_that_predict_the_same_token_meet():
    pair, tokens = twins(), torch.randint(9, (2, 12))
    h = pair.model.hidden(tokens, pair.model.initial_state(2), None)[0]
    h_ = pair.backward.hidden(tokens.flip(1), pair.backward.initial_state(2), None)[0].flip(1)
    expected = [(pair.match(h[row, s - 1]) - h_[row, s + 1]).square().sum() for row in range(2) for s in range(1, 11)]
    assert_close(pair.parts(tokens)[2], torch.stack(expected).mean())


def test_a_palindrome_read_by_the_same_model_has_no_distance():
    model = language_model()
    pair = TwinNetwork(model, model).double()
    with torch.no_grad():
        pair.match.weight.copy_(torch.eye(6))
        pair.match.bias.zero_()
    half = torch.randint(9, (2, 7))
    same = torch.cat([half, half.flip(1)[:, 1:]], 1)  # s - 1 from the left is s - 1 from the right at the middle only
    middle = pair.match(pair.model.hidden(same, model.initial_state(2), None)[0])[:, 5]
    other = pair.model.hidden(same.flip(1), model.initial_state(2), None)[0].flip(1)[:, 7]
    assert_close(middle, other)
    one = torch.full((2, 3), 4)
    assert_close(pair.parts(one)[2].item(), 0.0)


def test_documents_of_a_packed_row_are_apart():
    pair, tokens = twins(), torch.randint(9, (1, 20))
    reset = torch.zeros(1, 20, dtype=torch.bool)
    reset[:, [0, 8]] = True
    found, parts = pair.parts(tokens, reset), [pair.parts(tokens[:, :8]), pair.parts(tokens[:, 8:])]
    for part, weights in ((0, (7, 11)), (1, (7, 11)), (2, (6, 10))):
        mean = sum(weight * each[part] for weight, each in zip(weights, parts)) / sum(weights)
        assert_close(found[part], mean)


def test_the_backward_model_learns_nothing_from_the_distance():
    pair, tokens = twins(), torch.randint(9, (2, 12))
    pair.parts(tokens)[2].backward()
    assert all(parameter.grad is None for parameter in pair.backward.parameters())
    assert pair.match.weight.grad.abs().max() > 0
    assert pair.model.stack.blocks[0].mixer.recurrent.grad.abs().max() > 0


def test_the_twin_brings_the_states_nearer_at_no_cost_and_the_model_is_used_alone():
    """Six tokens and the same again: how much of the backward states is in the forward ones, by the best affine map."""

    def trained(alpha):
        torch.manual_seed(0)
        pair = TwinNetwork(language_model(dim=16), language_model(1, dim=16), alpha=alpha).float()
        optimizer = torch.optim.Adam(pair.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(0)
        for _ in range(300):
            loss = pair.loss(torch.randint(9, (16, 6), generator=generator).repeat(1, 2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        test = torch.randint(9, (256, 6), generator=generator).repeat(1, 2)
        with torch.no_grad():
            h = pair.model.hidden(test, pair.model.initial_state(256), None)[0][:, :-2].flatten(0, 1)
            h_ = (
                pair.backward.hidden(test.flip(1), pair.backward.initial_state(256), None)[0]
                .flip(1)[:, 2:]
                .flatten(0, 1)
            )
            h = torch.cat([h, torch.ones(len(h), 1)], 1)
            left = (h @ torch.linalg.lstsq(h, h_).solution - h_).square().sum() / (h_ - h_.mean(0)).square().sum()
            return pair.model, pair.model.loss(test).item(), left.item()

    _, alone, apart = trained(0.0)
    model, together, near = trained(0.01)
    assert near < 0.9 * apart
    assert together < 1.02 * alone
    assert model.state_dict().keys() == language_model(dim=16).state_dict().keys()


def test_refused_with_a_sentence():
    with pytest.raises(ValueError, match="two causal language models with one vocabulary"):
        TwinNetwork(language_model(), language_model(vocab_size=8))
    with pytest.raises(ValueError, match="alpha is the weight of a distance"):
        twins(-1.0)
    with pytest.raises(ValueError, match="reduction is mean or sum"):
        twins().loss(torch.zeros(1, 3, dtype=torch.long), reduction="none")
