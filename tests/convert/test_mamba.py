"""Mamba, Falcon-Mamba and Mamba-2 against transformers."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from ostinato import from_pretrained
from tests.convert.parity import check, randomised

transformers = pytest.importorskip("transformers")

SIZES = dict(vocab_size=61, hidden_size=20, num_hidden_layers=3)


def build(family, gain=1.2, **settings):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(SIZES | settings))
    return randomised(getattr(transformers, f"{family}ForCausalLM")(config), gain)


@pytest.mark.parametrize("family", ["Mamba", "FalconMamba"])
@pytest.mark.parametrize(
    "settings",
    [
        dict(state_size=5, conv_kernel=3, layer_norm_epsilon=1e-3),
        dict(time_step_rank=3, expand=3, use_bias=True, use_conv_bias=False, tie_word_embeddings=False),
    ],
)
def test_mamba(family, settings, tmp_path):
    # with a bias, transformers 5.23 lets what the projection makes of padding into the convolution
    check(build(family, **settings), tmp_path, masked="use_bias" not in settings)


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_heads=5, head_dim=8, n_groups=1, conv_kernel=3),
        dict(num_heads=6, head_dim=10, expand=3, n_groups=3, use_bias=True, use_conv_bias=False,
             tie_word_embeddings=True, layer_norm_epsilon=1e-3),
        dict(num_heads=5, head_dim=8, n_groups=1, time_step_limit=(0.4, 0.9)),
    ],
)  # fmt: skip
def test_mamba2(settings, tmp_path):
    theirs = build("Mamba2", **({"state_size": 7, "chunk_size": 16} | settings))
    # as above; and with a state, transformers 5.23 forgets the limits
    check(theirs, tmp_path, masked="use_bias" not in settings, cached="time_step_limit" not in settings)


@pytest.mark.parametrize(
    "settings",
    [
        dict(attn_layer_indices=[1], num_key_value_heads=1),
        dict(attn_layer_indices=[0, 2], num_key_value_heads=3, mamba_n_groups=2, attention_bias=True, mlp_bias=True,
             mamba_proj_bias=True, mamba_conv_bias=False, tie_word_embeddings=True),
    ],
)  # fmt: skip
def test_bamba(settings, tmp_path):
    sizes = dict(hidden_size=48, intermediate_size=44, num_attention_heads=3, mamba_n_heads=4, mamba_d_state=5)
    sizes |= dict(mamba_chunk_size=16, attn_implementation="eager")
    check(build("Bamba", **(sizes | settings)), tmp_path, masked="mamba_proj_bias" not in settings)  # as above


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_key_value_heads=1, num_experts=1),
        dict(num_key_value_heads=1, num_experts=3, num_experts_per_tok=2, experts_implementation="eager"),
        dict(num_key_value_heads=3, mamba_dt_rank=4, mamba_proj_bias=True, mamba_conv_bias=False, tie_word_embeddings=True,
             expert_layer_period=8, expert_layer_offset=5, rms_norm_eps=1e-3),
    ],
)  # fmt: skip
def test_jamba(settings, tmp_path):
    sizes = dict(hidden_size=30, intermediate_size=44, num_attention_heads=3, mamba_d_state=5, use_mamba_kernels=False)
    sizes |= dict(attn_layer_period=2, attn_layer_offset=1, attn_implementation="eager")
    check(build("Jamba", **(sizes | settings)), tmp_path, masked="mamba_proj_bias" not in settings)  # as above


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_key_value_heads=1, key_multiplier=0.39, attention_in_multiplier=1.2, attention_out_multiplier=0.9,
             ssm_in_multiplier=1.25, ssm_out_multiplier=0.7, ssm_multipliers=[0.7, 1.5, 0.6, 0.8, 1.3], embedding_multiplier=2.5,
             lm_head_multiplier=0.4, mlp_multipliers=[0.88, 0.59]),
        dict(num_key_value_heads=3, mamba_rms_norm=True, mamba_n_groups=2, attention_bias=True, mlp_bias=True,
             mamba_proj_bias=True, projectors_bias=True, mamba_conv_bias=False, tie_word_embeddings=True),
        dict(num_key_value_heads=3, mamba_rms_norm=True, mamba_norm_before_gate=False, mamba_d_ssm=None, rms_norm_eps=1e-3),
    ],
)  # fmt: skip
def test_falcon_h1(settings, tmp_path):
    sizes = dict(
        hidden_size=30, intermediate_size=44, num_attention_heads=3, mamba_d_ssm=60, mamba_n_heads=4, mamba_d_state=5
    )
    sizes |= dict(mamba_chunk_size=16, attn_implementation="eager")
    theirs = build("FalconH1", **(sizes | settings))
    check(theirs, tmp_path, masked="mamba_proj_bias" not in settings)  # as above


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        dict(num_mem_blocks=2, use_mem_rope=True, use_shared_attention_adapter=True, add_bias_linear=True, mamba_ngroups=2,
             rms_norm_eps=1e-3),
        dict(num_key_value_heads=1, use_mem_rope=True, layers_block_type=["hybrid", "mamba", "hybrid", "mamba", "mamba"]),
    ],
)  # fmt: skip
def test_zamba2(settings, tmp_path):
    sizes = dict(hidden_size=24, num_hidden_layers=5, intermediate_size=20, num_attention_heads=4, n_mamba_heads=4)
    sizes |= dict(mamba_d_state=5, adapter_rank=3, chunk_size=16, attn_implementation="eager", time_step_min=0.3)
    sizes |= dict(layers_block_type=["mamba", "hybrid", "hybrid", "mamba", "hybrid"])
    # as above: padding with a bias; with a state, the least step size is forgotten
    check(build("Zamba2", 0.8, **(sizes | settings)), tmp_path, masked="add_bias_linear" not in settings, cached=False)


def test_blocks_that_zamba2_shares_may_be_stored_with_each_layer(tmp_path):
    sizes = dict(intermediate_size=20, num_attention_heads=4, n_mamba_heads=4, mamba_d_state=5, adapter_rank=3)
    sizes |= dict(num_hidden_layers=2, layers_block_type=["hybrid", "hybrid"])
    build("Zamba2", **sizes).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    norm = "model.layers.{}.shared_transformer.input_layernorm.weight"
    save_file(tensors | {norm.format(1): tensors[norm.format(0)].clone()}, path)
    from_pretrained(tmp_path)
    save_file(tensors | {norm.format(1): tensors[norm.format(0)] + 1}, path)
    with pytest.raises(ValueError, match=f"{norm.format(1)} is not equal to {norm.format(0)}"):
        from_pretrained(tmp_path)
