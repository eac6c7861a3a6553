"""The probe against scikit-learn, and a unit of a small language model that knows the tone of a text, and sets it."""

import pytest
import sklearn
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

import ostinato
from ostinato.analyze.unit_probe import penalised_loss, state_features, unit_probe
from ostinato.generate import Sampler, stream
from ostinato.generate.state_override import StateOverride, overridden
from ostinato.state import leaves


def planted(N=200, F=30):
    """Features of very different sizes, of which two matter."""
    torch.manual_seed(0)
    features = torch.randn(N, F) * torch.logspace(-2, 2, F) + torch.arange(F)
    scores = 2 * (features[:, 11] - 11) / features[:, 11].std() - (features[:, 20] - 20) / features[:, 20].std()
    return features, (scores + torch.randn(N) > 0.4).long()


@pytest.mark.parametrize("strength", [0.003, 0.03, 0.1])
def test_it_finds_the_minimum_that_scikit_learn_finds(strength):
    features, labels = planted()
    probe = unit_probe(features, labels, strength=strength)
    deviation = features.double().std(0, unbiased=False)
    scaled = ((features.double() - features.double().mean(0)) / deviation).numpy()
    lasso = dict(l1_ratio=1.0) if tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 8) else dict(penalty="l1")
    # theirs is C times a sum, ours a mean: C = 1 / (N strength)
    theirs = LogisticRegression(**lasso, C=1 / (len(labels) * strength), solver="saga", tol=1e-10, max_iter=20_000)
    theirs.fit(scaled, labels.numpy())
    assert_close(probe.weight * deviation, torch.from_numpy(theirs.coef_[0]), rtol=1e-4, atol=1e-5)
    assert probe.used == (abs(theirs.coef_[0]) > 1e-6).sum()
    assert (probe.predict(features).numpy() == theirs.predict(scaled)).all()
    with torch.no_grad():
        best = penalised_loss(probe, features, labels, strength)
        for _ in range(20):
            other = probe._replace(weight=probe.weight + 1e-3 * torch.randn(30) / deviation)
            assert penalised_loss(other, features, labels, strength) > best


def test_it_finds_the_unit_that_was_planted():
    features, labels = planted()
    probe = unit_probe(features, labels, strength=0.1)
    assert (probe.unit, probe.sign) == (11, 1)
    assert probe.used <= 3
    assert_close(probe.means[1], features[labels == 1, 11].mean().item(), rtol=1e-5, atol=0)
    assert_close(probe.threshold, sum(probe.means) / 2)
    # it correlates with the scores by 2 / sqrt(6), so it should be right in 1 - acos(0.82) / pi = 80 % of 200 rows
    assert (probe.predict_by_unit(features) == labels.bool()).float().mean() > 0.72
    assert unit_probe(-features, labels, strength=0.1).sign == -1


GOOD, BAD, LEAF = slice(6, 9), slice(9, 12), "stack.layers.0.mixer.c"


def texts(number, generator):
    """Words 0 to 5 say nothing, 6 to 8 are good ones, 9 to 11 are bad ones; a text has only one kind of these."""
    bad = torch.randint(2, (number, 1), generator=generator)
    neutral, tone = (torch.randint(n, (number, 16), generator=generator) for n in (6, 3))
    speaks = torch.rand(number, 16, generator=generator) < 0.3
    return torch.where(speaks, 6 + 3 * bad + tone, neutral), bad[:, 0]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ostinato.create("model:language_model", vocab_size=12, dim=12, layers=1, pattern="lstm", mlp=None)
    optimizer, generator = torch.optim.Adam(model.parameters(), lr=1e-2), torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(texts(32, generator)[0]).backward()
        optimizer.step()
    return model.eval()


def test_features_are_the_state_after_each_text(model):
    ragged = [[1, 7, 2], torch.tensor([4]), [9, 9, 0, 1, 2]]
    found = state_features(model, ragged, LEAF)
    for row, text in zip(found, ragged):
        state = model(torch.as_tensor(text)[None])[1]
        assert_close(row, state.stack.layers[0].mixer.c.flatten())
    assert_close(state_features(model, ragged, LEAF, squash=torch.tanh), found.tanh())
    with pytest.raises(ValueError, match=r"the state has no 'stack.layers.0.mixer.d' \(did you mean"):
        state_features(model, ragged, "stack.layers.0.mixer.d")
    with pytest.raises(ValueError, match="at least one text"):
        state_features(model, [[]], LEAF)


def test_one_unit_of_a_language_model_knows_the_tone_and_sets_it(model):
    read, bad = texts(400, torch.Generator().manual_seed(1))
    features = state_features(model, list(read), LEAF)
    probe = unit_probe(features[:300], bad[:300], strength=0.03)
    assert probe.used <= 6
    assert (probe.predict_by_unit(features[300:]) == bad[300:].bool()).float().mean() > 0.95

    def written(value):
        step = StateOverride(model, {LEAF: {probe.unit: value}})
        tokens = [token for token, _ in stream(model, torch.zeros(40, 1, dtype=torch.long), 30, Sampler(), step=step)]
        count = torch.stack(tokens).flatten().bincount(minlength=12)
        return count[GOOD].sum().item(), count[BAD].sum().item()

    good, bad = written(probe.means[0])
    assert good > 2 * bad
    good, bad = written(probe.means[1])
    assert bad > 2 * good


def test_an_override_holds_a_unit_and_nothing_else(model):
    tokens = torch.randint(12, (3, 7))
    step = StateOverride(model, {LEAF: {2: 5.0, 4: -1.0}})
    y, state = step(tokens)
    expected = model.initial_state(3)
    for t in range(7):
        expected.stack.layers[0].mixer.c[:, 0, [2, 4]] = torch.tensor([5.0, -1.0])
        logits, expected = model(tokens[:, t : t + 1], ostinato.state.clone(ostinato.state.detach(expected)))
        expected = ostinato.state.detach(expected)
    assert_close(y, logits)
    assert (state.stack.layers[0].mixer.c[:, 0, 2] == 5).all()
    assert_close(state.stack.layers[0].mixer.h, expected.stack.layers[0].mixer.h)
    before = model(tokens)[1]
    kept = [leaf.clone() for leaf in leaves(before)]
    overridden(before, {LEAF: {0: 1.0}})
    assert_close(list(leaves(before)), kept, msg="a state is a value")
    assert_close(StateOverride(model, {})(tokens)[0][:, 0], model(tokens)[0][:, -1])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stack.layers.0.mixer.x": {0: 1.0}}, "the state has no 'stack.layers.0.mixer.x'"),
        ({LEAF: {12: 1.0}}, "has the units 0 to 11; got 12"),
    ],
)
def test_refused_with_a_sentence(model, values, message):
    with pytest.raises(ValueError, match=message):
        StateOverride(model, values)


@pytest.mark.parametrize(
    ("labels", "message"),
    [(torch.zeros(4), "labels are 0 or 1, and both are there"), (torch.zeros(3), r"features are \(N, F\)")],
)
def test_labels_that_tell_nothing_are_refused(labels, message):
    with pytest.raises(ValueError, match=message):
        unit_probe(torch.randn(4, 3), labels)
