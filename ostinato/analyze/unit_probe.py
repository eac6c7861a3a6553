"""Which number of a state knows something: a classifier that may look at few of them.

    s_n = a tensor of the state after text n,   p(y_n = 1) = σ(w^T s_n + b)
    minimise  mean_n -log p(y_n) + strength |w|_1                 over w and b; most of w is then exactly 0

The largest |w_i|, times how much s_i varies, is the unit: its values alone classify, by a threshold between the two classes.
The minimum is found by proximal gradient descent with momentum (Beck, Teboulle 2009, FISTA, doi 10.1137/080716542), on
numbers of unit variance.

Radford, Jozefowicz, Sutskever 2017, https://arxiv.org/abs/1704.01444: in the cell of an LSTM that predicts bytes of reviews, one
unit knows whether they are favourable.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ostinato.contract import SequenceModule
from ostinato.models.modes import undisturbed
from ostinato.registry import did_you_mean, register
from ostinato.state import State, named_leaves


class Probe(NamedTuple):
    """A classifier of states.

    weight: of each number, (F,)
    bias: one number
    unit: the number that it looks at most
    threshold: of that unit alone, half-way between its means in the two classes
    sign: 1 where the unit is larger in class 1, -1 where it is smaller
    means: of the unit in class 0 and in class 1
    """

    weight: Tensor
    bias: Tensor
    unit: int
    threshold: float
    sign: int
    means: tuple[float, float]

    def predict(self, features: Tensor) -> Tensor:
        """The class of each row by all weights, (N, F) -> (N,) bool."""
        return features.to(self.weight.dtype) @ self.weight + self.bias > 0

    def predict_by_unit(self, features: Tensor) -> Tensor:
        """The class of each row by the unit alone, (N, F) -> (N,) bool."""
        return self.sign * (features[:, self.unit] - self.threshold) > 0

    @property
    def used(self) -> int:
        """How many numbers it looks at."""
        return int((self.weight != 0).sum())


def leaf_of(state: State, name: str) -> Tensor:
    """The tensor of a state with that name, such as stack.layers.0.mixer.c."""
    found = dict(named_leaves(state))
    if name not in found:
        raise ValueError(f"the state has no {name!r}{did_you_mean(name, found)}; it has {', '.join(found)}")
    return found[name]


def state_features(
    model: SequenceModule,
    texts: Sequence[Tensor | Sequence[int]],
    leaf: str,
    *,
    squash: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """A tensor of the state after each text, flat: (N, F).

    model: a causal model that reads tokens
    texts: tokens of each, of any lengths
    leaf: name of the tensor: the names of `ostinato.state.named_leaves`
    squash: applied to it, as torch.tanh
    """
    if not texts or any(len(text) == 0 for text in texts):
        raise ValueError("features are those of at least one text, of at least one token each")
    rows = [torch.as_tensor(text)[None] for text in texts]
    device, found = next(model.parameters()).device, []
    for row in rows:
        with undisturbed(model):
            _, state = model(row.to(device))
        assert state is not None
        found.append(leaf_of(state, leaf).flatten(1).clone())
    features = torch.cat(found)
    return features if squash is None else squash(features)


@register("analyze:unit_probe", paper="sentiment_neuron")
def unit_probe(features: Tensor, labels: Tensor, *, strength: float = 0.01, steps: int = 2000) -> Probe:
    """Logistic regression with an L1 penalty on features, and the one number that it looks at most.

    features: (N, F)
    labels: (N,) 0 or 1, both of them there
    strength: of the penalty, on features of unit variance; larger looks at fewer numbers
    steps: at most so many of the search for the minimum
    """
    labels = torch.as_tensor(labels).to(features.device)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features are (N, F) and labels (N,); got {tuple(features.shape)} and {tuple(labels.shape)}")
    y = labels.double()
    if sorted(set(y.tolist())) != [0.0, 1.0]:
        raise ValueError("labels are 0 or 1, and both are there")
    if strength < 0 or steps < 1:
        raise ValueError(f"strength is at least 0 and steps at least 1; got {strength} and {steps}")
    x = features.double()
    mean, deviation = x.mean(0), x.std(0, unbiased=False)
    x = (x - mean) / deviation.clamp(min=1e-12)
    w, b = _minimum(x, y, strength, steps)
    unit = int(w.abs().argmax())
    weight = w / deviation.clamp(min=1e-12)
    means = tuple(float(features[labels == value, unit].double().mean()) for value in (0, 1))
    return Probe(
        weight,
        b - weight @ mean,
        unit,
        (means[0] + means[1]) / 2,
        1 if means[1] >= means[0] else -1,
        (means[0], means[1]),
    )


def _minimum(x: Tensor, y: Tensor, strength: float, steps: int) -> tuple[Tensor, Tensor]:
    """w and b where the penalised loss is smallest, in float64."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    # the curvature of the loss is at most a quarter of the largest eigenvalue of x^T x / N
    step = 4 * len(x) / float(torch.linalg.matrix_norm(x, 2)) ** 2
    free = torch.ones_like(x[0])
    free[-1] = 0  # nothing pulls the bias
    v = before = torch.zeros_like(x[0])
    t = 1.0
    for _ in range(steps):
        gradient = x.T @ ((x @ v).sigmoid() - y) / len(x)
        u = v - step * gradient
        u = u.sign() * (u.abs() - step * strength * free).clamp(min=0)
        if float((u - before).abs().max()) < 1e-10 and t > 1:
            break
        after = (1 + (1 + 4 * t * t) ** 0.5) / 2
        momentum = (t - 1) / after
        # momentum that goes uphill is let go (O'Donoghue, Candès 2012)
        if float((v - u) @ (u - before)) > 0:
            after, momentum = 1.0, 0.0
        v, before, t = u + momentum * (u - before), u, after
    return before[:-1], before[-1]


def penalised_loss(probe: Probe, features: Tensor, labels: Tensor, strength: float) -> Tensor:
    """What the probe makes smallest, on the features that it was made of."""
    logits = features.double() @ probe.weight + probe.bias
    deviation = features.double().std(0, unbiased=False)
    return binary_cross_entropy_with_logits(logits, labels.double()) + strength * (probe.weight * deviation).abs().sum()
