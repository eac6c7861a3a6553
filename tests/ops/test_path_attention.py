"""PaTH attention: explicit products of matrices, chunks against steps, swaps of elements, flash-linear-attention's definition."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.layers.norms import l2_norm
from ostinato.ops.attention import attention
from ostinato.ops.choice import backend
from ostinato.ops.path_attention import FORMS, chunked, path_attention
from ostinato.ops.sight import sight
from tests.independent import load_peer


def inputs(T, S=None, H=4, G=2, K=3, V=5, B=2):
    generator = torch.Generator().manual_seed(1)
    sizes = (B, T, H, K), (B, S or T, G, K), (B, S or T, G, V), (B, T, G, K), (B, T, G)
    q, k, v, w, beta = (torch.randn(size, generator=generator).double() for size in sizes)
    return q, k, v, l2_norm(w), 2 * beta.sigmoid()


@pytest.mark.parametrize("form", FORMS)
def test_scores_are_explicit_products_of_matrices(form):
    q, k, v, w, beta = inputs(9, H=2)
    y = torch.zeros(2, 9, 2, 5).double()
    H = torch.eye(3).double() - beta[..., None, None] * w[..., :, None] * w[..., None, :]
    for i in range(9):
        scores = []
        for j in range(i + 1):
            between = torch.eye(3).double().expand(2, 2, 3, 3)
            for t in range(j + 1, i + 1):
                between = between @ H[:, t]
            scores.append((k[:, j, :, None] @ between @ q[:, i, ..., None])[..., 0, 0] / 3**0.5)
        p = torch.stack(scores, -1).softmax(-1)
        y[:, i] = torch.einsum("bhj,bjhv->bhv", p, v[:, : i + 1])
    with backend(form):
        assert_close(path_attention(q, k, v, w, beta)[0], y)


@pytest.mark.parametrize("T", [1, 2, 7, 8, 9, 50])
@pytest.mark.parametrize("past", [0, 5])
def test_chunks_equal_steps(T, past):
    """Values and gradients, through the carried keys too, with documents that begin and keys that are dead."""
    parts = [x.requires_grad_() for x in inputs(T, T + past)]
    reset = torch.rand(2, T, generator=torch.Generator().manual_seed(2)) < 0.1
    live = torch.rand(2, T + past, generator=torch.Generator().manual_seed(3)) < 0.8
    live[:, past:] = True
    results = []
    for form in (FORMS["reference"], lambda *arguments: chunked(*arguments, C=8)):
        y, keys = form(*parts, sight(parts[0], T + past, True, live, reset, None), 0.7)
        results += [(y, keys, *torch.autograd.grad(y.sin().sum() + keys.cos().sum(), parts))]
    for one, other in zip(*results, strict=True):
        assert_close(one, other)


def test_a_long_text_in_default_chunks():
    parts = inputs(300, H=2)
    with backend("reference"):
        expected = path_attention(*parts)
    for one, other in zip(path_attention(*parts), expected, strict=True):
        assert_close(one, other)


def test_gradients_equal_finite_differences():
    parts = [x.requires_grad_() for x in inputs(5, 7, H=2, G=1, K=2, V=2, B=1)]
    see = sight(parts[0], 7, True, None, None, None)
    assert torch.autograd.gradcheck(lambda *x: chunked(*x, see, 1.0, C=2), parts)


def test_without_transitions_it_is_softmax_attention():
    q, k, v, w, beta = inputs(20)
    y, keys = path_attention(q, k, v, w, beta * 0)
    assert_close(y, attention(q, k, v))
    assert_close(keys, k)


def test_swaps_are_tracked():
    """With beta = 2, w = (e_a - e_b) / sqrt 2 swaps a and b: a key finds out where its element went."""
    generator = torch.Generator().manual_seed(4)
    place, T = list(range(5)), 12
    k, q, w = (torch.zeros(1, T, 1, 5).double() for _ in range(3))
    k[0, 0, 0, 3] = 1  # the element that begins at 3
    v = torch.zeros(1, T, 1, 1).double()
    v[0, 0] = 1
    for t in range(1, T):
        a, b = torch.randperm(5, generator=generator)[:2].tolist()
        w[0, t, 0, a], w[0, t, 0, b] = 0.5**0.5, -(0.5**0.5)
        place[a], place[b] = place[b], place[a]
        q[0, t, 0, place.index(3)] = 1
    beta = torch.full((1, T, 1), 2.0).double()
    y, keys = path_attention(q, k, v, w, beta, scale=100.0)
    assert_close(y, torch.ones_like(y))
    assert keys[0, 0, 0].argmax() == place.index(3)


@pytest.mark.parametrize("gap", [0, 3])
def test_equals_fla(gap):
    pytest.importorskip("einops")
    naive = load_peer("fla/ops/path_attn/naive.py")
    q, k, v, w, beta = (x.float() for x in inputs(40 + gap, V=3))
    expected = naive.naive_path_attn(q, k, v, w, beta, torch.zeros(2, 40 + gap, 4), 0.6, chunk_size=8)
    assert_close(path_attention(q, k, v, w, beta, scale=0.6)[0], expected, rtol=1e-4, atol=1e-5)


def test_bad_shapes_are_refused():
    q, k, v, w, beta = inputs(4)
    with pytest.raises(ValueError, match="a key for each of its 4 queries"):
        path_attention(q, k[:, :3], v, w, beta)
    with pytest.raises(ValueError, match="have a w each"):
        path_attention(q, k, v, w[:, :, :1], beta)
