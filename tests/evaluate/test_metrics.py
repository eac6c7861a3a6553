"""The pure functions, against numbers worked out by hand and against sums done one by one."""

import math

import pytest
import torch

from ostinato.evaluate.metrics import (
    add,
    bits_per_byte,
    nothing,
    perplexity,
    position_edges,
    positions,
    summary,
    sums_of,
)


def test_a_fair_coin_for_each_bit():
    """Eight coins for a token of one byte: 8 bits; of four bytes: 2 bits a byte."""
    assert bits_per_byte(10 * math.log(256), 10) == pytest.approx(8, rel=1e-15)
    assert bits_per_byte(10 * math.log(256), 40) == pytest.approx(2, rel=1e-15)
    assert perplexity(10 * math.log(256), 10) == pytest.approx(256, rel=1e-13)
    assert perplexity(1e6, 1) == math.inf


def test_positions_count_from_the_beginning_of_a_document():
    reset = torch.tensor([[0, 0, 0, 1, 0, 0, 1], [1, 0, 1, 1, 0, 0, 0], [0] * 7]).bool()
    assert positions(reset).tolist() == [[1, 2, 3, 1, 2, 3, 1], [1, 2, 1, 1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]


def test_edges_of_positions():
    assert position_edges(1) == [1]
    assert position_edges(8) == [1, 2, 4, 8]
    assert position_edges(10, (5, 10, 20)) == [1, 2, 4, 5, 8, 10]


def test_summary_by_hand():
    """Two windows with sums 3 and 5 of 2 tokens each: mean 2, and (1, -1) is what they differ from it by in all."""
    losses = torch.tensor([[1.0, 2.0, 9.0], [2.0, 3.0, 9.0]])
    sizes = torch.tensor([[1.0, 3.0, 9.0], [2.0, 2.0, 9.0]])
    counted = torch.tensor([[True, True, False]] * 2)
    result = summary(sums_of(losses, sizes, counted, torch.zeros(2, 3, dtype=torch.long), 1), 0)
    assert result == {
        "tokens": 4,
        "bytes": 8,
        "loss": 2.0,
        "standard_error": pytest.approx(math.sqrt((1 + 1) * 2) / 4),
        "bits_per_byte": pytest.approx(1 / math.log(2)),
        "perplexity": pytest.approx(math.exp(2)),
    }


def test_sums_add_up():
    generator = torch.Generator().manual_seed(0)
    losses = torch.rand(7, 11, generator=generator, dtype=torch.float64)
    sizes = torch.randint(1, 5, (7, 11), generator=generator).double()
    counted = torch.rand(7, 11, generator=generator) < 0.8
    classes = torch.randint(4, (7, 11), generator=generator)
    whole = sums_of(losses, sizes, counted, classes, 5)
    parts = [sums_of(*(a[i:j] for a in (losses, sizes, counted, classes)), 5) for i, j in [(0, 3), (3, 7)]]
    for index in range(5):
        here = counted & (classes == index)
        found, again = summary(whole, index), summary(add(add(nothing(5), parts[0]), parts[1]), index)
        assert found == pytest.approx(again)
        assert found["tokens"] == int(here.sum())
        if index < 4:
            mean = losses[here].mean()
            rest = torch.stack([(losses[w] - mean)[here[w]].sum() for w in range(7)])
            windows = int(here.any(1).sum())
            error = (rest.square().sum() * windows / (windows - 1)).sqrt() / here.sum()
            assert found["loss"] == pytest.approx(float(mean))
            assert found["bytes"] == int(sizes[here].sum())
            assert found["standard_error"] == pytest.approx(float(error))
    assert summary(whole, 4)["loss"] is None


def test_the_standard_error_is_the_spread_of_means():
    """Windows whose tokens all share a level of their own: the mean of a sample of windows strays as far as it says."""
    generator = torch.Generator().manual_seed(1)
    means, errors = [], []
    for _ in range(300):
        level = torch.randn(20, 1, generator=generator, dtype=torch.float64)
        losses = level + 0.1 * torch.randn(20, 30, generator=generator, dtype=torch.float64)
        every = torch.ones(20, 30, dtype=torch.bool)
        result = summary(sums_of(losses, losses, every, every.long() * 0, 1), 0)
        means.append(result["loss"])
        errors.append(result["standard_error"])
    spread = float(torch.tensor(means).std())
    assert sum(errors) / 300 == pytest.approx(spread, rel=0.15)


def test_what_cannot_be_known_is_none():
    one_window = sums_of(torch.ones(1, 4), torch.ones(1, 4), torch.ones(1, 4).bool(), torch.zeros(1, 4).long(), 2)
    assert summary(one_window, 0)["standard_error"] is None
    assert summary(one_window, 1) == {
        "tokens": 0,
        "bytes": 0,
        "loss": None,
        "standard_error": None,
        "bits_per_byte": None,
        "perplexity": None,
    }
    huge = sums_of(torch.full((1, 4), 1e6), torch.ones(1, 4), torch.ones(1, 4).bool(), torch.zeros(1, 4).long(), 1)
    assert summary(huge, 0)["perplexity"] is None
