"""Griffin's recurrent block against RecurrentGemma's, and the decays of a fresh one."""

import pytest
import torch
from torch.testing import assert_close
from transformers import RecurrentGemmaConfig
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock

from ostinato import create


def pair(conv_width):
    """RecurrentGemma's block with random weights, and ours with the same."""
    torch.manual_seed(0)
    config = RecurrentGemmaConfig(hidden_size=12, lru_width=12, num_attention_heads=3, conv1d_width=conv_width)
    theirs = RecurrentGemmaRecurrentBlock(config, layer_idx=0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    unit = theirs.rg_lru
    ours = create("rg_lru", dim=12, heads=3, conv_width=conv_width)
    ours.load_state_dict(
        {
            "Lambda": unit.recurrent_param,
            "gates": torch.cat([unit.input_gate_weight, unit.recurrent_gate_weight], -1),
            "gates_bias": torch.cat([unit.input_gate_bias, unit.recurrent_gate_bias], -1),
            "project_in.weight": torch.cat([theirs.linear_x.weight, theirs.linear_y.weight]),
            "project_in.bias": torch.cat([theirs.linear_x.bias, theirs.linear_y.bias]),
            "convolution.weight": theirs.conv_1d.weight[:, 0],
            "convolution.bias": theirs.conv_1d.bias,
            "project_out.weight": theirs.linear_out.weight,
            "project_out.bias": theirs.linear_out.bias,
        }
    )
    return ours.double(), theirs.double()


def test_rg_lru_equals_transformers():
    ours, theirs = pair(conv_width=4)
    x = torch.randn(2, 50, 12).double().requires_grad_()
    y = ours(x)[0]
    expected, _ = theirs(x, torch.arange(50).expand(2, -1), None, use_cache=False)
    gradients = [torch.autograd.grad(part.sin().sum(), x)[0] for part in (y, expected)]
    # transformers scans in float32
    assert_close(y, expected, rtol=1e-5, atol=1e-6)
    assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_rg_lru_equals_transformers_on_packed_documents():
    """Its documents begin where positions are 0. Its convolution looks across them, so it gets one tap."""
    ours, theirs = pair(conv_width=1)
    x, lengths = torch.randn(2, 50, 12).double(), (13, 30, 7)
    positions = torch.cat([torch.arange(length) for length in lengths]).expand(2, -1)
    y, _ = ours(x, reset=positions == 0)
    assert_close(y, theirs(x, positions, None, use_cache=False)[0], rtol=1e-5, atol=1e-6)


def left_after(mixer, tokens):
    """What is left of the state of the beginning after so many tokens of 0."""
    state = mixer.initial_state(1)._replace(h=torch.ones(1, mixer.width), begun=torch.ones(1, dtype=torch.bool))
    return mixer(torch.zeros(1, tokens, mixer.dim), state)[1].h[0]


def test_a_fresh_rg_lru_decays_as_it_promises():
    """By a^(c / 2) at each step of an input of 0, with a^c between 0.9 and 0.999."""
    torch.manual_seed(0)
    mixer = create("rg_lru", dim=400)
    one = left_after(mixer, 1)
    assert 0.9 <= (one**2).min() < 0.903
    assert 0.996 < (one**2).max() <= 0.9991
    assert (one**2).mean().item() == pytest.approx(0.9495, abs=0.005)
    for tokens in (16, 64):
        assert_close(left_after(mixer, tokens), one**tokens, rtol=1e-4, atol=1e-6)


def test_a_fresh_rg_lru_can_begin_as_in_the_authors_code():
    """There a, not a^c, lies between 0.9 and 0.999: about 0.82 is left after a step of an input of 0."""
    torch.manual_seed(0)
    one = left_after(create("rg_lru", dim=400, min_decay=0.9**8, max_decay=0.999**8), 1)
    assert one.min() >= 0.9**4 - 1e-6
    assert one.max() <= 0.999**4 + 1e-6
    assert one.mean().item() == pytest.approx(0.84, abs=0.03)


def test_gradients_are_finite_where_the_gate_is_shut():
    """r = 0 in float32: a = 1, and the root of 1 - a^2 has no slope there."""
    mixer = create("rg_lru", dim=8, heads=2)
    with torch.no_grad():
        mixer.gates_bias.fill_(-200)
    y, _ = mixer(torch.randn(2, 20, 8))
    y.sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in mixer.parameters())


@pytest.mark.parametrize(("wrong", "message"), [(dict(heads=3), "heads=3"), (dict(max_decay=1.0), "between 0 and 1")])
def test_rg_lru_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        create("rg_lru", dim=8, **wrong)
