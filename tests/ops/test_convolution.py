"""Short and long causal convolutions against their definitions, torch and scipy."""

import hypothesis.strategies as some
import pytest
import torch
from hypothesis import given, settings
from scipy.signal import fftconvolve
from torch.nn.functional import conv1d, pad
from torch.testing import assert_close

from ostinato.ops.convolution import SHORT_FORMS, short_convolution
from ostinato.ops.long_convolution import FORMS, long_convolution

B, D = 3, 5


def inputs(T, width, remembered, chance=None):
    """Tokens, filters, inputs from before, and documents that begin now and then, not in every row."""
    torch.manual_seed(0)
    numbers = [torch.randn(B, T, D), torch.randn(D, width), torch.randn(B, remembered, D)]
    reset = None
    if chance is not None:
        reset = torch.rand(B, T) < chance
        reset[0] = False
    return [part.double() for part in numbers], reset


def values_and_gradients(form, arguments, reset):
    arguments = [a.clone().requires_grad_() for a in arguments]
    y, state = form(*arguments, reset)
    return y, state, *torch.autograd.grad(y.sin().sum() + state.cos().sum(), arguments)


def in_two(convolution, x, weight, state, reset, t):
    first, between = convolution(x[:, :t], weight, state, None if reset is None else reset[:, :t])
    second, end = convolution(x[:, t:], weight, between, None if reset is None else reset[:, t:])
    return torch.cat([first, second], 1), end


@pytest.mark.parametrize("T", [1, 2, 3, 4, 5, 37])
@pytest.mark.parametrize("width", [1, 2, 4, 7])
@pytest.mark.parametrize("chance", [None, 0.1, 0.7])
def test_short_convolution_equals_definition(T, width, chance):
    arguments, reset = inputs(T, width, width - 1, chance)
    assert_close(
        values_and_gradients(SHORT_FORMS["torch"], arguments, reset),
        values_and_gradients(SHORT_FORMS["reference"], arguments, reset),
    )


@pytest.mark.parametrize("width", [1, 3, 4])
def test_short_convolution_equals_torch(width):
    """Parity with torch.nn.functional.conv1d, gradients too."""

    def by_torch(x, weight, state, reset):
        inputs = torch.cat([state, x], 1)
        y = conv1d(inputs.mT, weight[:, None], groups=D).mT
        return y, inputs[:, inputs.shape[1] - (width - 1) :]

    arguments, _ = inputs(37, width, width - 1)
    assert_close(
        values_and_gradients(short_convolution, arguments, None), values_and_gradients(by_torch, arguments, None)
    )


def test_short_convolution_by_hand():
    """The newest tap comes last: 2 x_t + 1 x_{t-1}."""
    x = torch.tensor([1.0, 10.0, 100.0]).view(1, 3, 1)
    for form in SHORT_FORMS.values():
        y, state = form(x, torch.tensor([[1.0, 2.0]]), torch.tensor([[[5.0]]]), None)
        assert y.flatten().tolist() == [7.0, 21.0, 210.0]
        assert state.item() == 100.0
        y, _ = form(x, torch.tensor([[1.0, 2.0]]), torch.tensor([[[5.0]]]), torch.tensor([[True, False, True]]))
        assert y.flatten().tolist() == [2.0, 21.0, 200.0]


@settings(deadline=None, max_examples=30, derandomize=True)
@given(some.integers(1, 19), some.integers(1, 6), some.sampled_from([None, 0.3]))
def test_short_convolution_can_be_cut_anywhere(t, width, chance):
    (x, weight, state), reset = inputs(20, width, width - 1, chance)
    expected = short_convolution(x, weight, state, reset)
    assert_close(in_two(short_convolution, x, weight, state, reset, t), expected)


@pytest.mark.parametrize("T", [1, 2, 15, 16, 17, 150])
@pytest.mark.parametrize(("L", "remembered"), [(1, 0), (2, 1), (17, 0), (17, 5), (17, 16), (200, 0), (200, 199)])
@pytest.mark.parametrize("chance", [None, 0.03, 0.3, 1.0])
def test_long_convolution_equals_definition(T, L, remembered, chance):
    arguments, reset = inputs(T, L, remembered, chance)
    assert_close(
        values_and_gradients(FORMS["torch"], arguments, reset),
        values_and_gradients(FORMS["reference"], arguments, reset),
    )


@pytest.mark.parametrize("L", [1, 30, 64, 90])
def test_long_convolution_equals_scipy(L):
    (x, weight, state), _ = inputs(64, L, 0)
    y, _ = long_convolution(x, weight, state)
    assert_close(y, torch.as_tensor(fftconvolve(x, weight.T[None], axes=1))[:, :64])


def test_long_convolution_equals_short_one():
    (x, weight, state), reset = inputs(50, 6, 5, 0.1)
    found = long_convolution(x, weight, state, reset)
    assert_close(found, short_convolution(x, weight.flip(1), state, reset))


def test_long_convolution_by_hand():
    """1 x_t + 1/2 x_{t-1} + 1/4 x_{t-2}, with two inputs from before."""
    weight, x = torch.tensor([[1.0, 0.5, 0.25]]), torch.tensor([1.0, 0.0, 8.0]).view(1, 3, 1)
    for form in FORMS.values():
        y, state = form(x, weight, torch.tensor([[[16.0], [4.0]]]), None)
        assert_close(y.flatten(), torch.tensor([7.0, 1.5, 8.25]))
        assert state.flatten().tolist() == [0.0, 8.0]


@pytest.mark.parametrize("tokens", [1, 5, 9, 10, 11, 40])
def test_long_convolution_remembers_no_more_than_it_reads(tokens):
    (x, weight, state), _ = inputs(tokens, 10, 0)
    assert long_convolution(x, weight, state)[1].shape == (B, min(tokens, 9), D)


def test_a_packed_row_is_its_documents_convolved_apart():
    (x, weight, state), _ = inputs(60, 25, 24)
    reset = torch.zeros(B, 60, dtype=torch.bool)
    reset[:, [0, 7, 8, 41]] = True
    y, after = long_convolution(x, weight, state, reset)
    nothing = state[:, :0]
    parts = [long_convolution(x[:, i:j], weight, nothing) for i, j in ((0, 7), (7, 8), (8, 41), (41, 60))]
    assert_close(y, torch.cat([part for part, _ in parts], 1))
    assert_close(after, pad(parts[-1][1], (0, 0, after.shape[1] - 19, 0)))  # absent and zero inputs are the same


@settings(deadline=None, max_examples=40, derandomize=True)
@given(some.integers(1, 59), some.integers(1, 70), some.sampled_from([None, 0.1]))
def test_long_convolution_can_be_cut_anywhere(t, L, chance):
    (x, weight, state), reset = inputs(60, L, 0, chance)
    assert_close(in_two(long_convolution, x, weight, state, reset, t), long_convolution(x, weight, state, reset))


def test_long_convolution_in_float32():
    """Relative error of the transforms at full length."""
    (x, weight, state), _ = inputs(2000, 2000, 0)
    exact, _ = long_convolution(x, weight, state)
    y, _ = long_convolution(x.float(), weight.float(), state.float())
    assert (y - exact).norm() < 1e-6 * exact.norm()
