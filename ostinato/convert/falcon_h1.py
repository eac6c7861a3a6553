"""Falcon-H1: attention and Mamba-2 side by side in every layer, and numbers that scale what goes in and out of each part.

    x = x + a attention(b norm(x)) + c mamba2(d norm(x));   x = x + f mlp(norm(x))

All of these numbers are arguments here; that of the keys is part of the scale of the scores.

Zuo et al. 2025, https://arxiv.org/abs/2507.22448.
"""

from collections.abc import Mapping
from typing import Any

from ostinato.convert.architecture import Architecture, attention_rows, gated_mlp_rows, norm_rows
from ostinato.convert.mamba import common_rows, expansion, limits, mamba2_rows
from ostinato.convert.settings import Settings, pick, rope
from ostinato.convert.table import Row, same
from ostinato.registry import register

SIDE_BY_SIDE = "wrapper:parallel_heads"


@register("convert:falcon_h1")
class FalconH1(Architecture):
    """Falcon-H1 of transformers."""

    model_type = "falcon_h1"
    class_name = "FalconH1ForCausalLM"

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip(
            "mamba_chunk_size",
            "num_logits_to_keep",
            "layer_types",
            "layers_block_type",
            "mamba_use_mlp",
            "mlp_expansion_factor",
        )
        dim = settings.take("hidden_size")
        settings.only("hidden_act", "silu")
        eps = settings.take("rms_norm_eps", default=1e-5)
        mlp_scales = settings.take("mlp_multipliers", default=[1.0, 1.0])
        bias = settings.take("mlp_bias", default=False)
        mlp = {"hidden": settings.take("intermediate_size", default=14336), "bias": bias, "gate_scale": mlp_scales[0]}
        number = {
            name: settings.take(f"{name}_multiplier", default=1.0)
            for name in ("attention_in", "attention_out", "ssm_in", "ssm_out", "embedding", "lm_head")
        }
        sides = {
            "mixers": [{"attention": self.attention(settings, dim)}, {"mamba2": self.mamba(settings, dim, eps)}],
            "fusion": "sum",
            "in_scales": [number["attention_in"], number["ssm_in"]],
            "out_scales": [number["attention_out"], number["ssm_out"]],
        }
        return {
            "vocab_size": settings.take("vocab_size", default=128000),
            "dim": dim,
            "layers": settings.take("num_hidden_layers", default=32),
            "pattern": [{SIDE_BY_SIDE: sides}],
            "mlp": {"swiglu": mlp},
            "tie": settings.take("tie_word_embeddings", default=False),
            "eps": eps,
            "embedding_scale": number["embedding"],
            "logit_scale": number["lm_head"],
            "shares": [1.0, 1.0, 1.0, mlp_scales[1]],
        }

    def attention(self, settings: Settings, dim: int) -> dict[str, Any]:
        """Arguments of attention."""
        heads = settings.take("num_attention_heads", default=32)
        head_dim = settings.take("head_dim", default=dim // heads)
        found = {"heads": heads, "kv_heads": settings.kv_heads(heads, 8), "head_dim": head_dim}
        found |= {"bias": settings.take("attention_bias", default=False)} | rope(settings, head_dim)
        scale = settings.take("key_multiplier", default=1.0)
        return found if scale == 1 else found | {"scale": scale * head_dim**-0.5}

    def mamba(self, settings: Settings, dim: int, eps: float) -> dict[str, Any]:
        """Arguments of Mamba-2."""
        expand, there = settings.take("mamba_expand", default=2), "mamba_d_ssm" in settings.values
        inner = settings.take("mamba_d_ssm", default=int(expand * dim) if there else 1024)
        heads, head_dim = settings.take("mamba_n_heads", default=128), settings.take("mamba_d_head", default="auto")
        head_dim = inner // heads if head_dim == "auto" else head_dim
        if heads * head_dim != inner:
            raise ValueError(
                f"the falcon_h1 model asks for mamba_n_heads={heads} of mamba_d_head={head_dim} in {inner}"
            )
        normed = settings.take("mamba_rms_norm", default=False)
        before = settings.take("mamba_norm_before_gate", default=True)
        return {
            "expansion": expansion(inner, dim),
            "head_dim": head_dim,
            "groups": settings.take("mamba_n_groups", default=1),
            "state_size": settings.take("mamba_d_state", default=256),
            "conv_width": settings.take("mamba_d_conv", default=4),
            "conv_bias": settings.take("mamba_conv_bias", default=True),
            "bias": settings.take("mamba_proj_bias", default=False),
            "out_bias": settings.take("projectors_bias", default=False),
            "eps": eps,
            "norm": ("before" if before else "after") if normed else "none",
            "scales": settings.take("ssm_multipliers", default=[1.0] * 5),
        } | limits(settings)

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        return [same("model.embed_tokens.weight", "embedding.weight"), *norm_rows("model.final_layernorm", "norm")]

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        theirs, ours = f"model.layers.{i}", f"stack.layers.{i}"
        _, sides = pick(arguments["pattern"], i)
        attention, mamba = (pick(sides["mixers"], side)[1] for side in range(2))
        rows = norm_rows(f"{theirs}.input_layernorm", f"{ours}.mixer_norm")
        rows += norm_rows(f"{theirs}.pre_ff_layernorm", f"{ours}.mlp_norm")
        rows += attention_rows(f"{theirs}.self_attn", f"{ours}.mixer.parts.0", attention, arguments["dim"])
        both = f"{theirs}.mamba", f"{ours}.mixer.parts.1"
        rows += common_rows(*both, mamba) + mamba2_rows(*both, mamba["norm"] != "none")
        return rows + gated_mlp_rows(f"{theirs}.feed_forward", f"{ours}.mlp", arguments, i)
