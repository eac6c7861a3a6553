"""Filters against transformers', the sampler against the probabilities that it is to draw with."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.generate import Sampler, sampling
from ostinato.generate.sampling import FILTERS, uniform


def logits_of(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def allowed(sampler, logits, draws=300):
    """The tokens that come up at all."""
    return {int(sampler(logits, draw)) for draw in range(draws)}


@pytest.mark.parametrize(
    ("name", "value", "peer"),
    [
        ("temperature", 0.7, "TemperatureLogitsWarper"),
        ("temperature", 3.0, "TemperatureLogitsWarper"),
        ("top_k", 1, "TopKLogitsWarper"),
        ("top_k", 7, "TopKLogitsWarper"),
        ("top_k", 1000, "TopKLogitsWarper"),
        ("top_p", 1e-6, "TopPLogitsWarper"),
        ("top_p", 0.35, "TopPLogitsWarper"),
        ("top_p", 0.999, "TopPLogitsWarper"),
        ("top_p", 1.0, "TopPLogitsWarper"),
        ("min_p", 0.0, "MinPLogitsWarper"),
        ("min_p", 0.07, "MinPLogitsWarper"),
        ("min_p", 1.0, "MinPLogitsWarper"),
    ],
)
def test_filter_equals_transformers(name, value, peer):
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = 2 * torch.randn(9, 53, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = getattr(warpers, peer)(value)(None, logits.clone())
    assert_close(FILTERS[name](logits, value), expected, rtol=0, atol=0)


def test_all_filters_together_equal_transformers():
    warpers = pytest.importorskip("transformers.generation.logits_process")
    logits = expected = 2 * torch.randn(9, 53, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for peer, value in [("Temperature", 1.3), ("TopK", 20), ("TopP", 0.8), ("MinP", 0.1)]:
        expected = getattr(warpers, f"{peer}LogitsWarper")(value)(None, expected)
    sampler = Sampler(temperature=1.3, top_k=20, top_p=0.8, min_p=0.1)
    for row in range(9):
        kept = set(expected[row].isfinite().nonzero()[:, 0].tolist())
        assert 1 < len(kept) < 20
        assert allowed(sampler, logits[row : row + 1], 600) == kept


def test_filters_by_hand():
    logits = logits_of(0.1, 0.4, 0.2, 0.3)
    assert allowed(Sampler(top_k=2), logits) == {1, 3}
    assert allowed(Sampler(top_p=0.69), logits) == {1, 3}
    assert allowed(Sampler(top_p=0.71), logits) == {1, 2, 3}
    assert allowed(Sampler(min_p=0.49), logits) == {1, 2, 3}
    assert allowed(Sampler(min_p=0.51), logits) == {1, 3}
    assert allowed(Sampler(), logits) == {0, 1, 2, 3}


def test_tokens_come_as_often_as_the_model_predicts():
    probability = [0.1, 0.4, 0.0, 0.2, 0.3]
    sampler, n = Sampler(seed=7), 4000
    drawn = torch.cat([sampler(logits_of(*probability), draw) for draw in range(n)])
    found = drawn.bincount(minlength=5) / n
    for p, q in zip(probability, found.tolist(), strict=True):
        assert abs(p - q) <= 4 * (p * (1 - p) / n) ** 0.5


def test_rows_are_as_random_as_draws():
    drawn = Sampler(seed=3)(torch.zeros(4000, 4), 0)
    assert all(abs(count - 1000) < 4 * (4000 * 0.25 * 0.75) ** 0.5 for count in drawn.bincount(minlength=4).tolist())


def test_temperature_zero_takes_the_likeliest():
    logits = torch.randn(5, 31, generator=torch.Generator().manual_seed(2))
    assert Sampler(temperature=0)(logits, 4).tolist() == logits.argmax(-1).tolist()


@pytest.mark.parametrize("temperature", [1e-308, 1e-6])
def test_almost_no_temperature_is_none(temperature):
    logits = 1e4 * torch.randn(5, 31, generator=torch.Generator().manual_seed(2))
    assert Sampler(temperature=temperature)(logits, 4).tolist() == logits.argmax(-1).tolist()


def test_a_draw_is_a_function_of_seed_and_number():
    logits = torch.randn(1, 200, generator=torch.Generator().manual_seed(4))
    first = [int(Sampler(seed=5)(logits, draw)) for draw in range(20)]
    torch.manual_seed(99)
    assert [int(Sampler(seed=5)(logits, draw)) for draw in range(20)] == first
    assert [int(Sampler(seed=6)(logits, draw)) for draw in range(20)] != first
    assert len(set(first)) > 1


def test_a_draw_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    Sampler(seed=5)(torch.zeros(2, 9), 0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_row_of_a_batch_draws_as_a_row_alone_with_its_seed():
    logits = torch.randn(4, 200, generator=torch.Generator().manual_seed(5))
    together = Sampler(seed=10)(logits, 3).tolist()
    assert together == [int(Sampler(seed=10 + row)(logits[row : row + 1], 3)) for row in range(4)]


@pytest.mark.parametrize(("u", "token"), [(0.0, 1), (0.4, 1), (0.5, 3), (1 - 2**-53, 3)])
def test_the_ends_of_the_interval_fall_on_tokens_with_probability(u, token, monkeypatch):
    monkeypatch.setattr(sampling, "uniform", lambda seed, draw: u)
    assert int(Sampler()(logits_of(0.0, 0.45, 0.0, 0.55, 0.0), 0)) == token


def test_uniform_numbers_stay_below_one():
    numbers = [uniform(seed, draw) for seed in range(40) for draw in range(40)]
    assert min(numbers) >= 0
    assert max(numbers) < 1
    assert len(set(numbers)) == len(numbers)
    assert uniform(2**63 - 1, 2**40) < 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("top_k", 0),
        ("top_k", 2.5),
        ("top_k", True),
        ("top_p", 0),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("seed", -1),
        ("seed", 1.5),
        ("seed", 2**63),
    ],
)
def test_what_no_sampler_can_do_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} is .*; got {value!r}"):
        Sampler(**{name: value})


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(wrong):
    with pytest.raises(ValueError, match="NaN or infinite"):
        Sampler()(torch.tensor([[0.0, wrong]]), 0)
