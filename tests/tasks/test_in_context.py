"""Learning in context: the predictors are the exact ones."""

import itertools
import math

import numpy as np
import pytest
import torch

from ostinato.registry import create
from ostinato.tasks.bernoulli import bayes, kt, lin_hazard, ptw, tree_changes
from ostinato.tasks.in_context import gradient_descent, least_squares, ridge


@pytest.fixture
def pairs():
    task = create("task:in_context_regression", length=9, dim=4, noise=0.3)
    return task.pairs(task.batch(5))


def test_ridge_is_the_posterior_mean_by_numpy(pairs):
    x, y = pairs
    found = ridge(x, y, 0.7)
    for b, n in itertools.product(range(5), range(9)):
        past, values = x[b, :n].numpy(), y[b, :n].numpy()
        weights = np.linalg.inv(past.T @ past + 0.7 * np.eye(4)) @ (past.T @ values)
        assert found[b, n].item() == pytest.approx(weights @ x[b, n].numpy(), abs=1e-10)


def test_least_squares_is_numpys(pairs):
    x, y = pairs
    found = least_squares(x, y)
    for b, n in itertools.product(range(5), range(1, 9)):
        weights = np.linalg.lstsq(x[b, :n].numpy(), y[b, :n].numpy(), rcond=None)[0]
        assert found[b, n].item() == pytest.approx(weights @ x[b, n].numpy(), abs=1e-8)


def test_a_step_of_gradient_descent_is_that_of_autograd(pairs):
    x, y = pairs
    found = gradient_descent(x, y, 0.3)
    w = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    ((x[2, :6] @ w - y[2, :6]).square().mean() / 2).backward()
    assert found[2, 6].item() == pytest.approx((-0.3 * w.grad @ x[2, 6]).item(), abs=1e-12)
    assert (found[:, 0] == 0).all()


def test_the_penalty_of_the_oracle_is_the_best():
    task = create("task:in_context_regression", length=20, dim=5, noise=0.5)
    x, y = task.pairs(task.batch(2000, split="test"))
    errors = {c: (ridge(x, y, c) - y).square().mean().item() for c in (0.1, 0.5, 1.25, 3.0, 10.0)}
    assert min(errors, key=errors.__getitem__) == 1.25  # d noise^2
    assert task.score(task.oracle(batch := task.batch(2000)), batch) > 0.5


def test_without_noise_least_squares_knows_everything_after_d_pairs():
    task = create("task:in_context_regression", length=8, dim=3, noise=0.0)
    x, y = task.pairs(task.batch(20))
    missed = (least_squares(x, y) - y).abs()
    assert missed[:, 3:].max() < 1e-3
    assert missed[:, :3].mean() > 0.2


def marginal(bits):
    """P(bits) of one source whose theta is Beta(1/2, 1/2), by gamma functions."""
    ones, zeros = sum(bits), len(bits) - sum(bits)
    return math.gamma(ones + 0.5) * math.gamma(zeros + 0.5) / math.pi / math.gamma(len(bits) + 1)


def joint(bits, hazard):
    """P(bits) by the sum over all ways to cut them into runs."""
    total = 0.0
    for changes in itertools.product((False, True), repeat=len(bits) - 1):
        cuts = [0, *(n + 1 for n, change in enumerate(changes) if change), len(bits)]
        ages = [n + 1 - max(cut for cut in cuts if cut <= n) for n in range(len(changes))]
        weight = math.prod(hazard(age) if change else 1 - hazard(age) for change, age in zip(changes, ages))
        total += weight * math.prod(marginal(bits[i:j]) for i, j in itertools.pairwise(cuts))
    return total


BITS = [1, 0, 0, 1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize("hazard", [0.0, 0.2, 1.0])
def test_bayes_is_the_sum_over_all_segmentations(hazard):
    check_conditionals(bayes(torch.tensor([BITS]), hazard)[0], lambda bits: joint(bits, lambda age: hazard))


def test_lin_is_the_sum_over_all_segmentations():
    check_conditionals(bayes(torch.tensor([BITS]), lin_hazard)[0], lambda bits: joint(bits, lin_hazard))
    assert lin_hazard(1) == 0.5  # KT for "it goes on" before anything was seen, and after one time
    assert lin_hazard(2) == 0.25


@pytest.mark.parametrize("depth", [4, 5])
def test_ptw_is_the_sum_over_all_trees(depth):
    """By the recursion that defines it, over the bits that were read: halves that are empty have probability 1."""

    def tree(bits, depth):
        if depth == 0 or not bits:
            return marginal(bits)
        half = 2 ** (depth - 1)
        return (marginal(bits) + tree(bits[:half], depth - 1) * tree(bits[half:], depth - 1)) / 2

    bits = torch.tensor([BITS, [1 - bit for bit in BITS[::-1]]])
    check_conditionals(ptw(bits, depth)[0], lambda bits: tree(bits, depth))
    torch.testing.assert_close(ptw(bits), ptw(bits, 4))
    torch.testing.assert_close(ptw(bits[1:], depth), ptw(bits, depth)[1:])
    with pytest.raises(ValueError, match="a tree of depth 3 has 8 bits; got 9"):
        ptw(bits, 3)


def check_conditionals(found, joint):
    for t in range(len(BITS)):
        exact = joint([*BITS[:t], 1]) / (joint(BITS[:t]) if t else 1)
        assert found[t].item() == pytest.approx(exact, rel=1e-10)


def test_sources_on_a_tree_change_where_its_nodes_meet():
    changes = tree_changes(4000, 13, torch.Generator().manual_seed(0)).double().mean(0)
    expected = [0, 1 / 16, 1 / 8, 1 / 16, 1 / 4, 1 / 16, 1 / 8, 1 / 16, 1 / 2, 1 / 16, 1 / 8, 1 / 16, 1 / 4]
    assert changes.tolist() == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("prior", ["lin", "ptw"])
def test_the_predictor_of_a_prior_is_the_best_for_its_sources(prior):
    task = create("task:piecewise_stationary", length=50, prior=prior)
    batch = task.batch(2000, split="test")
    bits = batch.targets
    others = {"kt": kt(bits), "lin": bayes(bits, lin_hazard), "ptw": ptw(bits), "hazard": bayes(bits, 0.05)}
    scores = {
        name: task.score(torch.stack([1 - p, p, torch.zeros_like(p)], -1).log(), batch) for name, p in others.items()
    }
    assert max(scores, key=scores.__getitem__) == prior
    assert scores[prior] == pytest.approx(1)
    assert scores["kt"] < 0.95


def test_a_prior_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match=r"prior is one of hazard, lin, ptw; got 'pwt' .did you mean ptw"):
        create("task:piecewise_stationary", prior="pwt")


def test_kt_is_bayes_without_changes():
    bits = torch.randint(2, (4, 30), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(kt(bits), bayes(bits, 0.0))
    assert kt(torch.tensor([[1, 1, 0]])).tolist() == [[0.5, 0.75, pytest.approx(5 / 6)]]


def test_nothing_is_better_than_bayes_on_average():
    task = create("task:piecewise_stationary", length=60, hazard=0.1)
    batch = task.batch(1500, split="test")

    def score(p):
        return task.score(torch.stack([1 - p, p, torch.zeros_like(p)], -1).log(), batch)

    bits = batch.targets
    assert score(torch.full(bits.shape, 0.5, dtype=torch.float64)) == pytest.approx(0, abs=1e-4)
    others = [score(kt(bits)), score(bayes(bits, 0.02)), score(bayes(bits, 0.4))]
    assert max(others) < 1 == pytest.approx(score(bayes(bits, 0.1)))


def test_sources_change_as_often_as_they_should():
    """theta has variance 1/8 (Beta(1/2, 1/2)); bits k apart have the covariance (1 - h)^k / 8."""
    bits = create("task:piecewise_stationary", length=40, hazard=0.2).batch(4000).targets.double() - 0.5
    for k in (1, 2, 4):
        assert (bits[:, k:] * bits[:, :-k]).mean().item() == pytest.approx(0.8**k / 8, abs=0.006)
