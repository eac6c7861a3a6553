"""Aaren against softmax attention, and what a fresh one promises."""

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.testing import assert_close

from ostinato.registry import create


def test_aaren_equals_softmax_attention_with_a_fixed_query_on_every_prefix():
    torch.manual_seed(0)
    mixer = create("aaren", dim=12, heads=3, key_dim=5)
    x = torch.randn(2, 75, 12)
    y, _ = mixer(x)
    k, v = (part.unflatten(-1, (3, -1)).transpose(1, 2) for part in (mixer.project_k(x), mixer.project_v(x)))
    q = mixer.query[None, :, None].expand(2, 3, 1, 5)
    for t in (0, 1, 63, 64, 74):
        o = scaled_dot_product_attention(q, k[:, :, : t + 1], v[:, :, : t + 1])
        assert_close(y[:, t], mixer.project_out(o.flatten(1)), rtol=1e-5, atol=1e-6)


def test_what_is_seen_does_not_depend_on_its_order():
    torch.manual_seed(0)
    mixer = create("aaren", dim=8).double()
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    shuffled = x[:, torch.randperm(20)]
    assert_close(mixer(x)[0][:, -1], mixer(shuffled)[0][:, -1])


def test_the_state_does_not_grow():
    mixer = create("aaren", dim=12, heads=3)
    assert mixer.state_bytes(1) == mixer.state_bytes(10**6) == 4 * (12 + 2 * 3)


def test_a_fresh_aaren_spreads_its_weight_as_its_docstring_says():
    torch.manual_seed(0)
    mixer = create("aaren", dim=128)
    x = torch.randn(2, 500, 128)
    H, K = mixer.query.shape
    scores = (mixer.project_k(x).unflatten(-1, (H, K)) * mixer.query).sum(-1) * K**-0.5
    assert 0.5 < scores.std() < 0.7
    counted = 1 / scores.softmax(1).square().sum(1) / 500
    assert 0.6 < counted.mean() < 0.8
