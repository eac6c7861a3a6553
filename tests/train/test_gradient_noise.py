"""Noise on gradients: as much as it says, the same for the same seed, and none if none is wanted."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ostinato.train import Callback, Config, train
from ostinato.train.gradient_noise import gradient_noise, variance


def with_gradient(*shape):
    parameter = nn.Parameter(torch.zeros(*shape))
    parameter.grad = torch.full(shape, 2.0)
    return parameter


@pytest.mark.parametrize(("step", "gamma"), [(0, 0.55), (99, 0.55), (1000, 0.55), (7, 0.0)])
def test_its_variance_falls_with_the_steps(step, gamma):
    parameter = with_gradient(300, 300)
    gradient_noise([parameter], step, 0.3, gamma=gamma, generator=torch.Generator().manual_seed(step))
    noise = parameter.grad - 2
    expected = 0.3 / (1 + step) ** gamma
    assert_close(variance(step, 0.3, gamma), expected)
    assert_close(noise.var().item(), expected, rtol=0.02, atol=0)
    assert abs(noise.mean().item()) < 4 * (expected / noise.numel()) ** 0.5


def test_the_same_seed_draws_the_same():
    one, other, third = with_gradient(5), with_gradient(5), with_gradient(5)
    gradient_noise([one], 3, 1.0, generator=torch.Generator().manual_seed(1))
    gradient_noise([other], 3, 1.0, generator=torch.Generator().manual_seed(1))
    gradient_noise([third], 3, 1.0, generator=torch.Generator().manual_seed(2))
    assert (one.grad == other.grad).all()
    assert (one.grad != third.grad).all()


def test_no_noise_leaves_gradients_alone():
    parameter, without = with_gradient(4), nn.Parameter(torch.zeros(4))
    gradient_noise([parameter, without], 0, 0.0)
    assert (parameter.grad == 2).all()
    gradient_noise([without], 0, 1.0)
    assert without.grad is None
    with pytest.raises(ValueError, match="eta, gamma and step are at least 0"):
        gradient_noise([parameter], 0, -1.0)


def test_it_finds_the_way_out_of_a_bad_beginning():
    """Eight layers that begin at zero: nothing but the last bias has a gradient, and only noise makes the rest learn."""

    def loss_after(eta):
        layers = [part for _ in range(8) for part in (nn.Linear(8, 8), nn.Tanh())]
        model = nn.Sequential(*layers, nn.Linear(8, 1))
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        generator = torch.Generator().manual_seed(0)
        for step in range(400):
            x = torch.randn(64, 8, generator=generator)
            loss = (model(x)[:, 0] - x[:, 0].sign()).square().mean()
            optimizer.zero_grad()
            loss.backward()
            gradient_noise(model.parameters(), step, eta, generator=generator)
            optimizer.step()
        return loss.item()

    assert loss_after(0.0) > 0.9
    assert loss_after(1.0) < 0.2


class Stop(Callback):
    """Raises after a step, as Ctrl-C would."""

    def step(self, step):
        if step == 3:
            raise KeyboardInterrupt


def test_a_run_with_noise_that_was_stopped_ends_as_one_that_was_not(config, tmp_path, same):
    values = config(steps=5, gradient_noise=0.3)
    with pytest.raises(KeyboardInterrupt):
        train(values, tmp_path / "run", callbacks=[Stop()])
    run = train(None, tmp_path / "run")
    same(run, train(values, tmp_path / "other"))
    without = train(config(steps=5), tmp_path / "without").model().state_dict()
    assert not torch.equal(run.model().state_dict()["norm.weight"], without["norm.weight"])


def test_a_config_with_less_than_no_noise_is_refused():
    with pytest.raises(ValueError, match=r"train\.gradient_noise"):
        Config.read({"train": {"gradient_noise": -0.1}})
