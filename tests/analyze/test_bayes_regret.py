"""Regret is 0 for exact Bayes and what the losses say for others."""

import pytest
import torch
from torch import nn

from ostinato.analyze.bayes_regret import bayes_regret, log_likelihood, regret
from ostinato.models.language_model import LanguageModel
from ostinato.registry import create
from ostinato.tasks.bernoulli import bayes, kt, ptw


class Says(nn.Module):
    """A model that gives 1 the probability that a predictor of bits gives it, and 2 none."""

    def __init__(self, predict):
        super().__init__()
        self.predict = predict

    def forward(self, inputs):
        bits = torch.cat([inputs[:, 1:], torch.zeros_like(inputs[:, :1])], 1)
        p = self.predict(bits)  # at t from the bits before t
        return torch.stack([1 - p, p, torch.zeros_like(p)], -1).log(), None


def test_the_exact_predictor_has_none_and_others_have_more_and_more():
    task = create("task:piecewise_stationary", length=40, prior="ptw")
    assert bayes_regret(Says(ptw), task).abs().max() < 1e-10
    others = bayes_regret(Says(kt), task), bayes_regret(Says(lambda bits: bayes(bits, 0.3)), task)
    for found in others:
        assert found.shape == (40,)
        assert found[0].abs() < 1e-12  # everybody begins with 1/2
        assert 0 < found[9] < found[19] < found[39]


def test_it_is_the_difference_of_the_losses():
    task = create("task:piecewise_stationary", length=30, hazard=0.1)
    torch.manual_seed(0)
    model = LanguageModel(3, 8, layers=1, pattern=["gru"])
    batch = task.batch(200, split="test")
    with torch.no_grad():
        loss = task.loss(model(batch.inputs)[0], batch) - task.loss(task.oracle(batch), batch)
    assert bayes_regret(model, task, problems=200)[-1].item() == pytest.approx(30 * loss.item(), rel=1e-4)
    assert model.training


def test_by_hand():
    bits = torch.tensor([[1, 0]])
    said, exact = (log_likelihood(torch.tensor([p]), bits) for p in ([0.5, 0.25], [0.5, 0.5]))
    assert regret(said, exact).tolist() == pytest.approx([0, -0.405465], abs=1e-6)  # log(2 / 3): it guessed better here
