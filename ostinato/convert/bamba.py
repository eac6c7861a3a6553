"""Bamba: Mamba-2, and attention in some of the layers, with gated channel mixers.

IBM, Princeton, CMU and UIUC 2024, https://huggingface.co/blog/bamba.
"""

from collections.abc import Mapping
from typing import Any

from ostinato.convert.architecture import Architecture, attention_rows, gated_mlp_rows, norm_rows, uniform
from ostinato.convert.mamba import common_rows, limits, mamba2_rows
from ostinato.convert.settings import Settings, pick, rope
from ostinato.convert.table import Row, same
from ostinato.registry import register


@register("convert:bamba")
class Bamba(Architecture):
    """Bamba of transformers."""

    model_type = "bamba"
    class_name = "BambaForCausalLM"

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip(
            "mamba_chunk_size",
            "num_logits_to_keep",
            "z_loss_coefficient",
            "layer_types",
            "layers_block_type",
            "attn_rotary_emb",
        )
        dim, layers, heads = (settings.take(x) for x in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        settings.only("hidden_act", "silu")
        eps, head_dim = settings.take("rms_norm_eps", default=1e-5), dim // heads
        attention = {"heads": heads, "kv_heads": settings.kv_heads(heads, 8), "head_dim": head_dim}
        attention |= {"bias": settings.take("attention_bias", default=False)} | rope(settings, head_dim, part=0.5)
        expansion, mamba_heads = settings.take("mamba_expand", default=2), settings.take("mamba_n_heads", default=128)
        shared = expansion * dim // mamba_heads
        mamba_dim = settings.take("mamba_d_head", default="auto")
        mamba = {
            "expansion": float(expansion),
            "head_dim": shared if mamba_dim == "auto" else mamba_dim,
            "groups": settings.take("mamba_n_groups", default=1),
            "state_size": settings.take("mamba_d_state", default=256),
            "conv_width": settings.take("mamba_d_conv", default=4),
            "conv_bias": settings.take("mamba_conv_bias", default=True),
            "bias": settings.take("mamba_proj_bias", default=False),
            "eps": eps,
        } | limits(settings)
        where = settings.take("attn_layer_indices", default=[])
        mlp = {"hidden": settings.take("intermediate_size"), "bias": settings.take("mlp_bias", default=False)}
        return {
            "vocab_size": settings.take("vocab_size"),
            "dim": dim,
            "layers": layers,
            "pattern": uniform([{"attention": attention} if i in where else {"mamba2": mamba} for i in range(layers)]),
            "mlp": {"swiglu": mlp},
            "tie": settings.take("tie_word_embeddings", default=False),
            "eps": eps,
        }

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
            both = f"{theirs}.mamba", f"{ours}.mixer"
            rows += common_rows(*both, options) + mamba2_rows(*both)
        return rows + gated_mlp_rows(f"{theirs}.feed_forward", f"{ours}.mlp", arguments, i)
