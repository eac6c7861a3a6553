"""The running softmax: the chunked form against the definition, and the definition against torch and by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from ostinato.ops.choice import backend
from ostinato.ops.softmax_scan import FORMS, join, softmax_scan

B, H, V = 2, 3, 5


def inputs(T, size=1.0, dtype=torch.float64):
    torch.manual_seed(0)
    s, v = size * torch.randn(B, T, H, dtype=dtype), torch.randn(B, T, H, V, dtype=dtype)
    state = torch.randn(B, H, dtype=dtype), 1 + torch.rand(B, H, dtype=dtype), torch.randn(B, H, V, dtype=dtype)
    return s, v, state


def beginning(dtype=torch.float64):
    u = torch.zeros(B, H, dtype=dtype)
    return u - torch.inf, u, torch.zeros(B, H, V, dtype=dtype)


def values_and_gradients(form, s, v, state, reset):
    m, (s, v, u, w) = state[0], (part.clone().requires_grad_() for part in (s, v, *state[1:]))
    o, (m, u_, w_) = form(s, v, (m, u, w), reset)
    return o, m, u_, w_, *torch.autograd.grad(o.sin().sum() + u_.sin().sum() + w_.cos().sum(), [s, v, u, w])


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("size", [0.1, 30.0])
@pytest.mark.parametrize("begin", [True, False])
def test_form_equals_definition(share, size, begin):
    for T in (1, 2, 63, 64, 65, 150):
        s, v, state = inputs(T, size)
        state = beginning() if begin else state
        reset = torch.rand(B, T) < share if share else None
        expected = values_and_gradients(FORMS["reference"], s, v, state, reset)
        assert_close(values_and_gradients(FORMS["torch"], s, v, state, reset), expected)


def test_gradients_against_finite_differences():
    s, v, (m, u, w) = inputs(4)
    # o depends on u and w through w / u alone, and on s through differences
    run = lambda s, v, u, w: FORMS["torch"](s, v, (m, u, w), None)[0]  # noqa: E731
    assert torch.autograd.gradcheck(run, [part.requires_grad_() for part in (s, v, u, w)])


def test_by_hand():
    """Weights 1, 3 and 4."""
    s = torch.tensor([1.0, 3.0, 4.0]).log().view(1, 3, 1)
    v = torch.tensor([8.0, 0.0, 2.0]).view(1, 3, 1, 1)
    begin = torch.full((1, 1), -torch.inf), torch.zeros(1, 1), torch.zeros(1, 1, 1)
    o, m, u, w = softmax_scan(s, v, *begin)
    assert_close(o.flatten(), torch.tensor([8, 2, (8 + 8) / 8]))
    assert_close((m.exp(), u, w), (torch.tensor([[4.0]]), torch.tensor([[2.0]]), torch.tensor([[[4.0]]])))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1.0, 100.0])
def test_softmax_scan_equals_softmax_attention_of_a_fixed_query_on_every_prefix(form, size):
    torch.manual_seed(0)
    q, k, v = size * torch.randn(H, 1, 7), torch.randn(B, H, 90, 7), torch.randn(B, H, 90, V)
    scores = (k @ q.mT)[..., 0] * 7**-0.5
    with backend(form):
        o, *_ = softmax_scan(scores.transpose(1, 2), v.transpose(1, 2), *beginning(torch.float32))
    for t in (0, 1, 40, 89):
        expected = scaled_dot_product_attention(q.expand(B, H, 1, 7), k[:, :, : t + 1], v[:, :, : t + 1])
        assert_close(o[:, t], expected[:, :, 0], rtol=1e-5, atol=1e-6 * size)


stretches = st.tuples(st.floats(-200, 200), st.floats(0.1, 10), st.floats(-10, 10)).map(
    lambda part: tuple(torch.tensor(number, dtype=torch.float64) for number in part)
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(a=stretches, b=stretches, c=stretches)
def test_join_is_associative_and_the_beginning_is_its_neutral_element(a, b, c):
    a, b, c = ((m, u, w[None]) for m, u, w in (a, b, c))
    left, right = join(join(a, b), c), join(a, join(b, c))
    assert_close(left, right, rtol=1e-12, atol=1e-300)
    neutral = (
        torch.tensor(-torch.inf, dtype=torch.float64),
        torch.zeros((), dtype=torch.float64),
        torch.zeros_like(a[2]),
    )
    assert_close(join(neutral, a), a, rtol=0, atol=0)
    assert_close(join(a, neutral), a, rtol=0, atol=0)
    assert_close(join(neutral, neutral), neutral, rtol=0, atol=0)


def test_scores_of_any_size():
    s, v, _ = inputs(100, 1e6, torch.float32)
    s.requires_grad_()
    o, *state = softmax_scan(s, v, *beginning(torch.float32))
    o.sum().backward()
    assert all(part.isfinite().all() for part in (o, *state, s.grad))
    largest = s.detach().cummax(1).indices
    assert_close(o, v.gather(1, largest[..., None].expand_as(v)))
