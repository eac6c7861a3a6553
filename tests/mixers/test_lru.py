"""The linear recurrent unit against a naive loop; the ring and the variance of a fresh one."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from ostinato import create
from ostinato.layers.ssm import ring


def test_lru_equals_a_naive_complex_loop():
    torch.manual_seed(0)
    mixer = create("lru", dim=6, state_size=5, min_radius=0.3, max_radius=0.99).double()
    x = torch.randn(2, 80, 6).double()
    weights = {name: value.numpy() for name, value in mixer.state_dict().items()}
    eigenvalues = np.exp(-np.exp(weights["nu"]) + 1j * np.exp(weights["theta"]))
    B = weights["project_in.weight"][:5] + 1j * weights["project_in.weight"][5:]
    C = weights["project_out.weight"][:, :5] - 1j * weights["project_out.weight"][:, 5:]
    h, outputs = np.zeros((2, 5), dtype=np.complex128), []
    for x_t in x.numpy().swapaxes(0, 1):
        h = eigenvalues * h + np.exp(weights["gamma"]) * (x_t @ B.T)
        outputs.append((h @ C.T).real + weights["D"] * x_t)
    y, state = mixer(x)
    assert_close(y, torch.as_tensor(np.stack(outputs, 1)), rtol=1e-8, atol=1e-8)
    assert_close(torch.view_as_complex(state.h), torch.as_tensor(h), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("low", "high", "max_phase"), [(0.0, 1.0, 6.28), (0.9, 0.999, 0.3)])
def test_eigenvalues_of_a_fresh_lru_fill_the_ring(low, high, max_phase):
    """Uniform on the area: half of the eigenvalues lie within the radius that halves it."""
    torch.manual_seed(0)
    mixer = create("lru", dim=4, state_size=4000, min_radius=low, max_radius=high, max_phase=max_phase)
    radius, phase = (-mixer.nu.exp()).exp(), mixer.theta.exp()
    assert radius.min() >= low - 1e-6
    assert radius.max() <= high + 1e-6
    middle = math.sqrt((low**2 + high**2) / 2)
    assert (radius < middle).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert phase.min() > 0
    assert phase.max() <= max_phase + 1e-6
    assert phase.mean().item() == pytest.approx(max_phase / 2, rel=0.05)


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.5), (0.9, 0.98)])
def test_states_of_a_fresh_lru_have_unit_variance(low, high):
    """White input of unit variance, once the beginning is forgotten."""
    torch.manual_seed(0)
    mixer = create("lru", dim=32, state_size=64, min_radius=low, max_radius=high)
    _, state = mixer(torch.randn(400, 300, 32))
    assert state.h.square().sum(-1).mean().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((4, 0.9, 0.5, 1.0), "smaller radius first"), ((4, 0.5, 1.1, 1.0), "unit circle"), ((4, 0, 1, 0), "an angle")],
)
def test_ring_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        ring(*arguments)
