"""Gated DeltaNet against the layer of Qwen3-Next in transformers, and what a fresh model promises."""

import pytest
import torch
from torch.testing import assert_close

import ostinato


def qwen3_next(**sizes):
    """The layer of transformers, every weight of it random."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    config = transformers.Qwen3NextConfig(
        num_hidden_layers=1, layer_types=["linear_attention"], rms_norm_eps=1e-6, linear_conv_kernel_dim=4, **sizes
    )
    layer = Qwen3NextGatedDeltaNet(config, layer_idx=0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.4 * torch.randn_like(parameter))
    return layer


@pytest.mark.parametrize(("heads", "key_heads"), [(3, 3), (4, 2)])
def test_gated_deltanet_equals_the_layer_of_qwen3_next(heads, key_heads):
    torch.manual_seed(0)
    D, K, V = 24, 5, 6
    theirs = qwen3_next(
        hidden_size=D, linear_num_value_heads=heads, linear_num_key_heads=key_heads,
        linear_key_head_dim=K, linear_value_head_dim=V,
    )  # fmt: skip
    ours = ostinato.create("gated_deltanet", dim=D, heads=heads, key_heads=key_heads, key_dim=K, value_dim=V, eps=1e-6)
    sharing = heads // key_heads
    with torch.no_grad():
        # theirs keeps q, k, v and gate of a key head together, then beta and dt of a key head
        q, k, v, gate = (
            part.flatten(0, 1)
            for part in theirs.in_proj_qkvz.weight.unflatten(0, (key_heads, -1)).split(
                [K, K, sharing * V, sharing * V], 1
            )
        )
        beta, dt = (part.flatten(0, 1) for part in theirs.in_proj_ba.weight.unflatten(0, (key_heads, -1)).chunk(2, 1))
        ours.project_in.weight.copy_(torch.cat([q, k, v, gate, beta, dt]))
        ours.convolution.weight.copy_(theirs.conv1d.weight[:, 0])
        ours.A_log.copy_(theirs.A_log)
        ours.dt_bias.copy_(theirs.dt_bias)
        ours.norm.weight.copy_(theirs.norm.weight)
        ours.project_out.weight.copy_(theirs.out_proj.weight)
    x = torch.randn(2, 150, D)
    assert_close(ours(x)[0], theirs(x), rtol=1e-4, atol=1e-4)


def test_without_decay_the_memory_is_that_of_deltanet():
    torch.manual_seed(0)
    gated = ostinato.create("gated_deltanet", dim=8, heads=2, key_dim=3, value_dim=5)
    plain = ostinato.create("deltanet", dim=8, heads=2, key_dim=3, value_dim=5)
    qkv, _, beta, _ = gated.project_in.weight.split(gated.widths)
    with torch.no_grad():
        gated.A_log.fill_(-torch.inf)
        plain.project_in.weight.copy_(torch.cat([qkv, beta]))
        plain.convolution.weight.copy_(gated.convolution.weight)
    x = torch.randn(2, 100, 8)
    assert_close(gated(x)[1].S, plain(x)[1].S)


def test_what_is_left_in_a_fresh_model():
    """The docstring's numbers: what tokens that say nothing leave of a memory, on average over heads."""
    torch.manual_seed(0)
    mixer = ostinato.create("gated_deltanet", dim=8, heads=1000, key_dim=1, value_dim=1)
    state = mixer.initial_state(1)
    state = state._replace(S=torch.ones_like(state.S))
    with torch.no_grad():
        left = [mixer(torch.zeros(1, tokens, 8), state)[1].S.mean().item() for tokens in (1, 16, 64)]
    assert left == pytest.approx([0.86, 0.41, 0.18], abs=0.02)
    assert mixer.A_log.exp().min() > 0
    assert mixer.A_log.exp().max() < 16
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert 0.00099 < dt.min() < 0.002 < 0.05 < dt.max() < 0.1001


def test_default_widths_are_those_of_the_paper():
    """Six D^2 weights: keys of 3/4 D in all, values of 3/2 D."""
    mixer = ostinato.create("gated_deltanet", dim=256)
    assert mixer.state_shape == (4, 48, 96)
    matrices = mixer.project_in.weight[:-8].numel() + mixer.project_out.weight.numel()
    assert matrices == 6 * 256**2
