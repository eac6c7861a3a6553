"""LFM2, RecurrentGemma, RWKV-4, xLSTM and Qwen3-Next against transformers."""

import pytest
import torch

from tests.convert.parity import check, randomised

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "settings",
    [
        dict(layer_types=["conv", "full_attention", "conv"], norm_eps=1e-3),
        dict(full_attn_idxs=[0, 2], conv_bias=True, conv_L_cache=4, tie_word_embeddings=False, block_multiple_of=10,
             block_ffn_dim_multiplier=1.3),
        dict(layer_types=["conv", "conv", "conv"], block_auto_adjust_ff_dim=False),
    ],
)  # fmt: skip
def test_lfm2(settings, tmp_path):
    sizes = dict(vocab_size=61, hidden_size=30, intermediate_size=44, num_hidden_layers=3, num_attention_heads=3)
    sizes |= dict(num_key_value_heads=1, attn_implementation="eager")
    theirs = randomised(transformers.Lfm2ForCausalLM(transformers.Lfm2Config(**(sizes | settings))))
    # transformers 5.23 cannot generate with a state where no layer is attention
    masked = "conv_bias" not in settings  # with a bias, what is made of padding gets into the convolution
    check(theirs, tmp_path, masked=masked, cached="full_attention" in theirs.config.layer_types)


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_key_value_heads=1, attention_window_size=9),
        dict(num_key_value_heads=3, attention_window_size=70, lru_width=42, conv1d_width=3, attention_bias=True,
             block_types=["attention", "recurrent"], logits_soft_cap=2.0, tie_word_embeddings=False),
    ],
)  # fmt: skip
def test_recurrent_gemma(settings, tmp_path):
    sizes = dict(vocab_size=61, hidden_size=36, intermediate_size=88, num_hidden_layers=4, num_attention_heads=3)
    config = transformers.RecurrentGemmaConfig(**(sizes | settings), attn_implementation="eager")
    # transformers 5.23 lets its recurrence read padding
    check(randomised(transformers.RecurrentGemmaForCausalLM(config)), tmp_path, masked=False)


@pytest.mark.parametrize("settings", [dict(), dict(intermediate_size=37, rescale_every=0, tie_word_embeddings=True)])
def test_rwkv(settings, tmp_path):
    sizes = dict(vocab_size=61, hidden_size=18, num_hidden_layers=5, context_length=200)
    theirs = randomised(transformers.RwkvForCausalLM(transformers.RwkvConfig(**(sizes | settings))))
    # numbers as in 16 bits, as published: 1 - x is exact. With a state, transformers 5.23 disagrees with itself without one
    check(theirs.bfloat16().float(), tmp_path, cached=False, masked=False)


@pytest.mark.parametrize(
    "settings",
    [dict(num_heads=3), dict(num_heads=1, qk_dim_factor=1.0, gate_soft_cap=2.0, output_logit_soft_cap=3.0, norm_eps=1e-3,
                             ffn_proj_factor=2.0, ffn_round_up_to_multiple_of=8, tie_word_embeddings=True)],
)  # fmt: skip
def test_xlstm(settings, tmp_path):
    sizes = dict(vocab_size=61, hidden_size=24, num_hidden_layers=3, chunk_size=16)
    # transformers 5.23 cannot generate with a state from prompts that are no multiple of the chunk
    theirs = randomised(transformers.xLSTMForCausalLM(transformers.xLSTMConfig(**(sizes | settings))))
    # ... nor in bfloat16 on a CPU
    check(theirs, tmp_path, cached=False, masked=False, halved=False)


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_experts=0),
        dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=14, shared_expert_intermediate_size=10,
             mlp_only_layers=[1], norm_topk_prob=False),
        dict(mlp_only_layers=[0, 1, 2], linear_num_key_heads=3, linear_num_value_heads=3, attention_bias=True,
             layer_types=["full_attention", "linear_attention", "full_attention"], tie_word_embeddings=True,
             rope_parameters={"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}),
    ],
)  # fmt: skip
def test_qwen3_next(settings, tmp_path):
    sizes = dict(
        vocab_size=61, hidden_size=30, intermediate_size=44, num_hidden_layers=3, num_attention_heads=3, head_dim=8
    )
    sizes |= dict(num_key_value_heads=1, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=5)
    sizes |= dict(linear_value_head_dim=6, layer_types=["linear_attention", "full_attention", "linear_attention"])
    sizes |= dict(attn_implementation="eager", experts_implementation="eager")
    config = transformers.Qwen3NextConfig(**(sizes | settings))
    # with a gain of 1.2 the float32 of transformers is 3e-4 away from its own float64; its gradients are 6e-4 away from
    # ours in float64, and ours in float32 1e-4
    check(randomised(transformers.Qwen3NextForCausalLM(config), gain=0.7), tmp_path, slack=5e-4)


@pytest.mark.parametrize(
    "settings",
    [
        dict(num_key_value_heads=1, linear_attn_alpha_factor=1.5, linear_attn_beta_factor=0.7, full_attn_alpha_factor=1.3,
             full_attn_beta_factor=0.9, mlp_alpha_factor=1.1, mlp_beta_factor=0.8, sliding_window=17),
        dict(num_key_value_heads=3, layer_types=["linear_attention", "linear_attention", "full_attention"], head_dim=8,
             num_local_experts=3, num_experts_per_tok=1, tie_word_embeddings=True, rms_norm_eps=1e-3),
    ],
)  # fmt: skip
def test_minimax(settings, tmp_path):
    sizes = dict(vocab_size=61, hidden_size=30, intermediate_size=14, num_hidden_layers=3, num_attention_heads=3)
    sizes |= dict(num_local_experts=4, block_size=16, attn_implementation="eager", experts_implementation="eager")
    check(randomised(transformers.MiniMaxForCausalLM(transformers.MiniMaxConfig(**(sizes | settings)))), tmp_path)
