"""Functional analysis of variance: how much of what a model scores is due to each of its settings, and to pairs of them.

    f(x) = f_0 + sum_j f_j(x_j) + sum_jk f_jk(x_j, x_k) + ...,     V_U = integral of f_U^2,     share of U = V_U / sum_U V_U

with x uniform over the unit cube, f_0 the mean of f, f_j(x_j) = mean of f where x_j is given, minus f_0, and so on. f is a
regression forest over the trials: constant on the box of each leaf, so that these means are sums over leaves, without error:

    f_U(x_U) + lower terms = sum over leaves of value * [x_U in the sides U of the leaf] * volume of its other sides

Hutter, Hoos, Leyton-Brown 2014, "An Efficient Approach for Assessing Hyperparameter Importance", ICML. It ranks the settings of
5400 LSTMs in Greff, Srivastava, Koutník, Steunebrink, Schmidhuber 2015, https://arxiv.org/abs/1503.04069.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from ostinato.registry import register


class Share(NamedTuple):
    """A part of the variance: its mean over the trees of a forest, and how much they differ."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class Importance:
    """What share of the variance is due to what.

    single: for each setting, the share of its own effect
    pairs: for each two settings, the share of what they do together and neither does alone
    variance: of what the forest predicts, in the square of the unit of the scores
    """

    single: dict[str, Share]
    pairs: dict[tuple[str, str], Share]
    variance: float


@register("analyze:fanova", paper="lstm_odyssey")
def fanova(
    x: Any, y: Any, names: Sequence[str] | None = None, *, trees: int = 64, bootstrap: bool = True, seed: int = 0
) -> Importance:
    """How much of the variance of scores is due to each setting, and to each pair of them.

    x: (n, d) settings of n trials, each as a number from 0 to 1 that is uniform in the space that was searched
    y: (n,) their scores
    names: of the d settings
    trees: how many the forest has
    bootstrap: whether each tree learns from trials drawn with repetition; False for an exact account of a complete table
    seed: of the forest
    """
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError:
        raise ValueError("fanova needs scikit-learn: pip install 'ostinato[analyze]'") from None
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.shape != x.shape[:1] or len(x) < 2 or not x.shape[1]:
        raise ValueError(f"x is (trials, settings) with at least 2 trials, y (trials,); got {x.shape} and {y.shape}")
    if not (np.isfinite(y).all() and (x >= 0).all() and (x <= 1).all()):
        raise ValueError("settings are numbers from 0 to 1 and scores are finite; leave trials out that failed")
    names = [f"x{j}" for j in range(x.shape[1])] if names is None else list(names)
    if len(names) != x.shape[1] or len(set(names)) < len(names):
        raise ValueError(f"names has a different name for each of the {x.shape[1]} settings; got {names}")
    forest = RandomForestRegressor(trees, bootstrap=bootstrap, random_state=seed).fit(x, y)
    found = [_variances(*_leaves(tree.tree_, x.shape[1])) for tree in forest.estimators_]
    found = [(total, parts) for total, parts in found if total > 0]
    parts = [*((j,) for j in range(x.shape[1])), *combinations(range(x.shape[1]), 2)]
    shares = {part: Share(0.0, 0.0) for part in parts}
    for part in parts if found else ():
        each = [variances[part] / total for total, variances in found]
        shares[part] = Share(float(np.mean(each)), float(np.std(each)))
    return Importance(
        {name: shares[(j,)] for j, name in enumerate(names)},
        {(names[j], names[k]): shares[j, k] for j, k in combinations(range(len(names)), 2)},
        float(np.mean([total for total, _ in found])) if found else 0.0,
    )


def _leaves(tree: Any, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The boxes (leaves, d, 2) of a tree's leaves, which fill the unit cube, and their values (leaves,)."""
    boxes, values = [], []
    waiting = [(0, np.tile([0.0, 1.0], (width, 1)))]
    while waiting:
        node, box = waiting.pop()
        left, right, j = tree.children_left[node], tree.children_right[node], tree.feature[node]
        if left == right:
            boxes.append(box)
            values.append(tree.value[node].item())
            continue
        for child, side in ((left, 1), (right, 0)):
            part = box.copy()
            part[j, side] = tree.threshold[node]
            waiting.append((child, part))
    return np.array(boxes), np.array(values)


def _variances(boxes: np.ndarray, values: np.ndarray) -> tuple[float, dict[tuple[int, ...], float]]:
    """The variance of a tree over the unit cube, and the parts of it that are due to one side and to two."""
    sides = boxes[..., 1] - boxes[..., 0]
    volumes = sides.prod(1)
    values = values - volumes @ values
    width = boxes.shape[1]
    inside, lengths = [], []
    for j in range(width):
        edges = np.unique(boxes[:, j])
        middles = (edges[1:] + edges[:-1]) / 2
        inside.append(((boxes[:, j, 0] < middles[:, None]) & (middles[:, None] < boxes[:, j, 1])).astype(float))
        lengths.append(np.diff(edges))
    parts: dict[tuple[int, ...], float] = {}
    for j in range(width):
        mean = inside[j] @ (values * np.delete(sides, j, 1).prod(1))
        parts[j,] = float(lengths[j] @ mean**2)
    for j, k in combinations(range(width), 2):
        mean = (inside[j] * (values * np.delete(sides, (j, k), 1).prod(1))) @ inside[k].T
        together = float(lengths[j] @ mean**2 @ lengths[k]) - parts[j,] - parts[k,]
        parts[j, k] = max(0.0, together)  # what is left where they do nothing together is rounding
    return float(volumes @ values**2), parts
