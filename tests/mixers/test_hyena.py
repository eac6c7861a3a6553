"""Hyena against its definition in dense Toeplitz matrices; its windows, its reach and its memory."""

import math

import pytest
import torch
from torch.nn.functional import conv1d, pad
from torch.testing import assert_close

from ostinato import create
from ostinato.state import leaves


def build(order, length, **options):
    torch.manual_seed(0)
    mixer = create("hyena", dim=4, order=order, max_length=length, filter_width=7, bands=3, **options).double()
    with torch.no_grad():
        mixer.convolution.bias.normal_()
    return mixer


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("length", [1, 20, 100])
def test_hyena_equals_dense_toeplitz_matrices(order, length):
    T, mixer = 50, build(order, length)
    x = torch.randn(2, T, 4).double()
    weight, bias = mixer.convolution.weight[:, None], mixer.convolution.bias
    projected = conv1d(pad(mixer.project_in(x).mT, (2, 0)), weight, bias, groups=len(bias)).mT
    v, *gates = projected.chunk(order + 1, -1)
    filters = pad(mixer.filter(), (0, max(0, T - length))).view(order - 1, 4, -1)
    lag = torch.arange(T)[:, None] - torch.arange(T)
    for gate, w, d in zip(gates, filters, mixer.D):
        toeplitz = w[:, lag.clamp(min=0)].tril() + torch.diag_embed(d[:, None].expand(-1, T))
        v = torch.einsum("dts,bsd->btd", toeplitz, gate * v)
    assert_close(mixer(x)[0], mixer.project_out(gates[-1] * v))


def test_filters_are_windows_times_a_network():
    """By hand: the filter at lag j is exp(-r j / (L - 1)) times the readout of three layers of sines."""
    mixer = build(2, 10)
    network, j = mixer.filter, 6
    angle = 2 * math.pi * j / 10 * torch.tensor([1e-4, (2 + 1e-4) / 2, 2.0], dtype=torch.float64)
    z = torch.cat([torch.tensor([j / 9], dtype=torch.float64), angle.cos(), -angle.sin()])
    for layer in network.hidden:
        z = (14.0 * layer(z)).sin()
    rates = math.log(100) * torch.linspace(1 / 1.5, 1 / 0.3, 4, dtype=torch.float64)
    assert_close(network()[:, j], network.readout(z) * (-rates * j / 9).exp())


def test_filters_do_not_depend_on_the_precision_around_them():
    network = build(2, 50).float().filter
    expected = network()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(network(), expected)


def test_windows_of_a_fresh_hyena_decay_as_it_promises():
    """To 1 % after 0.3 of the length in the fastest channel, and not before the end in the slowest."""
    torch.manual_seed(0)
    mixer = create("hyena", dim=3, max_length=1001)
    with torch.no_grad():
        for layer in mixer.filter.hidden:
            layer.weight.zero_()  # constant filters: the windows remain
    window = mixer.filter() / mixer.filter()[:, :1]
    assert_close(window[2, 300].item(), 0.01, rtol=1e-3, atol=0)
    assert_close(window[0, 1000].item(), 0.01 ** (1 / 1.5), rtol=1e-3, atol=0)


def test_hyena_reaches_as_far_as_its_filter():
    """A token reads the L - 1 tokens before it through the filter, and W - 1 more through the short convolution."""
    mixer = build(2, 8)
    x = torch.randn(1, 30, 4).double().requires_grad_()
    (influence,) = torch.autograd.grad(mixer(x)[0][0, 20].sum(), x)
    reached = (influence[0].abs().sum(-1) > 1e-12).nonzero()[:, 0].tolist()  # transforms round
    assert reached == list(range(20 - 7 - 2, 21))


@pytest.mark.parametrize(("tokens", "remembered"), [(1, 1), (6, 6), (7, 7), (8, 7), (30, 7)])
def test_memory_grows_with_the_past_up_to_the_filter(tokens, remembered):
    mixer = build(3, 8).float()
    _, state = mixer(torch.randn(1, tokens, 4))
    assert [part.shape for part in leaves(state)] == [(1, 2, 16), (1, remembered, 4), (1, remembered, 4)]


@pytest.mark.parametrize(("wrong", "message"), [(dict(order=1), "at least 2"), (dict(max_length=0), "at least 1")])
def test_hyena_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        create("hyena", dim=4, **wrong)
