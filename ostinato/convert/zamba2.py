"""Zamba2: Mamba-2, and in some of the layers a transformer block before it that these layers share.

Glorioso et al. 2024, https://arxiv.org/abs/2411.15242.
"""

import re
from collections.abc import Mapping
from typing import Any

from ostinato.convert.architecture import Architecture, attention_rows, check_types, norm_rows, uniform
from ostinato.convert.mamba import common_rows, mamba2_rows
from ostinato.convert.settings import Settings, pick, rope
from ostinato.convert.table import Row, linear, same
from ostinato.registry import register

SHARED = "wrapper:shared_transformer"
RUNNING = (
    "use_mamba_kernels use_mem_eff_path chunk_size num_logits_to_keep time_step_max time_step_floor attention_hidden_size "
    "attention_head_dim mamba_headdim kv_channels num_query_groups hybrid_layer_ids head_dim"
).split()
"""Names that say how the numbers are computed, or repeat others."""


@register("convert:zamba2")
class Zamba2(Architecture):
    """Zamba2 of transformers."""

    model_type = "zamba2"
    class_name = "Zamba2ForCausalLM"

    def repeated(self, name: str, arguments: Mapping[str, Any]) -> str | None:
        """A block that layers share may be stored with each of them."""
        found = re.fullmatch(r"(model\.layers\.)(\d+)(\.shared_transformer\..*)", name)
        hybrids = self.hybrids(arguments)
        if found is None or int(found[2]) not in hybrids:
            return None
        _, options = pick(arguments["pattern"], hybrids[0])
        return f"{found[1]}{hybrids[hybrids.index(int(found[2])) % options['blocks']]}{found[3]}"

    @staticmethod
    def hybrids(arguments: Mapping[str, Any]) -> list[int]:
        """The layers with a transformer block."""
        return [i for i in range(arguments["layers"]) if pick(arguments["pattern"], i)[0] == SHARED]

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip(*RUNNING)
        dim, layers = settings.take("hidden_size", default=2560), settings.take("num_hidden_layers", default=54)
        settings.only("use_long_context", False)
        settings.only("time_step_limit", None, [0.0, float("inf")])
        settings.only("hidden_act", "gelu")
        settings.only("use_conv_bias", True)
        eps, bias = settings.take("rms_norm_eps", default=1e-5), settings.take("add_bias_linear", default=False)
        heads, expand = settings.take("n_mamba_heads", default=8), settings.take("mamba_expand", default=2)
        mamba = {
            "expansion": float(expand),
            "head_dim": int(expand * dim) // heads,
            "groups": settings.take("mamba_ngroups", default=1),
            "state_size": settings.take("mamba_d_state", default=64),
            "conv_width": settings.take("mamba_d_conv", default=4),
            "bias": bias,
            "dt_limits": [settings.take("time_step_min", default=0.001), float("inf")],
        }
        heads = settings.take("num_attention_heads", default=32)
        shared = {
            "mixer": {"mamba2": mamba},
            "heads": heads,
            "kv_heads": settings.kv_heads(heads),
            "hidden": settings.take("intermediate_size", default=4 * dim),
            "rank": settings.take("adapter_rank", default=128),
            "adapted": settings.take("use_shared_attention_adapter", default=False),
            "blocks": settings.take("num_mem_blocks", default=1),
            "bias": bias,
            "eps": eps,
        }
        places = rope(settings, 2 * dim // heads)
        if not settings.take("use_mem_rope", default=False):
            shared["position"] = "none"
        elif places.keys() != {"theta"}:
            raise ValueError("the zamba2 model asks for rope_parameters of another kind; ostinato has plain ones")
        else:
            shared |= places
        types = settings.take("layers_block_type", "layer_types", default=[])
        types = ["linear_attention" if kind in ("mamba", "mamba2") else str(kind) for kind in types]  # older names
        types = check_types(settings, types, layers, ("linear_attention", "hybrid"))
        return {
            "vocab_size": settings.take("vocab_size", default=32000),
            "dim": dim,
            "layers": layers,
            "pattern": uniform([{SHARED: shared} if kind == "hybrid" else {"mamba2": mamba} for kind in types]),
            "mlp": None,
            "tie": settings.take("tie_word_embeddings", default=True),
            "eps": eps,
        }

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        return [same("model.embed_tokens.weight", "embedding.weight"), *norm_rows("model.final_layernorm", "norm")]

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        theirs, ours = f"model.layers.{i}", f"stack.layers.{i}"
        name, options = pick(arguments["pattern"], i)
        if name != SHARED:
            both = f"{theirs}.mamba", f"{ours}.mixer"
            return (
                norm_rows(f"{theirs}.input_layernorm", f"{ours}.mixer_norm")
                + common_rows(*both, options)
                + mamba2_rows(*both)
            )
        both = f"{theirs}.mamba_decoder.mamba", f"{ours}.mixer.mixer"
        rows = norm_rows(f"{theirs}.mamba_decoder.input_layernorm", f"{ours}.mixer.norm")
        rows += common_rows(*both, pick(options["mixer"], 0)[1]) + mamba2_rows(*both)
        rows += linear(f"{theirs}.linear", f"{ours}.mixer.project_back")
        return rows + self.transformer(i, options, arguments)

    def transformer(self, i: int, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> list[Row]:
        """The block that layers share, in the first of them; and what layer i adds to it, which is stored there too."""
        hybrids = self.hybrids(arguments)
        number, bias = hybrids.index(i), options["bias"]
        theirs, ours = (
            f"model.layers.{hybrids[number % options['blocks']]}.shared_transformer",
            f"stack.layers.{i}.mixer",
        )
        rows = self.low_rank(f"{theirs}.feed_forward.gate_up_proj_adapter_list.{number}", f"{ours}.mlp_adapter")
        for place, name in enumerate("qkv" if options["adapted"] else ""):
            both = f"{theirs}.self_attn.linear_{name}_adapter_list.{number}", f"{ours}.attention.adapters.{place}"
            rows += self.low_rank(*both)
        if number >= options["blocks"]:
            return rows
        wide = {"heads": options["heads"], "kv_heads": options["kv_heads"]}
        rows += attention_rows(f"{theirs}.self_attn", f"{ours}.attention", wide, 2 * arguments["dim"])
        rows += norm_rows(f"{theirs}.input_layernorm", f"{ours}.attention_norm")
        rows += norm_rows(f"{theirs}.pre_ff_layernorm", f"{ours}.mlp_norm")
        rows += linear(f"{theirs}.feed_forward.gate_up_proj", f"{ours}.mlp_in", bias)
        return rows + linear(f"{theirs}.feed_forward.down_proj", f"{ours}.mlp_out", bias)

    @staticmethod
    def low_rank(theirs: str, ours: str) -> list[Row]:
        """A map of low rank."""
        return linear(f"{theirs}.0", f"{ours}.down") + linear(f"{theirs}.1", f"{ours}.up")
