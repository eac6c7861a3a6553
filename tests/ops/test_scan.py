"""The diagonal scans against their definitions, values and gradients."""

import hypothesis.strategies as some
import pytest
import torch
from hypothesis import given, settings
from torch.testing import assert_close

from ostinato.ops.choice import backend
from ostinato.ops.scan import FORMS, LOG_FORMS, log_scan, scan

B, N = 2, 5
LENGTHS = [1, 2, 32, 33, 36, 150]
DECAYS = {"whole": (B, 0, N), "constant": (1, 1, N), "shared by channels": (B, 0, 1), "shared by rows": (1, 0, N)}


def inputs(T, shape=DECAYS["whole"], dtype=torch.float64, forget=0.1, keep=0.1):
    """Decays of modulus below 1, some of them exactly 0 and some exactly 1, and a state from before."""
    torch.manual_seed(0)
    shape = [n or T for n in shape]
    real = torch.float64
    chance = torch.rand(shape)
    decay = torch.rand(shape, dtype=real).masked_fill(chance < forget, 0).masked_fill(chance > 1 - keep, 1)
    if dtype.is_complex:
        decay = torch.polar(decay, torch.randn(shape, dtype=real))
    return [decay, torch.randn(B, T, N, dtype=dtype), torch.randn(B, N, dtype=dtype)]


def values_and_gradients(form, arguments):
    arguments = [a.clone().requires_grad_() for a in arguments]
    h, last = form(*arguments)
    numbers = [torch.view_as_real(part) if part.is_complex() else part for part in (h, last)]
    return h, last, *torch.autograd.grad(numbers[0].sin().sum() + numbers[1].cos().sum(), arguments)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("shape", DECAYS.values(), ids=DECAYS)
def test_scan_equals_definition(T, shape, dtype):
    arguments = inputs(T, shape, dtype)
    assert_close(values_and_gradients(FORMS["torch"], arguments), values_and_gradients(FORMS["reference"], arguments))


def test_real_decay_of_complex_numbers():
    """A real decay gets a real gradient."""
    decay, _, _ = inputs(40)
    _, x, state = inputs(40, dtype=torch.complex128)
    found, expected = (values_and_gradients(FORMS[form], [decay, x, state]) for form in ("torch", "reference"))
    assert found[2].dtype == torch.float64
    assert_close(found, expected)


def test_states_may_have_any_shape():
    torch.manual_seed(0)
    arguments = [torch.rand(2, 50, 3, 1, 4), torch.randn(2, 50, 3, 2, 4), torch.randn(2, 3, 2, 4)]
    arguments = [a.double() for a in arguments]
    assert_close(values_and_gradients(FORMS["torch"], arguments), values_and_gradients(FORMS["reference"], arguments))


def test_scan_by_hand():
    ones = torch.ones(1, 3, 1)
    for form in FORMS.values():
        h, last = form(ones / 2, ones, torch.full((1, 1), 4.0))
        assert h.flatten().tolist() == [3.0, 2.5, 2.25]
        assert last.item() == 2.25


@pytest.mark.parametrize("T", [40, 150])
def test_a_decay_of_0_forgets_and_of_1_keeps_exactly(T):
    decay, x, state = inputs(T)
    h, _ = scan(torch.zeros_like(decay), x, state)
    assert torch.equal(h, x)
    h, last = scan(torch.ones_like(decay), torch.zeros_like(x), state)
    assert torch.equal(h, state[:, None].expand_as(h))
    assert torch.equal(last, state)


def test_a_decay_of_0_hides_what_was_before():
    decay, x, state = inputs(70, forget=0, keep=0)
    decay[:, 41] = 0
    assert_close(scan(decay, x, state)[0][:, 41:], scan(decay[:, 41:], x[:, 41:], torch.zeros_like(state))[0])


def test_scan_gradcheck():
    arguments = [a.requires_grad_() for a in inputs(7, dtype=torch.complex128, forget=0, keep=0)]
    assert torch.autograd.gradcheck(FORMS["torch"], arguments)


def test_everything_is_computed_in_the_type_of_the_state():
    decay, x, state = inputs(40)
    h, last = scan(decay.bfloat16(), x.bfloat16(), state.float())
    assert h.dtype == last.dtype == torch.float32
    assert_close(h, FORMS["reference"](decay.bfloat16().float(), x.bfloat16().float(), state.float())[0])


def test_scan_backend_can_be_asked_for():
    arguments = inputs(40)
    with backend("reference"):
        assert_close(scan(*arguments), FORMS["reference"](*arguments), rtol=0, atol=0)
    with backend("cuda"), pytest.raises(ValueError, match="no form 'cuda' here; it has: reference, torch"):
        scan(*arguments)


cuts = some.integers(2, 120).flatmap(lambda T: some.tuples(some.just(T), some.integers(1, T - 1)))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(cuts)
def test_scan_can_be_cut_anywhere(cut):
    T, t = cut
    decay, x, state = inputs(T)
    h, last = scan(decay, x, state)
    first, between = scan(decay[:, :t], x[:, :t], state)
    second, end = scan(decay[:, t:], x[:, t:], between)
    assert_close((torch.cat([first, second], 1), end), (h, last))


def log_inputs(T, nothing=0.1):
    """Log decays and log inputs, some of them the logarithm of 0, and a state from before."""
    torch.manual_seed(0)
    log_decay, log_x = -torch.rand(B, T, N, dtype=torch.float64), torch.randn(B, T, N, dtype=torch.float64)
    forgets, adds_nothing = torch.rand(2, B, T, N) < nothing
    adds_nothing[:, 0] = False  # so that there is something from the first step on
    log_x = log_x.masked_fill(adds_nothing & ~forgets, -torch.inf)
    return [log_decay.masked_fill(forgets, -torch.inf), log_x, torch.randn(B, N, dtype=torch.float64)]


@pytest.mark.parametrize("T", [1, 2, 3, 36, 37, 150])
def test_log_scan_equals_definition(T):
    found, expected = (values_and_gradients(LOG_FORMS[form], log_inputs(T, 0)) for form in ("torch", "reference"))
    assert_close(found, expected)


@pytest.mark.parametrize("T", [2, 36, 150])
def test_log_scan_is_the_logarithm_of_the_scan(T):
    """With logarithms of 0 among decays and inputs, where the definition's own gradient is not a number."""

    def through_logarithms(log_decay, log_x, log_state):
        h, last = scan(log_decay.exp(), log_x.exp(), log_state.exp())
        return h.log(), last.log()

    found = values_and_gradients(log_scan, log_inputs(T))
    assert_close(found, values_and_gradients(through_logarithms, log_inputs(T)))


def test_log_scan_by_hand():
    """h = 1, 1/2 + 1, 3/4 + 1."""
    zero, half = torch.zeros(1, 3, 1), torch.full((1, 3, 1), 0.5).log()
    for form in LOG_FORMS.values():
        h, _ = form(half, zero, torch.full((1, 1), -torch.inf))
        assert_close(h.exp().flatten(), torch.tensor([1.0, 1.5, 1.75]))


def test_log_scan_does_not_overflow():
    """exp(1000) is no number of float32; its logarithm is."""
    log_decay, log_x = torch.zeros(1, 50, 1, requires_grad=True), torch.full((1, 50, 1), 1000.0, requires_grad=True)
    h, last = log_scan(log_decay, log_x, torch.full((1, 1), -torch.inf))
    assert_close(last.item(), 1000 + torch.tensor(50.0).log().item())
    h.sum().backward()
    assert log_decay.grad.isfinite().all()
    assert log_x.grad.isfinite().all()


def test_log_scan_of_nothing_stays_nothing():
    nothing = torch.full((1, 40, 2), -torch.inf, requires_grad=True)
    h, last = log_scan(torch.zeros(1, 40, 2), nothing, torch.full((1, 2), -torch.inf))
    assert (h == -torch.inf).all()
    assert (last == -torch.inf).all()
    h.sum().backward()
    assert torch.equal(nothing.grad, torch.zeros_like(nothing))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(cuts)
def test_log_scan_can_be_cut_anywhere(cut):
    T, t = cut
    log_decay, log_x, log_state = log_inputs(T)
    h, last = log_scan(log_decay, log_x, log_state)
    first, between = log_scan(log_decay[:, :t], log_x[:, :t], log_state)
    second, end = log_scan(log_decay[:, t:], log_x[:, t:], between)
    assert_close((torch.cat([first, second], 1), end), (h, last))
