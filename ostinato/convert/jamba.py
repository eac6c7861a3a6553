"""Jamba: Mamba with norms inside, attention without positions in some of the layers, and experts in others.

Lieber et al. 2024, https://arxiv.org/abs/2403.19887.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from ostinato.convert.architecture import Architecture, attention_rows, expert_rows, gated_mlp_rows, norm_rows, uniform
from ostinato.convert.mamba import common_rows
from ostinato.convert.settings import Settings, pick
from ostinato.convert.table import Row, linear, same
from ostinato.registry import register

RUNNING = "use_mamba_kernels use_mambapy use_associative_scan num_logits_to_keep calc_logits_for_entire_prompt"
EXPERTS = "router_aux_loss_coef output_router_logits"


@register("convert:jamba")
class Jamba(Architecture):
    """Jamba of transformers."""

    model_type = "jamba"
    class_name = "JambaForCausalLM"

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip(*RUNNING.split(), *EXPERTS.split())
        dim, layers, heads = (settings.take(x) for x in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        settings.only("hidden_act", "silu")
        settings.only("mamba_inner_layernorms", True)
        eps, rank = settings.take("rms_norm_eps", default=1e-6), settings.take("mamba_dt_rank", default="auto")
        attention = {"heads": heads, "kv_heads": settings.kv_heads(heads, 8), "position": "none"}
        mamba = {
            "expansion": float(settings.take("mamba_expand", default=2)),
            "state_size": settings.take("mamba_d_state", default=16),
            "conv_width": settings.take("mamba_d_conv", default=4),
            "conv_bias": settings.take("mamba_conv_bias", default=True),
            "bias": settings.take("mamba_proj_bias", default=False),
            "dt_rank": ceil(dim / 16) if rank == "auto" else rank,
            "select_eps": eps,
            "select_weights": True,
        }
        period, offset = settings.take("attn_layer_period", default=8), settings.take("attn_layer_offset", default=4)
        parts = [{"attention": attention} if i % period == offset else {"mamba": mamba} for i in range(layers)]
        return {
            "vocab_size": settings.take("vocab_size"),
            "dim": dim,
            "layers": layers,
            "pattern": uniform(parts),
            "mlp": self.mlps(settings, layers),
            "tie": settings.take("tie_word_embeddings", default=False),
            "eps": eps,
        }

    def mlps(self, settings: Settings, layers: int) -> list[Any]:
        """The channel mixer of each layer."""
        hidden, active = settings.take("intermediate_size"), settings.take("num_experts_per_tok", default=2)
        count, every = settings.take("num_experts", default=16), settings.take("expert_layer_period", default=2)
        first = settings.take("expert_layer_offset", default=1)
        experts = {"hidden": hidden, "experts": count, "active": active, "normalised": False}
        many = [count > 1 and i % every == first for i in range(layers)]
        return uniform([{"experts": experts} if several else {"swiglu": {"hidden": hidden}} for several in many])

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        return [same("model.embed_tokens.weight", "embedding.weight"), *norm_rows("model.final_layernorm", "norm")]

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        theirs, ours = f"model.layers.{i}", f"stack.layers.{i}"
        name, options = pick(arguments["pattern"], i)
        rows = norm_rows(f"{theirs}.input_layernorm", f"{ours}.mixer_norm")
        rows += norm_rows(f"{theirs}.pre_ff_layernorm", f"{ours}.mlp_norm")
        if name == "attention":
            rows += attention_rows(f"{theirs}.self_attn", f"{ours}.mixer", options, arguments["dim"])
        else:
            mamba, mixer = f"{theirs}.mamba", f"{ours}.mixer"
            rows += common_rows(mamba, mixer, options)
            rows += linear(f"{mamba}.x_proj", f"{mixer}.select") + linear(
                f"{mamba}.dt_proj", f"{mixer}.step", bias=True
            )
            rows += [same(f"{mamba}.{x.lower()}_layernorm.weight", f"{mixer}.{x}_norm") for x in ("dt", "B", "C")]
        both = f"{theirs}.feed_forward", f"{ours}.mlp"
        kind, options = pick(arguments["mlp"], i)
        return rows + (
            expert_rows(*both, options, "router") if kind == "experts" else gated_mlp_rows(*both, arguments, i)
        )
