"""PaTH attention and DeltaFormer: what they are without their own part, by equations, and what a fresh one is."""

import pytest
import torch
from torch.nn.functional import silu
from torch.testing import assert_close

from ostinato.layers.norms import l2_norm
from ostinato.mixers.attention.attention import Attention
from ostinato.mixers.attention.deltaformer import DeltaFormer
from ostinato.mixers.attention.path_attention import PathAttention
from tests.independent import load_peer


def build(kind, dim=8, **arguments):
    torch.manual_seed(0)
    return kind(dim, **{"heads": 2, **arguments}).double()


def silenced(mixer):
    """Beta at 0."""
    with torch.no_grad():
        mixer.project_beta.weight.zero_()
        mixer.project_beta.bias.fill_(-100)
    return mixer


def sequence(mixer, T=30):
    return mixer.random_input(2, T, torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("kind", "others"), [(PathAttention, {"rank": 3}), (DeltaFormer, {"rope": False}), (DeltaFormer, {"asks": "query"})]
)
def test_with_beta_at_0_it_is_softmax_attention(kind, others):
    mixer = silenced(build(kind, **others))
    rope = kind is DeltaFormer and mixer.rope
    full = build(Attention, position="rope" if rope else "none")
    weights = {name: weight for name, weight in mixer.state_dict().items() if name in full.state_dict()}
    full.load_state_dict(weights)
    x = sequence(mixer)
    assert_close(mixer(x)[0], full(x)[0])


def test_path_attention_by_its_equations():
    """The layer around flash-linear-attention's definition."""
    pytest.importorskip("einops")
    naive = load_peer("fla/ops/path_attn/naive.py")
    mixer = build(PathAttention, 12, heads=6, kv_heads=2, head_dim=5, rank=4).float()
    x = sequence(mixer)
    q, k, v = mixer.project_in(x).unflatten(-1, (-1, 5)).split([6, 2, 2], 2)
    low = mixer.project_w(x).mT
    taps = torch.nn.functional.conv1d(low, mixer.conv.weight[:, None], padding=2, groups=10)[..., :30].mT
    w, beta = l2_norm(silu(taps).unflatten(-1, (2, 5))), 2 * mixer.project_beta(x).sigmoid()
    o = naive.naive_path_attn(q, k, v, w, beta, torch.zeros(2, 30, 6), 5**-0.5, chunk_size=8)
    assert_close(mixer(x)[0], mixer.project_out(o.flatten(2)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("asks", ["key", "query", "own"])
def test_deltaformer_by_its_equations(asks):
    mixer = build(DeltaFormer, asks=asks, rope=False)
    x = sequence(mixer)
    q, k, v, *own = mixer.project_in(x).unflatten(-1, (-1, 2, 4)).unbind(2)
    w = {"key": k, "query": q, "own": own[0] if own else None}[asks]
    beta, u, y = mixer.project_beta(x).sigmoid(), [], []
    for t in range(30):
        known = torch.zeros_like(v[:, 0])
        if t:
            p = (torch.einsum("bhk,bjhk->bhj", w[:, t], k[:, :t]) / 2).softmax(-1)
            known = torch.einsum("bhj,bjhv->bhv", p, torch.stack(u, 1))
        u.append(v[:, t] - beta[:, t, :, None] * known)
        p = (torch.einsum("bhk,bjhk->bhj", q[:, t], k[:, : t + 1]) / 2).softmax(-1)
        y.append(torch.einsum("bhj,bjhv->bhv", p, torch.stack(u, 1)))
    assert_close(mixer(x)[0], mixer.project_out(torch.stack(y, 1).flatten(2)))


def test_a_cached_key_is_carried_by_each_token():
    mixer = build(PathAttention, rank=None)
    x = sequence(mixer, 6)
    _, before = mixer(x[:, :5])
    _, after = mixer(x[:, 5:], before)
    assert not torch.allclose(after.k[:, :5], before.k)
    # each is moved along one direction only, that of w
    moved = (after.k[:, :5] - before.k).transpose(1, 2)
    assert (torch.linalg.svdvals(moved)[..., 1:] < 1e-12).all()


def test_a_fresh_beta_is_in_the_middle():
    for kind, middle in ((PathAttention, 1.0), (DeltaFormer, 0.5)):
        torch.manual_seed(0)
        mixer = kind(64)
        x = sequence(mixer, 200)
        beta = 2 * middle * mixer.project_beta(x).sigmoid()
        assert abs(beta.mean() - middle) < 0.15 * middle


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="asks is one of key, query, own; got 'keys'"):
        build(DeltaFormer, asks="keys")
    with pytest.raises(ValueError, match="each has keys of its own; got 4 and 2 heads"):
        build(DeltaFormer, heads=4, kv_heads=2, asks="query")
