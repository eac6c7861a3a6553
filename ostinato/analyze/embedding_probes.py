"""What sentence vectors know: a linear classifier for each of several tasks, on vectors that are left as they are.

    p(c | s) = softmax(W e(s) + b),   minimise over W, b   mean_n -log p(c_n | s_n) + strength |W|^2 / 2
    pair (s, t):  |e(s) - e(t)|, e(s) e(t)  in place of e(s)
    accuracy on the test, with the strength that is best on the validation

The classifier is fitted on features of unit variance, by L-BFGS, in float64. It is so simple that it can
only find what the vectors show: how well it does is said of them and not of it.

Conneau, Kiela 2018 (SentEval), https://arxiv.org/abs/1803.05449; Conneau, Kruszewski, Lample, Barrault, Baroni 2018 (probing
tasks), https://arxiv.org/abs/1805.01070; Talman, Yli-Jyrä, Tiedemann 2018, https://arxiv.org/abs/1808.08762, judge HBMP so.
Their data sets are not here: a task is whatever texts and classes it is given.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ostinato.registry import register

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
SPLITS = ("train", "valid", "test")

Encode = Callable[[Sequence[Any]], Tensor]
"""Texts, whatever they are, to their vectors (N, E); `state_features` of a model's state is one such."""


class Examples(NamedTuple):
    """Texts, or pairs of texts, and their classes.

    texts: of any kind that is encoded
    classes: one for each
    others: the second text of each pair; None where there are no pairs
    """

    texts: Sequence[Any]
    classes: Sequence[Any]
    others: Sequence[Any] | None = None


class Probed(NamedTuple):
    """How well vectors tell the classes of a task."""

    accuracy: float  # on the test
    commonest: float  # of who always says the class that is most frequent in training
    valid: float  # accuracy on the validation
    strength: float  # the penalty that was best there


class Classifier(NamedTuple):
    """Linear, one score for each class.

    weight: (E, C)
    bias: (C,)
    """

    weight: Tensor
    bias: Tensor

    def predict(self, features: Tensor) -> Tensor:
        """The class of each row: (N, E) -> (N,)."""
        return (features.to(self.weight) @ self.weight + self.bias).argmax(-1)


def fit(features: Tensor, classes: Tensor, number: int, *, strength: float, steps: int = 300) -> Classifier:
    """Logistic regression of several classes with a penalty on squared weights, on features of unit variance.

    features: (N, E)
    classes: (N,) from 0 to number - 1
    number: of classes
    strength: of the penalty
    steps: at most so many of the search for the minimum
    """
    if strength < 0 or steps < 1:
        raise ValueError(f"strength is at least 0 and steps at least 1; got {strength} and {steps}")
    x = features.detach().double()
    mean, deviation = x.mean(0), x.std(0, unbiased=False).clamp(min=1e-12)
    x = (x - mean) / deviation
    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.clone(), classes.clone()
        w = torch.zeros(x.shape[1], number, dtype=x.dtype, device=x.device, requires_grad=True)
        b = torch.zeros(number, dtype=x.dtype, device=x.device, requires_grad=True)
        search = torch.optim.LBFGS(
            [w, b], max_iter=steps, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            search.zero_grad()
            loss = cross_entropy(x @ w + b, y) + strength / 2 * w.square().sum()
            loss.backward()
            return loss

        search.step(loss)  # type: ignore[arg-type]
    weight = w.detach() / deviation[:, None]
    return Classifier(weight, b.detach() - mean @ weight)


@register("analyze:embedding_probes", paper="hbmp")
def embedding_probes(
    encode: Encode,
    tasks: Mapping[str, Mapping[str, Examples]],
    *,
    strengths: Iterable[float] = STRENGTHS,
    batch_size: int = 64,
) -> dict[str, Probed]:
    """What frozen vectors know, task by task: the accuracy of a linear classifier of them.

    encode: texts to vectors (N, E), which are not changed by this
    tasks: for each name the examples of "train", "valid" and "test"
    strengths: penalties to choose from
    batch_size: texts that are encoded at once
    """
    strengths = list(strengths)
    if not strengths:
        raise ValueError("at least one strength is tried; got none")
    return {name: _probe(encode, name, splits, strengths, batch_size) for name, splits in tasks.items()}


def _probe(
    encode: Encode, name: str, splits: Mapping[str, Examples], strengths: Sequence[float], batch_size: int
) -> Probed:
    if missing := [split for split in SPLITS if split not in splits]:
        raise ValueError(f"task {name} lacks its {missing[0]} examples; it has {', '.join(SPLITS)}")
    for split in SPLITS:
        texts, classes, others = splits[split]
        if not len(texts) == len(classes) == len(texts if others is None else others) or not len(texts):
            raise ValueError(
                f"task {name}: each text has one class, and a pair two texts; not so in its {split} examples"
            )
    names = sorted(set(splits["train"].classes))
    if len(names) < 2:
        raise ValueError(f"task {name} has at least 2 classes in training; got {len(names)}")
    if unknown := sorted({each for split in SPLITS for each in splits[split].classes} - set(names)):
        raise ValueError(f"task {name}: class {unknown[0]!r} does not occur in training")
    features = {split: _features(encode, splits[split], batch_size) for split in SPLITS}
    classes = {split: torch.tensor([names.index(each) for each in splits[split].classes]) for split in SPLITS}
    classes = {split: each.to(features[split].device) for split, each in classes.items()}

    def accuracy(classifier: Classifier, split: str) -> float:
        return (classifier.predict(features[split]) == classes[split]).double().mean().item()

    tried = [fit(features["train"], classes["train"], len(names), strength=strength) for strength in strengths]
    valid = [accuracy(classifier, "valid") for classifier in tried]
    best = max(range(len(tried)), key=lambda i: (valid[i], strengths[i]))  # of equals the simplest
    commonest = classes["train"].bincount().argmax()
    return Probed(
        accuracy(tried[best], "test"),
        (classes["test"] == commonest).double().mean().item(),
        valid[best],
        strengths[best],
    )


def _features(encode: Encode, examples: Examples, batch_size: int) -> Tensor:
    """What the classifier reads, of each text or pair."""
    first = _encoded(encode, examples.texts, batch_size)
    if examples.others is None:
        return first
    second = _encoded(encode, examples.others, batch_size)
    return torch.cat([(first - second).abs(), first * second], -1)


def _encoded(encode: Encode, texts: Sequence[Any], batch_size: int) -> Tensor:
    parts = []
    with torch.no_grad():
        for start in range(0, len(texts), batch_size):
            part = texts[start : start + batch_size]
            vectors = encode(part)
            if vectors.ndim != 2 or len(vectors) != len(part):
                raise ValueError(f"{len(part)} texts are encoded as ({len(part)}, E); got {tuple(vectors.shape)}")
            parts.append(vectors)
    return torch.cat(parts)
