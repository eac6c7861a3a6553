"""The LSTM against torch's, and what a fresh one keeps."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ostinato.registry import create


def twins(dim, hidden, dtype=torch.float64):
    torch.manual_seed(0)
    peer = nn.LSTM(dim, hidden, batch_first=True, dtype=dtype)
    mixer = create("lstm", dim=dim, hidden=hidden).to(dtype)
    with torch.no_grad():
        mixer.project_in.weight.copy_(peer.weight_ih_l0)
        mixer.project_in.bias.copy_(peer.bias_ih_l0 + peer.bias_hh_l0)
        mixer.recurrent.copy_(peer.weight_hh_l0.T)
    return mixer, peer


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_lstm_equals_torch_lstm(dtype):
    """Outputs, the state, and the gradients of weights and of the state before."""
    mixer, peer = twins(6, 6, dtype)
    x = torch.randn(3, 25, 6, dtype=dtype)
    h, c = (torch.randn(3, 1, 6, dtype=dtype, requires_grad=True) for _ in range(2))
    y, state = mixer(x, type(mixer.initial_state(1))(h, c))
    expected, (h_n, c_n) = peer(x, (h.transpose(0, 1), c.transpose(0, 1)))
    assert_close((y, state.h, state.c), (expected, h_n.transpose(0, 1), c_n.transpose(0, 1)))
    found = torch.autograd.grad(y.sin().sum() + state.c.sum(), [h, c, mixer.recurrent, mixer.project_in.weight])
    wanted = torch.autograd.grad(expected.sin().sum() + c_n.sum(), [h, c, peer.weight_hh_l0, peer.weight_ih_l0])
    assert_close(found, (*wanted[:2], wanted[2].T[None], wanted[3]))


def test_a_wider_lstm_is_projected():
    mixer, peer = twins(6, 10)
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    assert_close(mixer(x)[0], mixer.project_out(peer(x)[0]))


def test_documents_of_a_packed_row_equal_torch_lstm():
    mixer, peer = twins(6, 6, torch.float32)
    x = torch.randn(1, 30, 6)
    reset = torch.zeros(1, 30, dtype=torch.bool)
    reset[0, [4, 11]] = True
    expected = torch.cat([peer(x[:, i:j])[0] for i, j in ((0, 4), (4, 11), (11, 30))], 1)
    assert_close(mixer(x, None, reset)[0], expected)


def test_heads_are_lstms_side_by_side():
    """Two heads: a recurrent matrix of two blocks, and zeros between them."""
    torch.manual_seed(0)
    mixer, whole = create("lstm", dim=6, heads=2).double(), create("lstm", dim=6).double()
    blocks = torch.zeros(6, 4, 6, dtype=torch.float64)
    blocks[:3, :, :3], blocks[3:, :, 3:] = mixer.recurrent.detach().unflatten(-1, (4, 3))
    whole.load_state_dict(mixer.state_dict() | {"recurrent": blocks.flatten(1)[None]})
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    assert_close(mixer(x)[0], whole(x)[0])


def test_a_fresh_lstm_keeps_what_its_docstring_says():
    torch.manual_seed(0)
    mixer = create("lstm", dim=128)
    state = mixer.initial_state(1)._replace(c=torch.ones(1, 1, 128))
    kept = {}
    with torch.no_grad():
        x = torch.randn(1, 16, 128)
        for tokens in (1, 2, 16):  # c is linear in the c before, but for what h carries of it
            with_c, without = (mixer(x[:, :tokens], s)[1].c for s in (state, mixer.initial_state(1)))
            kept[tokens] = (with_c - without).median().item()
    assert 0.68 < kept[1] < 0.78
    assert 0.42 < kept[2] < 0.62
    assert 0.001 < kept[16] < 0.015
    assert (mixer.project_in.bias.unflatten(0, (4, 128))[1] == 1).all()
