"""The maximum entropy model: its sum of features, and the frequencies that it learns."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.registry import create


def made(**arguments):
    return create("model:maxent_lm", **(dict(vocab_size=5, order=4, buckets=5000) | arguments)).double()


def test_every_history_has_numbers_of_its_own_which_are_added_up():
    model = made()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    tokens = torch.randint(5, (3, 60), generator=torch.Generator().manual_seed(0))
    rows, _ = model.rows(tokens, model.initial_state(3), None)
    for length, row in enumerate(rows, 1):
        known = {}
        for b in range(3):
            for t in range(60):
                if t + 1 < length:
                    assert row[b, t] == 5000, "what reaches over the beginning is left out"
                else:
                    history = tuple(tokens[b, t + 1 - length : t + 1].tolist())
                    assert known.setdefault(history, int(row[b, t])) == row[b, t]
        assert len(set(known.values())) > 0.95 * len(known), "hardly any two share a row"
    y, _ = model(tokens)
    b, t = 1, 30
    found = model.bias + sum(feature.weight[row[b, t]] for feature, row in zip(model.features, rows))
    assert_close(y[b, t], found)
    assert_close(y[b, 0], model.bias + model.features[0].weight[tokens[b, 0]])


def test_a_bigram_learns_the_relative_frequencies():
    """Without a penalty the likeliest distribution is c(hw) / c(h), known without learning."""
    model = made(vocab_size=4, order=2, buckets=4)
    tokens = torch.randint(4, (6, 50), generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 1, 0, 1, 1] * 10)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=300, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        logits, _ = model(tokens[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        return loss

    optimizer.step(closure)
    counts = torch.zeros(4, 4, dtype=torch.float64)
    counts.index_put_((tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), torch.ones(294).double(), accumulate=True)
    found = model(torch.arange(4)[:, None])[0][:, 0].softmax(-1)
    assert_close(found, counts / counts.sum(1, keepdim=True), rtol=0, atol=1e-4)


def test_longer_features_tell_what_shorter_ones_cannot():
    """The next word is the sum of the last two, modulo 5."""

    def loss(order):
        model = made(order=order).float()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
        tokens = torch.randint(5, (20, 40), generator=torch.Generator().manual_seed(2))
        for t in range(2, 40):
            tokens[:, t] = (tokens[:, t - 1] + tokens[:, t - 2]) % 5
        for _ in range(30):
            optimizer.zero_grad()
            found = model.loss(tokens)
            found.backward()
            optimizer.step()
        return found.item()

    assert loss(2) > 1.0
    assert loss(3) < 0.2


def test_the_loss_is_of_the_words_within_documents():
    model, tokens = made(), torch.randint(5, (1, 20))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    reset = torch.zeros(1, 20, dtype=torch.bool)
    reset[0, 8] = True
    apart = (7 * model.loss(tokens[:, :8]) + 11 * model.loss(tokens[:, 8:])) / 18
    assert_close(model.loss(tokens, reset), apart)


def test_refused_with_a_sentence():
    with pytest.raises(ValueError, match="buckets at least vocab_size"):
        made(buckets=4)
    with pytest.raises(ValueError, match="tokens are 0 to 4; got 0 to 5"):
        made()(torch.tensor([[0, 5]]))
