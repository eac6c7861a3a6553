"""The selective scan against its definition, transformers and mambapy."""

import hypothesis.strategies as some
import pytest
import torch
from hypothesis import given, settings
from torch.testing import assert_close
from transformers.models.mamba.modeling_mamba import mamba_selective_scan

from ostinato.ops.choice import backend
from ostinato.ops.selective_scan import CHUNK, FORMS, selective_scan
from tests.independent import load_peer

B, D, N = 2, 5, 3


def inputs(T, chance=None, step=1.0):
    torch.manual_seed(0)
    x, dt = torch.randn(B, T, D), step * torch.rand(B, T, D)
    parts = [x, dt, -torch.rand(D, N) - 0.1, torch.randn(B, T, N), torch.randn(B, T, N), torch.randn(B, D, N)]
    return [part.double() for part in parts], None if chance is None else torch.rand(B, T) < chance


def values_and_gradients(form, arguments, reset):
    arguments = [a.clone().requires_grad_() for a in arguments]
    y, h = form(*arguments, reset)
    return y, h, *torch.autograd.grad(y.sin().sum() + h.cos().sum(), arguments)


@pytest.mark.parametrize("T", [1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 150])
@pytest.mark.parametrize("step", [0.0, 0.1, 50.0])
@pytest.mark.parametrize("chance", [None, 0.1])
def test_selective_scan_equals_definition(T, step, chance):
    arguments, reset = inputs(T, chance, step)
    assert_close(
        values_and_gradients(FORMS["torch"], arguments, reset),
        values_and_gradients(FORMS["reference"], arguments, reset),
    )


def test_selective_scan_by_hand():
    """A decay of 1/2 and steps of ln 2: h = 1/2 h + x B ln 2."""
    one, step = torch.ones(1, 3, 1), torch.full((1, 3, 1), 2.0).log()
    for form in FORMS.values():
        y, h = form(one / step, step, -torch.ones(1, 1), one, 10 * one, torch.full((1, 1, 1), 4.0), None)
        assert_close(y.flatten(), torch.tensor([30.0, 25.0, 22.5]))
        assert_close(h.item(), 2.25)


def test_selective_scan_gradcheck():
    arguments, reset = inputs(6, 0.2)
    assert torch.autograd.gradcheck(lambda *a: FORMS["torch"](*a, reset), [a.requires_grad_() for a in arguments])


def test_selective_scan_equals_transformers():
    """Parity with the sequential path of transformers' Mamba, gradients too; D x included."""
    (x, dt, A, B_, C, h), _ = inputs(70)
    skip = torch.randn(D).double()
    arguments = [a.clone().requires_grad_() for a in (x, dt, A, B_, C, skip)]

    def by_transformers(x, dt, A, B, C, skip):
        x, dt, B, C = (part.mT for part in (x, dt, B, C))
        y, h = mamba_selective_scan(x, dt, A, B, C, skip, return_last_state=True)
        return y.mT, h

    def by_ostinato(*arguments):
        return selective_scan(*arguments, torch.zeros_like(h))

    def numbers(form):
        y, last = form(*arguments)
        return y, last, *torch.autograd.grad(y.sin().sum() + last.cos().sum(), arguments)

    # transformers passes B and x through float32
    assert_close(numbers(by_ostinato), numbers(by_transformers), rtol=1e-5, atol=1e-6)


def test_selective_scan_equals_mambapy():
    """Parity with the parallel scan of mambapy, which materialises B T D N numbers."""
    pscan = load_peer("mambapy/pscan.py").pscan
    (x, dt, A, B_, C, h), _ = inputs(70)
    states = pscan((dt[..., None] * A).exp(), (dt * x)[..., None] * B_[:, :, None])
    y, last = selective_scan(x, dt, A, B_, C, None, torch.zeros_like(h))
    assert_close(y, (states * C[:, :, None]).sum(-1))
    assert_close(last, states[:, -1])


def test_a_packed_row_is_its_documents_scanned_apart():
    (x, dt, A, B_, C, h), _ = inputs(70)
    reset = torch.zeros(B, 70, dtype=torch.bool)
    reset[:, [0, 9, 40]] = True
    y, last = selective_scan(x, dt, A, B_, C, None, h, reset)
    parts = [
        selective_scan(x[:, i:j], dt[:, i:j], A, B_[:, i:j], C[:, i:j], None, torch.zeros_like(h))
        for i, j in ((0, 9), (9, 40), (40, 70))
    ]
    assert_close(y, torch.cat([part for part, _ in parts], 1))
    assert_close(last, parts[-1][1])


@settings(deadline=None, max_examples=30, derandomize=True)
@given(some.integers(1, 89), some.sampled_from([None, 0.1]))
def test_selective_scan_can_be_cut_anywhere(t, chance):
    (x, dt, A, B_, C, h), reset = inputs(90, chance)
    skip, pieces, state = torch.randn(D).double(), [], h
    for part in (slice(0, t), slice(t, 90)):
        here = None if reset is None else reset[:, part]
        y, state = selective_scan(x[:, part], dt[:, part], A, B_[:, part], C[:, part], skip, state, here)
        pieces.append(y)
    assert_close((torch.cat(pieces, 1), state), selective_scan(x, dt, A, B_, C, skip, h, reset))


def test_steps_of_0_keep_and_long_steps_forget_exactly():
    (x, _, A, B_, C, h), _ = inputs(70)
    _, last = selective_scan(x, torch.zeros_like(x), A, B_, C, None, h)
    assert torch.equal(last, h)
    forgotten, kept = (selective_scan(x, torch.full_like(x, 1e6), A, B_, C, None, state) for state in (h, 0 * h))
    assert torch.equal(forgotten[0], kept[0])


def test_what_is_kept_for_the_gradient_is_small():
    """Not B T D N numbers: the inputs, and a state for each chunk."""
    T, wide = 512, 16
    x, dt = torch.randn(1, T, wide, requires_grad=True), torch.rand(1, T, wide)
    A, B_, C = -torch.rand(wide, 64), torch.randn(1, T, 64), torch.randn(1, T, 64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part.numel()) or part, lambda part: part):
        selective_scan(x, dt, A, B_, C, None, torch.zeros(1, wide, 64))
    assert sum(kept) <= 2 * T * wide + 2 * T * 64 + wide * 64 + (T // CHUNK) * wide * 64
    assert sum(kept) < T * wide * 64 / 4


def test_autocast_stays_outside():
    """Under autocast the scan and its gradient are computed in the type of the state all the same."""
    arguments = [a.float() for a in inputs(70)[0]]

    def numbers():
        return values_and_gradients(lambda *a: selective_scan(*a[:5], None, *a[5:]), arguments, None)

    expected = numbers()
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(numbers(), expected, rtol=0, atol=0)


def test_selective_scan_backend_can_be_asked_for():
    arguments, _ = inputs(40)
    arguments.insert(5, None)
    with backend("reference"):
        assert_close(selective_scan(*arguments)[0], FORMS["reference"](*inputs(40)[0], None)[0], rtol=0, atol=0)
    with backend("cuda"), pytest.raises(ValueError, match="no form 'cuda' here; it has: reference, torch"):
        selective_scan(*arguments)
