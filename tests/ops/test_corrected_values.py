"""Corrected values: chunks against steps, explicit inverses, and the delta rule as far as it goes."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.ops.attention import attention
from ostinato.ops.choice import backend
from ostinato.ops.corrected_values import FORMS, chunked, corrected_values
from ostinato.ops.sight import sight
from tests.independent import load_peer


def inputs(T, past=0, G=2, K=3, V=5, B=2):
    generator = torch.Generator().manual_seed(1)
    sizes = (B, T, G, K), (B, T + past, G, K), (B, T, G, V), (B, T, G), (B, past, G, V)
    w, k, v, beta, before = (torch.randn(size, generator=generator).double() for size in sizes)
    return w, k, v, beta.sigmoid(), before


@pytest.mark.parametrize("T", [1, 2, 7, 8, 9, 50])
@pytest.mark.parametrize("past", [0, 5])
def test_chunks_equal_steps(T, past):
    """Values and gradients, with documents that begin and keys that are dead."""
    parts = [x.requires_grad_() for x in inputs(T, past)]
    reset = torch.rand(2, T, generator=torch.Generator().manual_seed(2)) < 0.1
    live = torch.rand(2, T + past, generator=torch.Generator().manual_seed(3)) < 0.8
    live[:, past:] = True
    results = []
    for form in (FORMS["reference"], lambda *arguments: chunked(*arguments, C=8)):
        u = form(*parts, sight(parts[0], T + past, True, live, reset, None), 0.7)
        gradients = torch.autograd.grad(u.sin().sum(), parts, allow_unused=True, materialize_grads=True)
        results += [(u, *gradients)]
    for one, other in zip(*results, strict=True):
        assert_close(one, other)


def test_a_long_text_in_default_chunks():
    parts = inputs(300)
    with backend("reference"):
        expected = corrected_values(*parts)
    assert_close(corrected_values(*parts), expected)


def test_it_is_one_inverse():
    w, k, v, beta, before = inputs(11)
    scores = torch.einsum("bigk,bjgk->bgij", w, k) / 3**0.5
    earlier = torch.ones(11, 11).tril(-1).bool()
    p = scores.masked_fill(~earlier, -torch.inf).softmax(-1).nan_to_num(0) * beta.mT[..., None]
    u = torch.linalg.inv(torch.eye(11).double() + p) @ v.transpose(1, 2)
    assert_close(corrected_values(w, k, v, beta, before), u.transpose(1, 2))


def test_by_hand():
    """Equal scores: a third token takes away beta times the mean of the two before it."""
    zero = torch.zeros(1, 3, 1, 1)
    v, beta = torch.tensor([1.0, 2.0, 5.0]).view(1, 3, 1, 1), torch.tensor([0.5, 0.5, 1.0]).view(1, 3, 1)
    u = corrected_values(zero, zero, v, beta, zero[:, :0])
    assert u.flatten().tolist() == [1.0, 1.5, 3.75]


def test_gradients_equal_finite_differences():
    parts = [x.requires_grad_() for x in inputs(5, 2, G=1, K=2, V=2, B=1)]
    see = sight(parts[0], 7, True, None, None, None)
    assert torch.autograd.gradcheck(lambda *x: chunked(*x, see, 1.0, C=2), parts)


def test_equals_fla():
    """There queries ask, and attention reads what was written."""
    naive = load_peer("fla/ops/deltaformer/naive.py")
    q, k, v, beta, before = (x.float() for x in inputs(37, V=3))
    u = corrected_values(q, k, v, beta, before)
    assert_close(attention(q, k, u), naive.naive_deltaformer_attn(q, k, v, beta), rtol=1e-4, atol=1e-5)


def test_a_cache_without_values_is_refused():
    w, k, v, beta, _ = inputs(4, 3)
    with pytest.raises(ValueError, match="a value for each of its 3 keys"):
        corrected_values(w, k, v, beta, v[:, :2])
