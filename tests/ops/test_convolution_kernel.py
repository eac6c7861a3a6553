"""The CPU kernel of the short convolution against the definition in float64, values and gradients."""

import pytest
import torch

from ostinato.ops.choice import backend
from ostinato.ops.convolution import SHORT_FORMS, short_convolution

B = 3


def inputs(T, W, D, chance=None):
    """Tokens, filters, inputs from before, and documents that begin now and then, not in every row."""
    torch.manual_seed(0)
    arguments, reset = [torch.randn(B, T, D), torch.randn(D, W), torch.randn(B, W - 1, D)], None
    if chance is not None:
        reset = torch.rand(B, T) < chance
        reset[0] = False
    return arguments, reset


def values_and_gradients(form, arguments, reset):
    arguments = [a.clone().requires_grad_() for a in arguments]
    results = form(*arguments, reset)
    loss = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in results)
    return *results, *torch.autograd.grad(loss, arguments)


def assert_near(found, expected):
    """To 1e-5 of the size of each output and gradient."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6


@pytest.mark.parametrize("chance", [None, 0.02, 0.7])
@pytest.mark.parametrize("W", [1, 2, 4, 7])
@pytest.mark.parametrize("T", [1, 2, 5, 37, 255, 256, 257, 515])
def test_kernel_equals_definition(T, W, chance):
    for D in (5, 64, 100):
        arguments, reset = inputs(T, W, D, chance)
        expected = values_and_gradients(SHORT_FORMS["reference"], [a.double() for a in arguments], reset)
        assert_near(values_and_gradients(SHORT_FORMS["cpu"], arguments, reset), expected)


def test_kernel_reads_slices_in_place():
    """As a mixer gives it: a piece of a wider projection; the gradient of y is one number, expanded."""
    (_, weight, state), reset = inputs(40, 4, 20, 0.1)
    projection = torch.randn(B, 40, 60)

    def numbers(*arguments):
        projection, weight, state = (a.clone().requires_grad_() for a in arguments)
        form = SHORT_FORMS["cpu" if weight.dtype == torch.float32 else "reference"]
        y, after = form(projection[..., 20:40], weight, state, reset)
        return y, after, *torch.autograd.grad(y.sum() + after.sum(), (projection, weight, state))

    assert_near(numbers(projection, weight, state), numbers(*(a.double() for a in (projection, weight, state))))


def test_only_the_last_inputs_may_be_asked_for():
    (x, weight, state), _ = inputs(40, 4, 20)
    (gradient,) = torch.autograd.grad(SHORT_FORMS["cpu"](x.requires_grad_(), weight, state, None)[1].sum(), x)
    assert gradient[:, -3:].eq(1).all()
    assert gradient[:, :-3].eq(0).all()


def test_infinities_of_another_document_are_not_read():
    (x, weight, state), reset = inputs(20, 4, 20, 0.3)
    reset[0, 8] = True
    expected = SHORT_FORMS["cpu"](x, weight, state, reset)
    x[0, :8], state[0] = torch.inf, torch.nan
    y, after = SHORT_FORMS["cpu"](x, weight, state, reset)
    assert torch.equal(y[:, 8:], expected[0][:, 8:])
    assert torch.equal(after, expected[1])


@pytest.mark.parametrize("chance", [None, 0.1])
def test_kernel_does_not_depend_on_threads(chance):
    arguments, reset = inputs(600, 4, 100, chance)
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2):
        torch.set_num_threads(number)
        results.append(values_and_gradients(SHORT_FORMS["cpu"], arguments, reset))
    torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_kernel_is_chosen_for_float32_and_says_what_else_it_cannot_read():
    arguments, reset = inputs(40, 4, 20, 0.1)
    for one, other in zip(short_convolution(*arguments, reset), SHORT_FORMS["cpu"](*arguments, reset), strict=True):
        assert torch.equal(one, other)
    with backend("cpu"):
        with pytest.raises(ValueError, match=r"at most 256 taps; got torch\.float64 on cpu, 4 taps"):
            short_convolution(*(a.double() for a in arguments), reset)
        with pytest.raises(ValueError, match=r"at most 256 taps; got torch\.float32 on cpu, 300 taps"):
            short_convolution(*inputs(40, 300, 2)[0])


def test_custom_operator_is_sound():
    """What torch.compile relies on: shapes without data, no hidden writes, gradients registered."""
    from ostinato.kernels.cpu.short_convolution import short_convolution as operator

    arguments, reset = inputs(6, 4, 20, 0.3)
    arguments = [a.requires_grad_() for a in arguments]
    torch.library.opcheck(operator, (*arguments, reset))
    torch.library.opcheck(operator, (*arguments, None))
