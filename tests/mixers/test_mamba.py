"""Mamba against transformers and mambapy, and what a fresh one promises."""

import sys
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from ostinato import create
from tests.independent import load_peer


def same_weights(ours, theirs):
    """Ours, with the weights of theirs: transformers and mambapy call their parts alike."""
    names = {"project_in": "in_proj", "select": "x_proj", "step": "dt_proj", "project_out": "out_proj"}
    ours.load_state_dict(
        {
            "A_log": theirs.A_log,
            "D": theirs.D,
            "convolution.weight": theirs.conv1d.weight[:, 0],
            "convolution.bias": theirs.conv1d.bias,
            **{f"{name}.{part}": value for name, other in names.items()
               for part, value in getattr(theirs, other).state_dict().items()},
        }
    )  # fmt: skip
    return ours


def randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)


def outputs_and_gradients(module, x):
    y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    return y, *torch.autograd.grad(y.sin().sum(), x)


@pytest.mark.parametrize("bias", [False, True])
def test_mamba_equals_transformers(bias):
    torch.manual_seed(0)
    config = MambaConfig(hidden_size=10, state_size=5, expand=2, conv_kernel=3, time_step_rank=2, use_bias=bias)
    theirs = MambaMixer(config, layer_idx=0)
    randomise(theirs)
    ours = create("mamba", dim=10, state_size=5, conv_width=3, dt_rank=2, bias=bias)
    ours, theirs = same_weights(ours, theirs).double(), theirs.double()
    x = torch.randn(2, 50, 10).double().requires_grad_()
    # transformers passes A, B and x through float32
    assert_close(outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x), rtol=1e-5, atol=1e-6)


def test_mamba_equals_mambapy(monkeypatch):
    monkeypatch.setitem(sys.modules, "mambapy", ModuleType("mambapy"))
    monkeypatch.setitem(sys.modules, "mambapy.pscan", load_peer("mambapy/pscan.py"))
    peer = load_peer("mambapy/mamba.py")
    torch.manual_seed(0)
    theirs = peer.MambaBlock(peer.MambaConfig(d_model=10, n_layers=1, d_state=5, d_conv=3, dt_rank=2))
    randomise(theirs)
    ours = create("mamba", dim=10, state_size=5, conv_width=3, dt_rank=2)
    ours, theirs = same_weights(ours, theirs).double(), theirs.double()
    x = torch.randn(2, 50, 10).double().requires_grad_()
    # mambapy makes A in float32
    assert_close(outputs_and_gradients(ours, x), outputs_and_gradients(theirs, x), rtol=1e-5, atol=1e-6)


def test_a_fresh_mamba_steps_as_it_promises():
    """Without input, state n decays by exp(-n dt), dt between dt_min and dt_max and spread evenly in logarithms."""
    torch.manual_seed(0)
    mixer = create("mamba", dim=512, state_size=4)
    before = mixer.initial_state(1)._replace(h=torch.ones(1, 1024, 4))
    _, after = mixer(torch.zeros(1, 1, 512), before)
    dt = -after.h[0].log() / torch.arange(1.0, 5)
    assert_close(dt, dt[:, :1].expand(-1, 4), rtol=1e-3, atol=0)
    assert dt.min() > 0.99e-3
    assert dt.max() < 1.01e-1
    assert dt.log10().mean().item() == pytest.approx(-2, abs=0.06)


def test_mamba_selects():
    """The step size depends on the token: the same past is kept or forgotten."""
    torch.manual_seed(0)
    mixer = create("mamba", dim=16)
    with torch.no_grad():
        mixer.step.weight.mul_(100)
    before = mixer.initial_state(1)._replace(h=torch.ones(1, 32, 16))
    kept = [mixer(x, before)[1].h - mixer(x)[1].h for x in 3 * torch.randn(2, 1, 1, 16)]
    assert (kept[0] - kept[1]).abs().max() > 0.1


@pytest.mark.parametrize("wrong", [dict(expansion=0.0), dict(state_size=0)])
def test_mamba_refuses_nothing(wrong):
    with pytest.raises(ValueError, match="leave nothing"):
        create("mamba", dim=8, **wrong)
