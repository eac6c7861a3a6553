"""Shares of variance: those of a closed form, of a table, and of brute force."""

import sys
from itertools import product

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from ostinato.analyze.fanova import _leaves, _variances, fanova


def test_a_complete_table_is_accounted_for_exactly():
    """f(a, b, c) = 3 a + a b, on middles of cells: sums by hand; thresholds of scikit-learn are float32."""
    a, b, c = ((np.arange(n) + 0.5) / n for n in (4, 5, 2))
    x = np.array(list(product(a, b, c)))
    y = 3 * x[:, 0] + x[:, 0] * x[:, 1]
    found = fanova(x, y, ["a", "b", "c"], trees=3, bootstrap=False)
    va, vb = ((n**2 - 1) / (12 * n**2) for n in (4, 5))  # of n middles of cells, whose mean is 1 / 2
    single_a, single_b, together = 3.5**2 * va, 0.5**2 * vb, va * vb
    total = single_a + single_b + together
    assert found.variance == pytest.approx(total, rel=1e-6)
    assert found.single["a"].mean == pytest.approx(single_a / total, rel=1e-6)
    assert found.single["b"].mean == pytest.approx(single_b / total, rel=1e-6)
    assert found.single["c"].mean == pytest.approx(0, abs=1e-6)
    assert found.pairs["a", "b"].mean == pytest.approx(together / total, rel=1e-5)
    assert max(found.pairs["a", "c"].mean, found.pairs["b", "c"].mean) < 1e-6
    shares = [share.mean for share in (*found.single.values(), *found.pairs.values())]
    assert sum(shares) == pytest.approx(1, rel=1e-6)


def test_planted_variances_are_found_among_random_trials():
    """f(a, b, c) = 3 a^2 + b + 2 a b: V_a = 83 / 60, V_b = 1 / 3, V_ab = 1 / 36, by integration."""
    x = np.random.default_rng(0).random((2000, 3))
    found = fanova(x, 3 * x[:, 0] ** 2 + x[:, 1] + 2 * x[:, 0] * x[:, 1], trees=8)
    total = 83 / 60 + 1 / 3 + 1 / 36
    assert found.variance == pytest.approx(total, rel=0.05)
    assert found.single["x0"].mean == pytest.approx(83 / 60 / total, abs=0.02)
    assert found.single["x1"].mean == pytest.approx(1 / 3 / total, abs=0.02)
    assert found.pairs["x0", "x1"].mean == pytest.approx(1 / 36 / total, abs=0.01)
    assert max(found.single["x2"].mean, found.pairs["x0", "x2"].mean, found.pairs["x1", "x2"].mean) < 0.002
    assert sum(share.mean for share in (*found.single.values(), *found.pairs.values())) <= 1
    assert 0 < found.single["x0"].deviation < 0.05


def test_a_tree_agrees_with_brute_force():
    """Means over a fine grid, in place of sums over leaves."""
    random = np.random.default_rng(1)
    x = np.round(random.random((30, 3)), 1)  # so that thresholds are multiples of 0.05
    tree = RandomForestRegressor(1, max_depth=5, random_state=0).fit(x, random.normal(size=30)).estimators_[0]
    total, parts = _variances(*_leaves(tree.tree_, 3))
    middles = (np.arange(20) + 0.5) / 20
    f = tree.predict(np.array(list(product(middles, repeat=3)))).reshape(20, 20, 20)
    f = f - f.mean()
    assert total == pytest.approx((f**2).mean(), rel=1e-5)
    for j in range(3):
        assert parts[j,] == pytest.approx((f.mean(tuple({0, 1, 2} - {j})) ** 2).mean(), rel=1e-5, abs=1e-12)
    for j, k in ((0, 1), (0, 2), (1, 2)):
        together = (f.mean(tuple({0, 1, 2} - {j, k})) ** 2).mean() - parts[j,] - parts[k,]
        assert parts[j, k] == pytest.approx(together, rel=1e-5, abs=1e-12)


def test_where_nothing_matters_nothing_is_shared_out():
    found = fanova(np.random.default_rng(0).random((9, 2)), np.ones(9))
    assert found.variance == 0
    assert {share.mean for share in found.single.values()} == {0.0}


@pytest.mark.parametrize(
    ("x", "y", "names", "message"),
    [
        ([[0.1], [0.2]], [1.0], None, "y \\(trials,\\); got \\(2, 1\\) and \\(1,\\)"),
        ([[0.1], [1.2]], [1.0, 2.0], None, "numbers from 0 to 1"),
        ([[0.1], [0.2]], [1.0, float("nan")], None, "scores are finite"),
        ([[0.1], [0.2]], [1.0, 2.0], ["a", "b"], "a different name for each of the 1 settings"),
    ],
    ids=str,
)
def test_what_is_no_account_of_trials_is_refused(x, y, names, message):
    with pytest.raises(ValueError, match=message):
        fanova(x, y, names)


def test_without_its_library_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(ValueError, match=r"pip install 'ostinato\[analyze\]'"):
        fanova([[0.1], [0.2]], [1.0, 2.0])
