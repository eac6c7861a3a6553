"""Configs as they were published, with the names of their time: each makes a model of the size that transformers makes of it."""

import pytest
import torch

from ostinato import create
from ostinato.convert.importing import architecture_of
from ostinato.convert.settings import Settings

transformers = pytest.importorskip("transformers")

COMMON = dict(bos_token_id=1, eos_token_id=2, torch_dtype="bfloat16", transformers_version="4.43.0", use_cache=True)
MAMBA = dict(conv_kernel=4, hidden_act="silu", initializer_range=0.1, layer_norm_epsilon=1e-5, rescale_prenorm_residual=False,
             residual_in_fp32=True, state_size=16, time_step_floor=1e-4, time_step_init_scheme="random", time_step_max=0.1,
             time_step_min=1e-3, time_step_scale=1.0, use_bias=False, use_conv_bias=True)  # fmt: skip
LLAMA = dict(attention_bias=False, attention_dropout=0.0, hidden_act="silu", initializer_range=0.02, pretraining_tp=1)

PUBLISHED = {
    "Llama-3.1-8B": LLAMA | dict(
        model_type="llama", hidden_size=4096, intermediate_size=14336, max_position_embeddings=131072, mlp_bias=False,
        num_attention_heads=32, num_hidden_layers=32, num_key_value_heads=8, rms_norm_eps=1e-5, rope_theta=500000.0,
        rope_scaling={"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192, "rope_type": "llama3"},
        tie_word_embeddings=False, vocab_size=128256),
    "Mistral-7B-v0.1": dict(
        model_type="mistral", hidden_act="silu", hidden_size=4096, initializer_range=0.02, intermediate_size=14336,
        max_position_embeddings=32768, num_attention_heads=32, num_hidden_layers=32, num_key_value_heads=8,
        rms_norm_eps=1e-5, rope_theta=10000.0, sliding_window=4096, tie_word_embeddings=False, vocab_size=32000),
    "Qwen2.5-0.5B": dict(
        model_type="qwen2", attention_dropout=0.0, hidden_act="silu", hidden_size=896, initializer_range=0.02,
        intermediate_size=4864, max_position_embeddings=32768, max_window_layers=24, num_attention_heads=14,
        num_hidden_layers=24, num_key_value_heads=2, rms_norm_eps=1e-6, rope_theta=1000000.0, sliding_window=32768,
        tie_word_embeddings=True, use_mrope=False, use_sliding_window=False, vocab_size=151936),
    "Qwen3-0.6B": LLAMA | dict(
        model_type="qwen3", head_dim=128, hidden_size=1024, intermediate_size=3072, max_position_embeddings=40960,
        max_window_layers=28, num_attention_heads=16, num_hidden_layers=28, num_key_value_heads=8, rms_norm_eps=1e-6,
        rope_scaling=None, rope_theta=1000000, sliding_window=None, tie_word_embeddings=True, use_sliding_window=False,
        vocab_size=151936),
    "mamba-130m-hf": MAMBA | dict(
        model_type="mamba", d_inner=1536, d_model=768, expand=2, fused_add_norm=True, hidden_size=768,
        intermediate_size=1536, n_layer=24, num_hidden_layers=24, pad_vocab_size_multiple=8, rms_norm=True, ssm_cfg={},
        time_step_rank=48, vocab_size=50280),
    # its expansion is not what its width is
    "falcon-mamba-7b": MAMBA | dict(
        model_type="falcon_mamba", expand=16, hidden_size=4096, intermediate_size=8192, num_hidden_layers=64,
        tie_word_embeddings=False, time_step_rank=256, vocab_size=65024),
    "pythia-70m": dict(
        model_type="gpt_neox", hidden_act="gelu", hidden_size=512, initializer_range=0.02, intermediate_size=2048,
        layer_norm_eps=1e-5, max_position_embeddings=2048, num_attention_heads=8, num_hidden_layers=6,
        rotary_emb_base=10000, rotary_pct=0.25, tie_word_embeddings=False, use_parallel_residual=True, vocab_size=50304),
    "gpt2": dict(
        model_type="gpt2", activation_function="gelu_new", attn_pdrop=0.1, embd_pdrop=0.1, initializer_range=0.02,
        layer_norm_epsilon=1e-5, n_ctx=1024, n_embd=768, n_head=12, n_layer=12, n_positions=1024, resid_pdrop=0.1,
        summary_activation=None, summary_first_dropout=0.1, summary_proj_to_labels=True, summary_type="cls_index",
        summary_use_proj=True, task_specific_params={"text-generation": {"do_sample": True, "max_length": 50}},
        vocab_size=50257),
    "LFM2-1.2B": dict(
        model_type="lfm2", block_auto_adjust_ff_dim=True, block_dim=2048, block_ff_dim=12288, block_ffn_dim_multiplier=1.0,
        block_mlp_init_scale=1.0, block_multiple_of=256, block_norm_eps=1e-5, block_out_init_scale=1.0,
        block_use_swiglu=True, block_use_xavier_init=True, conv_L_cache=3, conv_bias=False, conv_dim=2048,
        conv_dim_out=2048, conv_use_xavier_init=True, full_attn_idxs=[2, 5, 8, 10, 12, 14], hidden_size=2048,
        initializer_range=0.02, max_position_embeddings=128000, norm_eps=1e-5, num_attention_heads=32, num_heads=32,
        num_hidden_layers=16, num_key_value_heads=8, rope_theta=1000000.0, use_pos_enc=True, vocab_size=65536),
    "recurrentgemma-2b": dict(
        model_type="recurrent_gemma", _block_types=["recurrent", "recurrent", "attention"], attention_bias=False,
        attention_dropout=0.0, attention_window_size=2048, conv1d_width=4, embeddings_scale_by_sqrt_dim=True, head_dim=256,
        hidden_activation="gelu_pytorch_tanh", hidden_size=2560, intermediate_size=15360, logits_soft_cap=30.0,
        lru_width=2560, num_attention_heads=10, num_hidden_layers=26, num_key_value_heads=1, partial_rotary_factor=0.5,
        rms_norm_eps=1e-6, rope_theta=10000.0, vocab_size=256000),
    "Falcon-H1-0.5B-Base": dict(
        model_type="falcon_h1", attention_bias=False, attention_dropout=0.0, attention_in_multiplier=1.0,
        attention_out_multiplier=0.9375, attn_layer_indices=None, embedding_multiplier=5.656854249492381, head_dim=64,
        hidden_act="silu", hidden_size=1024, initializer_range=0.02, intermediate_size=2048, key_multiplier=0.390625,
        lm_head_multiplier=0.0390625, mamba_chunk_size=128, mamba_conv_bias=True, mamba_d_conv=4, mamba_d_head=64,
        mamba_d_ssm=1536, mamba_d_state=128, mamba_expand=2, mamba_n_groups=1, mamba_n_heads=24,
        mamba_norm_before_gate=False, mamba_proj_bias=False, mamba_rms_norm=False, mamba_use_mlp=True,
        max_position_embeddings=16384, mlp_bias=False, mlp_expansion_factor=8,
        mlp_multipliers=[0.8838834764831844, 0.5859375], num_attention_heads=8, num_hidden_layers=36, num_key_value_heads=2,
        num_logits_to_keep=1, projectors_bias=False, rms_norm_eps=1e-5, rope_scaling=None, rope_theta=100000000000.0,
        ssm_in_multiplier=1.25, ssm_multipliers=[0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
        ssm_out_multiplier=0.23570226039551584, tie_word_embeddings=False, vocab_size=32784),
    "MiniMax-Text-01-hf": dict(
        model_type="minimax", attention_dropout=0.0, block_size=256, full_attn_alpha_factor=3.5565588200778455,
        full_attn_beta_factor=1.0, head_dim=128, hidden_act="silu", hidden_size=6144, initializer_range=0.02,
        intermediate_size=9216, linear_attn_alpha_factor=3.5565588200778455, linear_attn_beta_factor=1.0,
        layer_types=["full_attention" if i % 8 == 7 else "linear_attention" for i in range(80)],
        max_position_embeddings=10240000, mlp_alpha_factor=3.5565588200778455, mlp_beta_factor=1.0, num_attention_heads=64,
        num_experts_per_tok=2, num_hidden_layers=80, num_key_value_heads=8, num_local_experts=32, rms_norm_eps=1e-5,
        rope_theta=10000000, router_aux_loss_coef=0.001, router_jitter_noise=0.0, sliding_window=None,
        tie_word_embeddings=False, vocab_size=200064),
    "rwkv-4-169m-pile": dict(
        model_type="rwkv", attention_hidden_size=768, context_length=1024, hidden_size=768, intermediate_size=3072,
        layer_norm_epsilon=1e-5, num_hidden_layers=12, rescale_every=6, tie_word_embeddings=False, vocab_size=50277),
    "xLSTM-7b": dict(
        model_type="xlstm", embedding_dim=4096, hidden_size=4096, num_heads=8, num_blocks=32, num_hidden_layers=32,
        vocab_size=50304, qk_dim_factor=0.5, v_dim_factor=1.0, ffn_proj_factor=2.667, ffn_round_up_to_multiple_of=64,
        gate_soft_cap=15.0, output_logit_soft_cap=30.0, chunk_size=64, chunkwise_kernel="chunkwise--native_autograd",
        weight_mode="single", add_out_norm=True, use_bias=False, norm_eps=1e-6),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_makes_a_model_of_the_same_size(name):
    values = COMMON | PUBLISHED[name]
    settings = Settings(values)
    arguments = architecture_of(values).arguments(settings)
    settings.finish()
    values.pop("torch_dtype")
    config = transformers.AutoConfig.for_model(**values)
    with torch.device("meta"):
        ours = create("model:language_model", **arguments)
        theirs = transformers.AutoModelForCausalLM.from_config(config)
    theirs.tie_weights()
    assert ours.parameter_count() == theirs.num_parameters()


@pytest.mark.parametrize(
    "name", sorted({values["model_type"] for values in PUBLISHED.values()} | {"bamba", "jamba", "mamba2", "qwen3_next"})
)
def test_what_a_config_leaves_out_is_what_transformers_has_there(name):
    sizes = dict(vocab_size=64, hidden_size=512, num_hidden_layers=8)
    if name in ("mamba2", "bamba"):
        sizes |= {"num_heads": 16} if name == "mamba2" else {"mamba_n_heads": 16}
    if name not in ("mamba", "falcon_mamba", "mamba2", "xlstm", "rwkv", "gpt2"):
        sizes |= dict(num_attention_heads=16, intermediate_size=512)
    if name == "falcon_h1":
        sizes |= {"mamba_n_heads": 16}
    if name == "gpt2":
        sizes = dict(vocab_size=64, n_embd=768)
    values = {"model_type": name, **sizes}
    whole = Settings(transformers.AutoConfig.for_model(**values).to_dict())
    left_out = Settings(values)
    architecture = architecture_of(values)
    assert architecture.arguments(left_out) == architecture.arguments(whole)
    whole.finish()
