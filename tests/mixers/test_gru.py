"""The GRU against torch's, and the form of 2014 against a step written out."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ostinato.registry import create


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gru_equals_torch_gru(dtype):
    """Outputs, the state, and the gradients of weights and of the state before."""
    torch.manual_seed(0)
    peer = nn.GRU(6, 6, batch_first=True, dtype=dtype)
    mixer = create("gru", dim=6).to(dtype)
    bias, later = peer.bias_ih_l0.detach(), peer.bias_hh_l0.detach()
    with torch.no_grad():
        mixer.project_in.weight.copy_(peer.weight_ih_l0)
        mixer.project_in.bias.copy_(bias + torch.cat([later[:12], torch.zeros(6, dtype=dtype)]))
        mixer.recurrent.copy_(peer.weight_hh_l0.T)
        mixer.recurrent_bias.copy_(later[12:])
    x = torch.randn(3, 25, 6, dtype=dtype)
    h = torch.randn(3, 1, 6, dtype=dtype, requires_grad=True)
    y, state = mixer(x, type(mixer.initial_state(1))(h))
    expected, h_n = peer(x, h.transpose(0, 1))
    assert_close((y, state.h), (expected, h_n.transpose(0, 1)))
    found = torch.autograd.grad(y.sin().sum(), [h, mixer.recurrent, mixer.project_in.weight, mixer.recurrent_bias])
    wanted = torch.autograd.grad(expected.sin().sum(), [h, peer.weight_hh_l0, peer.weight_ih_l0, peer.bias_hh_l0])
    tolerance = dict(rtol=1e-4, atol=1e-5) if dtype == torch.float32 else {}
    assert_close(found, (wanted[0], wanted[1].T[None], wanted[2], wanted[3][None, 12:]), **tolerance)


def test_reset_before_equals_the_equations_of_2014():
    torch.manual_seed(0)
    mixer = create("gru", dim=5, hidden=7, reset_before=True).double()
    x = torch.randn(1, 20, 5, dtype=torch.float64)
    W_r, W_z, W_n = mixer.project_in.weight.chunk(3)
    b_r, b_z, b_n = mixer.project_in.bias.chunk(3)
    U_r, U_z, U_n = (part.T for part in mixer.recurrent[0].chunk(3, -1))
    h, expected = torch.zeros(7, dtype=torch.float64), []
    for x_t in x[0]:
        r = (W_r @ x_t + U_r @ h + b_r).sigmoid()
        z = (W_z @ x_t + U_z @ h + b_z).sigmoid()
        h = z * h + (1 - z) * (W_n @ x_t + U_n @ (r * h) + b_n).tanh()
        expected.append(mixer.project_out.weight @ h)
    y, state = mixer(x)
    assert_close(y[0], torch.stack(expected))
    assert_close(state.h.flatten(), h)
    assert "recurrent_bias" not in dict(mixer.named_parameters())


def test_a_gru_has_three_quarters_of_the_recurrent_weights_of_an_lstm():
    count = {name: create(name, dim=8).recurrent.numel() for name in ("gru", "lstm")}
    assert count["gru"] * 4 == count["lstm"] * 3


def test_heads_share_the_width_evenly():
    with pytest.raises(ValueError, match="hidden is shared evenly by the heads; 10 is no multiple of heads=3"):
        create("gru", dim=8, hidden=10, heads=3)
