"""Probes against scikit-learn, on vectors that are known, and on a sentence encoder that is left as it is."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.testing import assert_close

import ostinato
from ostinato.analyze.embedding_probes import Examples, embedding_probes, fit
from ostinato.analyze.unit_probe import state_features

LEAF = "stack.layers.0.mixer.c"


@pytest.mark.parametrize(("number", "strength"), [(2, 1e-2), (4, 1e-3), (4, 0.3)])
def test_it_finds_the_minimum_that_scikit_learn_finds(number, strength):
    torch.manual_seed(0)
    plain, size = torch.randn(150, 7), torch.logspace(-2, 2, 7)
    classes = (torch.randn(150, number) + plain[:, :number]).argmax(-1)
    features = plain * size + torch.arange(7)
    found = fit(features, classes, number, strength=strength)
    x = features.double()
    mean, deviation = x.mean(0), x.std(0, unbiased=False)
    scaled = ((x - mean) / deviation).numpy()
    theirs = LogisticRegression(C=1 / (150 * strength), tol=1e-12, max_iter=5000).fit(scaled, classes.numpy())
    expected = torch.from_numpy(theirs.decision_function(scaled))
    scores = x @ found.weight + found.bias
    if number == 2:  # they have one score for two classes, whose penalty is that of both together times 2
        half = fit(features, classes, 2, strength=2 * strength)
        scores = (x @ half.weight + half.bias).diff(dim=-1)[:, 0]
        assert_close(scores, expected, rtol=1e-4, atol=1e-5)
    else:
        centred = scores - scores.mean(-1, keepdim=True)
        assert_close(centred, expected - expected.mean(-1, keepdim=True), rtol=1e-4, atol=1e-5)
    if number > 2:
        assert (found.predict(features).numpy() == theirs.predict(scaled)).all()


def splits(texts, classes, others=None):
    third = len(texts) // 3
    cuts = {"train": slice(third), "valid": slice(third, 2 * third), "test": slice(2 * third, None)}
    return {
        name: Examples(texts[cut], classes[cut], None if others is None else others[cut]) for name, cut in cuts.items()
    }


def test_vectors_know_what_was_put_into_them_and_nothing_else():
    torch.manual_seed(0)
    vectors = torch.randn(360, 6)
    told = ["low" if x < -0.5 else "high" if x > 0.5 else "middle" for x in (vectors[:, 0] - vectors[:, 4]).tolist()]
    hidden = torch.randint(3, (360,)).tolist()
    read = []

    def encode(numbers):
        read.append(len(numbers))
        assert not torch.is_grad_enabled()
        return vectors[torch.tensor(numbers)]

    found = embedding_probes(
        encode, {"told": splits(list(range(360)), told), "hidden": splits(list(range(360)), hidden)}, batch_size=50
    )
    assert found["told"].accuracy > 0.9 > 0.6 > found["told"].commonest
    assert found["hidden"].accuracy < 0.5
    assert max(read) == 50
    assert sum(read) == 2 * 360


def test_pairs_are_told_by_how_much_they_differ():
    torch.manual_seed(0)
    vectors = torch.randn(300, 5)
    others = torch.where(torch.rand(300, 1) < 0.5, vectors + 0.1 * torch.randn(300, 5), torch.randn(300, 5))
    same = ((others - vectors).norm(dim=-1) < 1).tolist()
    table = torch.cat([vectors, others])
    pairs = splits(list(range(300)), same, list(range(300, 600)))
    found = embedding_probes(lambda numbers: table[torch.tensor(numbers)], {"same": pairs})["same"]
    assert found.accuracy > 0.93
    one = splits(list(range(300)), same)
    assert embedding_probes(lambda numbers: table[torch.tensor(numbers)], {"same": one})["same"].accuracy < 0.65


def test_an_encoder_is_left_as_it_is_and_tells_a_word_of_a_sentence():
    """Talman et al. judge HBMP by such tasks; here: does the sentence hold this word?"""
    torch.manual_seed(0)
    embedding, encoder = torch.nn.Embedding(9, 8), ostinato.create("model:hbmp", dim=8, hidden=20, layers=2)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    sentences = torch.randint(9, (600, 6))
    holds = (sentences == 4).any(1).tolist()

    def encode(texts):
        return encoder.sentence(embedding(torch.stack(list(texts))))

    found = embedding_probes(encode, {"word": splits(list(sentences), holds)})["word"]
    assert found.accuracy > found.commonest + 0.15
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_the_state_of_a_language_model_is_such_a_vector():
    torch.manual_seed(0)
    model = ostinato.create("model:language_model", vocab_size=6, dim=10, layers=1, pattern="lstm", mlp=None)
    texts = torch.randint(6, (360, 4))
    last = texts[:, -1].tolist()
    tasks = {"last word": splits(list(texts), last)}
    found = embedding_probes(lambda part: state_features(model, part, LEAF, squash=torch.tanh), tasks)
    assert found["last word"].accuracy > 0.75 > 3 * found["last word"].commonest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda task: {name: task[name] for name in ("train", "test")}, "task noise lacks its valid examples"),
        (
            lambda task: task | {"test": Examples([1, 2], [0])},
            "each text has one class, .* not so in its test examples",
        ),
        (lambda task: task | {"train": Examples([1, 2], [0, 0])}, "at least 2 classes in training; got 1"),
        (lambda task: task | {"valid": Examples([1], [7])}, "task noise: class 7 does not occur in training"),
    ],
)
def test_tasks_that_tell_nothing_are_refused(change, message):
    task = splits(list(range(9)), [0, 1, 0] * 3)
    with pytest.raises(ValueError, match=message):
        embedding_probes(lambda texts: torch.randn(len(texts), 3), {"noise": change(task)})


def test_vectors_of_another_shape_and_strengths_below_zero_are_refused():
    task = {"noise": splits(list(range(9)), [0, 1, 0] * 3)}
    with pytest.raises(ValueError, match=r"3 texts are encoded as \(3, E\); got \(4, 3\)"):
        embedding_probes(lambda texts: torch.randn(4, 3), task)
    with pytest.raises(ValueError, match="at least one strength is tried"):
        embedding_probes(lambda texts: torch.randn(len(texts), 3), task, strengths=[])
    with pytest.raises(ValueError, match="strength is at least 0"):
        embedding_probes(lambda texts: torch.randn(len(texts), 3), task, strengths=[-1.0])
