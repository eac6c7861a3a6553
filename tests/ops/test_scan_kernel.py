"""The CPU kernel of the scan against the definition in float64, values and gradients."""

import pytest
import torch

from ostinato.ops.choice import backend
from ostinato.ops.scan import FORMS, scan

B = 2
DECAYS = {
    "whole": lambda T, N: (B, T, *N),
    "constant": lambda T, N: (1, 1, *N),
    "constant in each row": lambda T, N: (B, 1, *N),
    "shared by channels": lambda T, N: (B, T, *N[:-1], 1),
    "shared by rows": lambda T, N: (1, T, *N),
    "one number": lambda T, N: (1, 1, *[1] * len(N)),
}


def inputs(T, N, decays, dtype):
    """Decays of modulus below 1, some of them exactly 0 and some exactly 1, and a state from before."""
    torch.manual_seed(0)
    shape = DECAYS[decays](T, N)
    chance = torch.rand(shape)
    decay = torch.rand(shape, dtype=torch.float64).masked_fill(chance < 0.1, 0).masked_fill(chance > 0.9, 1)
    if dtype.is_complex:
        decay = torch.polar(decay, torch.randn(shape, dtype=torch.float64))
    return [decay, torch.randn(B, T, *N, dtype=dtype), torch.randn(B, *N, dtype=dtype)]


def single(arguments):
    return [a.to(torch.complex64 if a.is_complex() else torch.float32) for a in arguments]


def values_and_gradients(form, arguments):
    arguments = [a.clone().requires_grad_() for a in arguments]
    results = form(*arguments)
    numbers = [torch.view_as_real(part) if part.is_complex() else part for part in results]
    loss = sum((x * torch.linspace(-1, 2, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in numbers)
    return *results, *torch.autograd.grad(loss, arguments)


def assert_near(found, expected):
    """To 1e-5 of the size of each output and gradient."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("decays", DECAYS)
def test_kernel_equals_definition(decays, dtype):
    for T in (1, 2, 65, 150):
        for N in ((5,), (16,), (40,), (3, 20), (2, 3, 5)):
            arguments = inputs(T, N, decays, dtype)
            expected = values_and_gradients(FORMS["reference"], arguments)
            assert_near(values_and_gradients(FORMS["cpu"], single(arguments)), expected)


def test_kernel_reads_slices_in_place():
    """As a mixer gives them: pieces of a wider projection, and gradients that are slices too."""
    torch.manual_seed(0)
    projection, state = torch.rand(B, 50, 3 * 40), torch.randn(B, 40)

    def sliced(projection, state):
        decay, x, gate = projection.split(40, -1)
        h, last = FORMS["cpu" if projection.dtype == torch.float32 else "reference"](decay, x, state)
        return torch.cat([gate, h], -1), last

    expected = values_and_gradients(sliced, [projection.double(), state.double()])
    assert_near(values_and_gradients(sliced, [projection, state]), expected)


def test_real_decay_of_complex_numbers():
    decay, *_ = inputs(40, (6,), "whole", torch.float64)
    _, x, state = inputs(40, (6,), "whole", torch.complex128)
    found = values_and_gradients(scan, single([decay, x, state]))
    assert found[2].dtype == torch.float32
    assert_near(found, values_and_gradients(FORMS["reference"], [decay, x, state]))


def test_conjugates_are_read():
    """Torch only notes that a tensor is to be conjugated."""
    arguments = inputs(20, (6,), "whole", torch.complex128)
    decay, x, state = single(arguments)
    expected = FORMS["reference"](arguments[0].conj(), arguments[1].conj(), arguments[2].conj())
    assert_near(FORMS["cpu"](decay.conj(), x.conj(), state.conj()), expected)


def test_only_some_gradients_may_be_wanted():
    decay, x, state = single(inputs(70, (20,), "whole", torch.float64))
    x.requires_grad_()
    last = scan(decay, x, state)[1]  # no gradient comes from the other h
    expected = torch.autograd.grad(FORMS["reference"](decay, x, state)[1].sum(), x)
    assert_near(torch.autograd.grad(last.sum(), x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_a_decay_of_0_forgets_and_of_1_keeps_exactly(dtype):
    decay, x, state = (a.to(dtype) for a in inputs(70, (20,), "whole", torch.float64))
    assert torch.equal(scan(torch.zeros_like(decay), x, state)[0], x)
    h, last = scan(torch.ones_like(decay), torch.zeros_like(x), state)
    assert torch.equal(h, state[:, None].expand_as(h))
    assert torch.equal(last, state)


def test_what_is_not_a_number_stays_where_it_is():
    """In its row and channel, from its step on, until a decay of 0 meets a finite number again: as in the definition."""
    decay, x, state = single(inputs(40, (20,), "whole", torch.float64))
    x[0, 7, 3], x[1, 9, 17], state[1, 0] = torch.nan, torch.inf, -torch.inf
    for one, other in zip(FORMS["cpu"](decay, x, state), FORMS["reference"](decay, x, state), strict=True):
        assert torch.equal(one.isnan(), other.isnan())
        assert torch.equal(one.isinf(), other.isinf())


@pytest.mark.parametrize("decays", DECAYS)
def test_kernel_does_not_depend_on_threads(decays):
    arguments = single(inputs(130, (3, 200), decays, torch.float64))
    threads = torch.get_num_threads()
    results = []
    for number in (1, 2):
        torch.set_num_threads(number)
        results.append(values_and_gradients(FORMS["cpu"], arguments))
    torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_sum_over_many_steps_keeps_its_digits():
    """The gradient of a constant decay is a sum over 200,000 steps."""
    torch.manual_seed(0)
    arguments = [
        torch.rand(1, 1, 8, dtype=torch.float64),
        torch.rand(1, 200_000, 8).double(),
        torch.zeros(1, 8).double(),
    ]
    expected = values_and_gradients(FORMS["torch"], arguments)
    assert_near(values_and_gradients(FORMS["cpu"], single(arguments)), expected)


def test_kernel_is_chosen_for_float32_and_says_what_else_it_cannot_read():
    arguments = inputs(30, (20,), "whole", torch.float64)
    for one, other in zip(scan(*single(arguments)), FORMS["cpu"](*single(arguments)), strict=True):
        assert torch.equal(one, other)
    with (
        backend("cpu"),
        pytest.raises(ValueError, match="reads float32 or complex64 on a CPU"),
    ):
        scan(*arguments)


def test_custom_operator_is_sound():
    """What torch.compile relies on: shapes without data, no hidden writes, gradients registered."""
    from ostinato.kernels.cpu.scan import scan_op

    decay, x, state = single(inputs(5, (1, 20), "whole", torch.float64))
    torch.library.opcheck(scan_op, tuple(a.requires_grad_() for a in (decay, x, state)))
