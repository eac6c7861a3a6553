"""The linear-recurrence mixers against independent implementations, and what their fresh weights promise."""

import pytest
import torch
from torch.testing import assert_close

import ostinato
from tests.independent import load_peer


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_min_gru_equals_min_gru_pytorch():
    theirs = load_peer("minGRU_pytorch/minGRU.py").minGRU(10, expansion_factor=1.5)
    ours = ostinato.create("min_gru", dim=10)
    ours.load_state_dict(
        {"project_in.weight": theirs.to_hidden_and_gate.weight, "project_out.weight": theirs.to_out.weight}
    )
    x = torch.randn(2, 40, 10)
    expected, hidden = theirs(x, return_next_prev_hidden=True)
    y, state = ours(x)
    assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert_close(state.h, hidden[:, -1], rtol=1e-4, atol=1e-5)


def test_min_lstm_by_a_loop_over_the_equations():
    mixer = ostinato.create("min_lstm", dim=6, expansion=1.0).double()
    x = torch.randn(1, 30, 6, dtype=torch.float64) * 3
    h, outputs = torch.zeros(6, dtype=torch.float64), []
    W = mixer.project_in.weight
    for x_t in x[0]:
        candidate, f, i = (W[n * 6 : n * 6 + 6] @ x_t for n in range(3))
        f, i = f.sigmoid(), i.sigmoid()
        h = f / (f + i) * h + i / (f + i) * torch.where(candidate >= 0, candidate + 0.5, candidate.sigmoid())
        outputs.append(h)
    assert_close(mixer(x)[0][0], torch.stack(outputs))


def test_mlstm_equals_the_layer_of_transformers():
    transformers = pytest.importorskip("transformers")
    from transformers.models.xlstm.modeling_xlstm import xLSTMLayer

    config = transformers.xLSTMConfig(
        hidden_size=16, num_heads=2, qk_dim_factor=0.5, v_dim_factor=1.0, mode="inference"
    )
    theirs = xLSTMLayer(config)
    ours = ostinato.create("mlstm", dim=16, heads=2, key_dim=4)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.5)
        for ours_, parts in (
            (ours.project_in.weight, [theirs.q, theirs.k, theirs.v, theirs.ogate_preact]),
            (ours.gates.weight, [theirs.igate_preact, theirs.fgate_preact]),
            (ours.project_out.weight, [theirs.out_proj]),
        ):
            ours_.copy_(torch.cat([part.weight for part in parts]))
        ours.gates.bias.copy_(torch.cat([theirs.igate_preact.bias, theirs.fgate_preact.bias]))
        ours.norm_weight.copy_(theirs.multihead_norm.weight)
    x = torch.randn(2, 50, 16)
    assert_close(ours(x)[0], theirs(x)[0], rtol=1e-4, atol=1e-4)


def test_mlstm_forgets_and_writes_as_declared_when_fresh():
    mixer = ostinato.create("mlstm", dim=16, heads=4)
    bias = mixer.gates.bias.detach()
    assert_close(bias[:4].exp(), torch.full((4,), 4.54e-5), rtol=1e-3, atol=0)
    assert_close(bias[4:].sigmoid()[[0, 3]], torch.tensor([0.9526, 0.9975]), rtol=1e-3, atol=0)
    assert mixer.gates.weight.abs().max() == 0


def test_linear_attention_averages_values():
    """Each output is a weighted mean of the values so far, so equal values come out unchanged."""
    mixer = ostinato.create("linear_attention", dim=8, heads=2)
    with torch.no_grad():
        mixer.project_out.weight.copy_(torch.eye(8))
        x = torch.randn(1, 30, 8)
        values = mixer.project_in(x)[..., 16:]
        y, _ = mixer(x)
    assert_close(y[:, 0], values[:, 0], rtol=1e-4, atol=1e-4)
    low, high = values.cummin(1).values, values.cummax(1).values
    assert ((y >= low - 1e-4) & (y <= high + 1e-4)).all()


def test_hgrn2_equals_the_naive_gla_with_the_forgotten_as_key():
    naive = load_peer("fla/ops/gla/naive.py").naive_recurrent_gla
    mixer = ostinato.create("hgrn2", dim=8, heads=2, key_dim=3, lower_bound=0.3)
    x = torch.randn(2, 30, 8)
    q, f, i = (part.unflatten(-1, (2, -1)) for part in mixer.project_in(x).split([6, 6, 8], -1))
    gate = 0.3 + 0.7 * f.sigmoid()
    o, _ = naive(torch.nn.functional.silu(q) * 3**0.5, 1 - gate, i, gate.log())
    assert_close(mixer(x)[0], mixer.project_out(mixer.norm(o.flatten(-2))), rtol=1e-4, atol=1e-5)


def test_hgrn2_keeps_at_least_its_lower_bound():
    """What the first token wrote is there, after 20 more, with at least the bound to the power of 20."""
    mixer = ostinato.create("hgrn2", dim=8, heads=2, lower_bound=0.9).double()
    x = torch.randn(1, 21, 8, dtype=torch.float64)
    first = mixer(x[:, :1])[1].S.requires_grad_()
    after = mixer(x[:, 1:], type(mixer.initial_state(1))(first))[1].S
    (kept,) = torch.autograd.grad(after.sum(), first)
    assert (kept >= 0.9**20 - 1e-12).all()
    assert (kept < 1).all()


def test_gla_with_gates_that_stay_open_is_linear_attention():
    """Slowness without end keeps everything: the state is then the plain sum of k v^T."""
    mixer = ostinato.create("gla", dim=8, heads=2, slowness=1e12).double()
    x = torch.randn(2, 30, 8, dtype=torch.float64)
    _, k, v, _ = (part.unflatten(-1, (2, -1)) for part in mixer.project_in(x).split(mixer.widths, -1))
    assert_close(mixer(x)[1].S, torch.einsum("bthk,bthv->bhkv", k, v), rtol=1e-6, atol=1e-6)


def test_fresh_gla_forgets_as_slowly_as_declared():
    """sigmoid(0)^(1/16): a fresh model keeps about 0.958, 1/2 and 1/16 of a token after 1, 16 and 64 more."""
    mixer = ostinato.create("gla", dim=64, heads=4)
    gates = torch.sigmoid(mixer.decay(torch.randn(1, 1000, 64))) ** (1 / 16)
    for tokens, kept in ((1, 0.958), (16, 0.5), (64, 0.0625)):
        assert_close(gates.log().mean().mul(tokens).exp().item(), kept, rtol=0.1, atol=0)


def test_retention_equals_its_parallel_form():
    """The same numbers from a dense matrix of decays, queries and keys rotated as complex numbers."""
    mixer = ostinato.create("retention", dim=8, heads=2).double()
    x = torch.randn(1, 40, 8, dtype=torch.float64)
    q, k, v, gate = (part.unflatten(-1, (2, -1))[0] for part in mixer.project_in(x).split(mixer.widths, -1))
    turn = torch.polar(
        torch.ones(40, 2, dtype=torch.float64), torch.outer(torch.arange(40.0), torch.tensor([1.0, 0.01])).double()
    )
    q, k = (torch.complex(part[..., :2], part[..., 2:]) * turn[:, None] for part in (q, k))
    scores = torch.einsum("ihk,jhk->hij", q, k.conj()).real / 2
    distance = torch.arange(40)[:, None] - torch.arange(40)
    for h, decay in enumerate((31 / 32, 63 / 64)):
        scores[h] *= torch.where(distance >= 0, decay**distance, 0.0)
    o = torch.einsum("hij,jhv->ihv", scores, v)
    y = torch.nn.functional.silu(gate) * torch.nn.functional.layer_norm(o, (8,))
    assert_close(mixer(x)[0][0], mixer.project_out(y.flatten(-2)), rtol=1e-6, atol=1e-6)


def test_retention_equals_the_naive_one_of_flash_linear_attention():
    """With every position at 0 nothing is rotated, and retention is the naive function on q, k and v."""
    naive = load_peer("fla/ops/retention/naive.py").naive_retention
    mixer = ostinato.create("retention", dim=12, heads=3, value_factor=1, theta=1e300)
    x = torch.randn(2, 30, 12)
    q, k, v, gate = (part.unflatten(-1, (3, -1)) for part in mixer.project_in(x).split(mixer.widths, -1))
    # the first pair turns by its position whatever theta is: undo it by looking at the other one only
    with torch.no_grad():
        mixer.project_in.weight.view(-1, 3, 4, 12)[:2, :, [0, 2]] = 0
    q, k = (torch.stack([part[..., n] * (n in (1, 3)) for n in range(4)], -1) for part in (q, k))
    o = naive(*(part.transpose(1, 2) for part in (q, k, v))).transpose(1, 2)
    y = torch.nn.functional.silu(gate) * torch.nn.functional.layer_norm(o, (4,))
    assert_close(mixer(x)[0], mixer.project_out(y.flatten(-2)), rtol=1e-4, atol=1e-5)
