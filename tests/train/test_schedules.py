"""Learning rates against their closed forms, and the groups that they are applied to."""

import math

import pytest
import torch
from torch import nn

from ostinato.train import Config
from ostinato.train.optimizers import make_optimizers, parameter_groups, set_learning_rate
from ostinato.train.schedules import SCHEDULES, factor


def course(name, steps=11, warmup=2, decay=0.4, final=0.1):
    return [factor(name, step, steps, warmup, decay, final) for step in range(steps)]


def test_cosine():
    expected = [0.5, 1.0, *(0.1 + 0.45 * (1 + math.cos(math.pi * i / 8)) for i in range(9))]
    assert course("cosine") == pytest.approx(expected)


def test_warmup_stable_decay():
    expected = [0.5, *[1.0] * 6, *(0.1 + 0.9 * (1 - math.sqrt(i / 4)) for i in (1, 2, 3, 4))]
    assert course("wsd") == pytest.approx(expected)
    assert course("wsd", warmup=9, decay=1.0)[8:] == pytest.approx([1.0, 0.1 + 0.9 * (1 - 0.5**0.5), 0.1])


def test_noam():
    assert course("noam", warmup=4) == pytest.approx([0.25, 0.5, 0.75, *(math.sqrt(4 / n) for n in range(4, 12))])


def test_constant():
    assert course("constant") == [0.5, *[1.0] * 10]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 1), (2, 0), (5, 5), (100, 7)])
def test_every_factor_is_a_factor(name, steps, warmup):
    rates = course(name, steps, warmup)
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) == 1 or (steps, warmup) in {(1, 0), (2, 0)}  # the last step of a short run is the lowest
    assert rates[warmup:] == sorted(rates[warmup:], reverse=True)


class Odd(nn.Module):
    """One parameter of each kind."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(5, 4)
        self.linear = nn.Linear(4, 4)
        self.decay = nn.Linear(4, 4, bias=False)
        self.decay.weight._no_weight_decay = True
        self.convolution = nn.Conv1d(4, 4, 3)
        self.rates = nn.Parameter(torch.ones(4, 3))
        self.frozen = nn.Parameter(torch.ones(4, 3), requires_grad=False)
        self.norm = nn.RMSNorm(4)
        self.head = nn.Linear(4, 5, bias=False)


def names(groups):
    return {group: [name for name, _ in pairs] for group, pairs in groups.items()}


def test_groups():
    model = Odd()
    assert names(parameter_groups(model)) == {
        "matrices": ["linear.weight"],
        "decayed": ["rates", "convolution.weight", "head.weight"],
        "plain": ["embedding.weight", "linear.bias", "decay.weight", "convolution.bias", "norm.weight"],
    }
    model.head.weight = model.embedding.weight
    assert names(parameter_groups(model))["decayed"] == ["rates", "convolution.weight"]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_optimizers_have_every_parameter_once(name):
    model = Odd()
    optimizers = make_optimizers(model, Config.read({"train": {"optimizer": name, "weight_decay": 0.3}}).train)
    assert list(optimizers) == (["muon", "adamw"] if name == "muon" else ["adamw"])
    groups = [group for optimizer in optimizers.values() for group in optimizer.param_groups]
    held = [parameter for group in groups for parameter in group["params"]]
    assert len(held) == len({id(each) for each in held}) == sum(each.requires_grad for each in model.parameters())
    decayed = {each for group in groups if group["weight_decay"] for each in group["param_names"]}
    assert decayed == {"linear.weight", "rates", "convolution.weight", "head.weight"}
    set_learning_rate(optimizers, 0.125)
    assert {group["lr"] for group in groups} == {0.125}
