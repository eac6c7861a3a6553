"""Kneser-Ney against its definition, and mixtures of models whose weights a text decides."""

import math

import pytest
import torch
from torch.testing import assert_close

from ostinato.generate.interpolate import interpolate, interpolation_weights
from ostinato.models.kneser_ney import BEGIN, KneserNey
from ostinato.registry import create


def by_definition(documents, V, order, discount, history, word):
    """The recursion, with every count found by looking through the whole text."""

    texts = [[BEGIN, *document] for document in documents]

    def count(gram):
        """Occurrences of the longest, and at the beginning; of others, different words before them."""
        found = [
            text[t - 1] if t else None
            for text in texts
            for t in range(len(text) - len(gram) + 1)
            if tuple(text[t : t + len(gram)]) == gram
        ]
        return len(found) if len(gram) == order or gram[0] == BEGIN else len(set(found))

    def p(history):
        shorter = p(history[1:]) if history else 1 / V
        total = sum(count((*history, w)) for w in range(V))
        if not total:
            return shorter
        own = count((*history, word))
        kinds = sum(count((*history, w)) > 0 for w in range(V))
        return max(own - discount, 0) / total + discount * kinds / total * shorter

    return p(tuple(history[len(history) - min(order - 1, len(history)) :]))


def documents(number=6, V=5):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(V, (length + 3,), generator=generator).tolist() for length in range(number)]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_it_equals_its_definition(order):
    texts = documents()
    model = create("model:kneser_ney", vocab_size=6, order=order, discount=0.4).fit(texts)
    for history in (
        [],
        [2],
        [BEGIN],
        [BEGIN, texts[3][0]],
        [0, 1],
        [3, 3, 0],
        [5, 1, 4],
        *(text[:4] for text in texts),
    ):
        for word in range(6):
            expected = by_definition(texts, 6, order, 0.4, history, word)
            assert_close(model.probability(history, word), expected)


def test_a_number_by_hand():
    """a b a b a c: after a, b occurs twice and c once; before b and c stands a alone, before a the beginning and b."""
    model = KneserNey(3, order=2, discount=0.5).fit([[0, 1, 0, 1, 0, 2]])
    unigram = [(n - 0.5 + 1.5 / 3) / 4 for n in (2, 1, 1)]
    assert_close(model.distribution([]).tolist(), unigram)
    assert_close(model.probability([0], 1), 1.5 / 3 + 1.0 / 3 * unigram[1])


@pytest.mark.parametrize("discount", [None, 0.7])
def test_probabilities_add_up_to_1(discount):
    model = KneserNey(6, order=3, discount=discount).fit(documents(12))
    for history in ([], [1], [5], [BEGIN, 2], [2, 3], [0, 0, 4]):
        p = model.distribution(history)
        assert (p > 0).all()
        assert_close(p.sum().item(), 1.0)


def test_three_discounts_are_those_of_the_counts_of_counts():
    """13 words once, 5 twice, 3 three times, 2 four times: y = 13 / 23."""
    text, word = [], 0
    for count, words in ((1, 13), (2, 5), (3, 3), (4, 2)):
        for _ in range(words):
            text += [word] * count
            word += 1
    model = KneserNey(30, order=1).fit([text])
    y = 13 / 23
    assert_close(model.discounts[0], (0.0, 1 - 2 * y * 5 / 13, 2 - 3 * y * 3 / 5, 3 - 4 * y * 2 / 3))


def test_a_word_that_follows_one_other_only_is_not_likely_elsewhere():
    """San Francisco is as frequent as the word of the week, which follows everything."""
    san, francisco, week, new = 0, 1, 2, 7
    text = [[san, francisco]] * 8 + [[other, week] for other in range(3, 7)] * 2 + [[new]]
    model = KneserNey(8, order=2).fit(text)
    assert model.probability([san], francisco) > 0.7
    assert model.probability([new], week) > 1.5 * model.probability([new], francisco)


def test_losses_are_those_of_each_word():
    model = KneserNey(6, order=3).fit(documents())
    expected = [
        -math.log(model.probability(h, w)) for h, w in (([BEGIN], 2), ([BEGIN, 2], 4), ([2, 4], 1), ([4, 1], 1))
    ]
    assert_close(model.losses([2, 4, 1, 1]).tolist(), expected)


def test_refused_with_a_sentence():
    with pytest.raises(ValueError, match="discount is above 0 and below 1"):
        KneserNey(3, discount=1.0)
    with pytest.raises(ValueError, match="counted nothing yet"):
        KneserNey(3).probability([], 0)
    with pytest.raises(ValueError, match="nothing can be counted"):
        KneserNey(3).fit([[]])
    with pytest.raises(ValueError, match="tokens are 0 to 2; got 0 to 3"):
        KneserNey(3).fit([[0, 3]])


class TestInterpolation:
    def losses(self):
        torch.manual_seed(0)
        return torch.rand(3, 40, dtype=torch.float64) * 3 + torch.tensor([[0.0], [0.3], [0.1]])

    def test_a_mixture_is_the_mean_of_probabilities(self):
        losses = self.losses().view(3, 4, 10)
        p = (-losses).exp()
        assert_close(interpolate(losses, [0.5, 0.2, 0.3]), -(0.5 * p[0] + 0.2 * p[1] + 0.3 * p[2]).log())
        assert_close(interpolate(losses, [0.0, 1.0, 0.0]), losses[1])

    def test_no_step_makes_the_text_less_likely_and_the_end_is_the_best(self):
        losses = self.losses()
        found = [interpolate(losses, interpolation_weights(losses, steps=k)).mean().item() for k in range(1, 30)]
        assert all(after <= before + 1e-12 for before, after in zip(found, found[1:]))
        weights = interpolation_weights(losses)
        assert_close(weights.sum().item(), 1.0)
        best = interpolate(losses, weights).mean()
        for i in range(11):
            for j in range(11 - i):
                assert interpolate(losses, [i / 10, j / 10, 1 - (i + j) / 10]).mean() >= best - 1e-9

    def test_a_mixture_predicts_better_than_its_parts(self):
        """A unigram and a trigram, on text that is half made by each."""
        generator = torch.Generator().manual_seed(0)

        def texts(number):
            return [
                [(3 * t + i) % 7 if i % 2 else int(torch.randint(7, (), generator=generator)) for t in range(20)]
                for i in range(number)
            ]

        models = [KneserNey(7, order=order).fit(texts(60)) for order in (1, 3)]
        kept, test = (
            [torch.cat([model.losses(text) for text in some]) for model in models] for some in (texts(20), texts(20))
        )
        mixed = interpolate(test, interpolation_weights(kept)).mean()
        assert mixed < min(part.mean() for part in test)

    def test_refused_with_a_sentence(self):
        with pytest.raises(ValueError, match="with a sum of 1"):
            interpolate(self.losses(), [0.5, 0.5, 0.5])
        with pytest.raises(ValueError, match="all of one shape"):
            interpolation_weights([torch.ones(3), torch.ones(4)])
        with pytest.raises(ValueError, match="impossible under every model"):
            interpolation_weights([torch.tensor([1.0, torch.inf]), torch.tensor([2.0, torch.inf])])
