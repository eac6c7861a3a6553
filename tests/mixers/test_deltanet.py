"""DeltaNet: the equations by a loop, and what a fresh model promises."""

import pytest
import torch
from torch.nn.functional import rms_norm, silu
from torch.testing import assert_close

import ostinato


@pytest.mark.parametrize("negative", [False, True])
def test_deltanet_by_a_loop_over_the_equations(negative):
    torch.manual_seed(0)
    H, K, V, T = 2, 3, 5, 30
    mixer = ostinato.create("deltanet", dim=8, heads=H, key_dim=K, value_dim=V, negative_eigenvalues=negative).double()
    x = torch.randn(T, 8, dtype=torch.float64)
    W = mixer.project_in.weight
    projected, beta = x @ W[:-H].T, torch.sigmoid(x @ W[-H:].T) * (2 if negative else 1)
    taps = mixer.convolution.weight
    S, outputs = torch.zeros(H, K, V, dtype=torch.float64), []
    for t in range(T):
        seen = sum(taps[:, 3 - j] * projected[t - j] for j in range(min(4, t + 1)))
        q, k, v = silu(seen).split([H * K, H * K, H * V])
        q, k = (part.view(H, K) / (part.view(H, K).square().sum(-1, keepdim=True) + 1e-6).sqrt() for part in (q, k))
        o = torch.empty(H, V, dtype=torch.float64)
        for h in range(H):
            step = torch.eye(K, dtype=torch.float64) - beta[t, h] * torch.outer(k[h], k[h])
            S[h] = step @ S[h] + beta[t, h] * torch.outer(k[h], v.view(H, V)[h])
            o[h] = q[h] @ S[h] / K**0.5
        outputs.append(rms_norm(o, (V,), mixer.norm.weight, eps=1e-5).flatten() @ mixer.project_out.weight.T)
    y, state = mixer(x[None])
    assert_close(y[0], torch.stack(outputs))
    assert_close(state.S[0], S)


def test_what_is_left_in_a_fresh_model():
    """The docstring's numbers: what random tokens leave of a memory, in squared size."""
    torch.manual_seed(0)
    mixer = ostinato.create("deltanet", dim=256, heads=4)
    x = torch.randn(4, 64, 256)
    empty = mixer.initial_state(4)
    full = empty._replace(S=torch.randn_like(empty.S))
    left = []
    for tokens in (1, 16, 64):
        with torch.no_grad():
            difference = mixer(x[:, :tokens], full)[1].S - mixer(x[:, :tokens], empty)[1].S
        left.append((difference.square().sum() / full.S.square().sum()).item())
    assert left == pytest.approx([0.99, 0.84, 0.51], abs=0.02)
