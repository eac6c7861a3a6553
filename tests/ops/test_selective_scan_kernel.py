"""The CPU kernel of the selective scan against the definition in float64, values and gradients."""

import pytest
import torch

from ostinato.ops.choice import backend
from ostinato.ops.selective_scan import FORMS, selective_scan


def inputs(T, rows=2, D=40, N=5, chance=None, step=1.0, skip=True):
    """x, dt, A, B, C, h and D; widths that fill no vector, and now and then a document that begins."""
    torch.manual_seed(0)
    x, dt = torch.randn(rows, T, D), step * torch.rand(rows, T, D)
    arguments = [x, dt, -torch.rand(D, N) - 0.1, torch.randn(rows, T, N), torch.randn(rows, T, N)]
    arguments += [torch.randn(rows, D, N), torch.randn(D)]
    reset = None if chance is None else torch.rand(rows, T) < chance
    return arguments if skip else arguments[:-1], reset


def values_and_gradients(form, arguments, reset):
    arguments = [a.clone().requires_grad_() for a in arguments]
    results = form(*arguments[:6], reset, *arguments[6:])
    loss = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in results)
    return *results, *torch.autograd.grad(loss, arguments)


def assert_near(found, expected):
    """To 1e-5 of the size of each output and gradient."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6


@pytest.mark.parametrize("step", [0.0, 0.1, 50.0])
@pytest.mark.parametrize("chance", [None, 0.1])
@pytest.mark.parametrize("T", [1, 2, 31, 32, 33, 70])
def test_kernel_equals_definition(T, chance, step):
    for D, N in ((5, 3), (64, 16), (100, 1), (130, 17)):
        arguments, reset = inputs(T, D=D, N=N, chance=chance, step=step)
        expected = values_and_gradients(FORMS["reference"], [a.double() for a in arguments], reset)
        assert_near(values_and_gradients(FORMS["cpu"], arguments, reset), expected)


def test_kernel_without_skip():
    arguments, reset = inputs(40, chance=0.1, skip=False)
    expected = values_and_gradients(FORMS["reference"], [a.double() for a in arguments], reset)
    assert_near(values_and_gradients(FORMS["cpu"], arguments, reset), expected)


def test_kernel_reads_slices_in_place():
    """As Mamba gives them: x, dt, B and C are pieces of projections."""
    (_, _, A, _, _, h, D), reset = inputs(50, D=40, N=5, chance=0.1)
    torch.manual_seed(1)
    projection = torch.rand(2, 50, 2 * 40 + 2 * 5)

    def sliced(projection, A, h, D):
        form = FORMS["cpu" if projection.dtype == torch.float32 else "reference"]
        x, dt, B, C = projection.split([40, 40, 5, 5], -1)
        return form(x, dt, A, B, C, h, reset, D)

    def numbers(*arguments):
        arguments = [a.clone().requires_grad_() for a in arguments]
        y, last = sliced(*arguments)
        return (
            y,
            last,
            *torch.autograd.grad(y.sum() + last.sum(), arguments),
        )  # the gradient of y is one number, expanded

    assert_near(numbers(projection, A, h, D), numbers(*(a.double() for a in (projection, A, h, D))))


def test_only_the_last_state_may_be_asked_for():
    arguments, _ = inputs(40)
    x = arguments[0].requires_grad_()
    expected = torch.autograd.grad(FORMS["reference"](*arguments[:6], None)[1].sum(), x)
    assert_near(torch.autograd.grad(FORMS["cpu"](*arguments[:6], None)[1].sum(), x), expected)


def test_steps_of_0_keep_and_long_steps_forget_exactly():
    (x, _, A, B, C, h, _), _ = inputs(70)
    _, last = selective_scan(x, torch.zeros_like(x), A, B, C, None, h)
    assert torch.equal(last, h)
    forgotten, kept = (selective_scan(x, torch.full_like(x, 1e6), A, B, C, None, state) for state in (h, 0 * h))
    assert torch.equal(forgotten[0], kept[0])


def test_what_is_not_a_number_stays_in_its_row_and_channel():
    (x, dt, A, B, C, h, D), _ = inputs(40, D=40, N=5)
    x[0, 7, 3], dt[1, 9, 17], h[1, 0, 2] = torch.nan, torch.inf, torch.inf
    pairs = zip(FORMS["cpu"](x, dt, A, B, C, h, None, D), FORMS["reference"](x, dt, A, B, C, h, None, D), strict=True)
    for one, other in pairs:
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one.isinf(), other.isinf())


@pytest.mark.parametrize("chance", [None, 0.1])
def test_kernel_does_not_depend_on_threads(chance):
    arguments, reset = inputs(70, D=200, N=4, chance=chance)
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2):
        torch.set_num_threads(number)
        results.append(values_and_gradients(FORMS["cpu"], arguments, reset))
    torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_kernel_is_chosen_for_float32_and_says_what_else_it_cannot_read():
    (x, dt, A, B, C, h, D), reset = inputs(40, chance=0.1)
    found = selective_scan(x, dt, A, B, C, D, h, reset)
    for one, other in zip(found, FORMS["cpu"](x, dt, A, B, C, h, reset, D), strict=True):
        assert torch.equal(one, other)
    with backend("cpu"), pytest.raises(ValueError, match="selective scan reads float32 on a CPU"):
        selective_scan(*(a.double() for a in (x, dt, A, B, C, D, h)), reset)


def test_custom_operator_is_sound():
    """What torch.compile relies on: shapes without data, no hidden writes, gradients registered."""
    from ostinato.kernels.cpu.selective_scan import selective_scan as operator

    (x, dt, A, B, C, h, D), reset = inputs(5, D=20, N=3, chance=0.3)
    x, dt, A, B, C, h, D = (a.requires_grad_() for a in (x, dt, A, B, C, h, D))
    torch.library.opcheck(operator, (x, dt, A, B, C, D, h, reset))
    torch.library.opcheck(operator, (x, dt, A, B, C, None, h, None))
