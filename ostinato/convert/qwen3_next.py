"""Qwen3-Next: Gated DeltaNet, gated attention in every fourth layer, and experts.

Qwen 2025; Gated DeltaNet, Yang et al. 2024, https://arxiv.org/abs/2412.06464; gated attention, Qiu et al. 2025,
https://arxiv.org/abs/2505.06708. Theirs keeps the rows of a head of keys together, ours those of a use.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ostinato.convert.architecture import (
    Architecture,
    attention_sizes,
    check_types,
    expert_rows,
    gated_mlp_rows,
    norm_rows,
    uniform,
)
from ostinato.convert.settings import Settings, pick, rope
from ostinato.convert.table import Row, by_part, convolution, linear, parts_of, same
from ostinato.registry import register

EXPERTS = "output_router_logits router_aux_loss_coef"


@register("convert:qwen3_next")
class Qwen3Next(Architecture):
    """Qwen3-Next of transformers, without the layers that predict several tokens."""

    model_type = "qwen3_next"
    class_name = "Qwen3NextForCausalLM"
    ignored = (r".*rotary_emb\.inv_freq", r"mtp\..*")

    def arguments(self, settings: Settings) -> dict[str, Any]:
        dim, layers, heads = (settings.take(x) for x in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        settings.only("hidden_act", "silu")
        eps, head_dim = settings.take("rms_norm_eps", default=1e-6), settings.take("head_dim", default=256)
        attention = {"heads": heads, "kv_heads": settings.take("num_key_value_heads", default=2), "head_dim": head_dim}
        attention |= {"qk_norm": "offset_rms", "eps": eps, "gate": True} | rope(settings, head_dim, part=0.25)
        attention |= {"bias": settings.take("attention_bias", default=False)}
        delta = {
            "heads": settings.take("linear_num_value_heads", default=32),
            "key_heads": settings.take("linear_num_key_heads", default=16),
            "key_dim": settings.take("linear_key_head_dim", default=128),
            "value_dim": settings.take("linear_value_head_dim", default=128),
            "conv_width": settings.take("linear_conv_kernel_dim", default=4),
            "eps": eps,
        }
        parts = {"linear_attention": {"gated_deltanet": delta}, "full_attention": {"attention": attention}}
        every = settings.take("full_attention_interval", default=4)
        types = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(layers)]
        types = check_types(settings, settings.take("layer_types", default=types), layers, list(parts))
        return {
            "vocab_size": settings.take("vocab_size"),
            "dim": dim,
            "layers": layers,
            "pattern": uniform([parts[kind] for kind in types]),
            "mlp": self.mlps(settings, layers),
            "tie": settings.take("tie_word_embeddings", default=False),
            "norm": "offset_rms",
            "eps": eps,
        }

    def mlps(self, settings: Settings, layers: int) -> list[Any]:
        """The channel mixer of each layer."""
        settings.skip(*EXPERTS.split())
        hidden = settings.take("intermediate_size", default=5632)
        experts = {
            "hidden": settings.take("moe_intermediate_size", default=512),
            "experts": settings.take("num_experts", default=512),
            "active": settings.take("num_experts_per_tok", default=10),
            "normalised": settings.take("norm_topk_prob", default=True),
            "shared": settings.take("shared_expert_intermediate_size", default=512),
        }
        step, dense = settings.take("decoder_sparse_step", default=1), settings.take("mlp_only_layers", default=[])
        many = [experts["experts"] > 0 and (i + 1) % step == 0 and i not in dense for i in range(layers)]
        return uniform([{"experts": experts} if several else {"swiglu": {"hidden": hidden}} for several in many])

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        return [same("model.embed_tokens.weight", "embedding.weight"), *norm_rows("model.norm", "norm")]

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        theirs, ours = f"model.layers.{i}", f"stack.layers.{i}"
        name, options = pick(arguments["pattern"], i)
        rows = norm_rows(f"{theirs}.input_layernorm", f"{ours}.mixer_norm")
        rows += norm_rows(f"{theirs}.post_attention_layernorm", f"{ours}.mlp_norm")
        if name == "attention":
            rows += gated_attention_rows(f"{theirs}.self_attn", f"{ours}.mixer", options, arguments["dim"])
        else:
            rows += delta_rows(f"{theirs}.linear_attn", f"{ours}.mixer", options)
        both = f"{theirs}.mlp", f"{ours}.mlp"
        kind, options = pick(arguments["mlp"], i)
        if kind != "experts":
            return rows + gated_mlp_rows(*both, arguments, i)
        shared = {"mlp": {"swiglu": {"hidden": options["shared"]}}}
        rows += expert_rows(*both, options, "gate") + linear(f"{theirs}.mlp.shared_expert_gate", f"{ours}.mlp.share")
        return rows + gated_mlp_rows(f"{theirs}.mlp.shared_expert", f"{ours}.mlp.shared", shared, i)


def gated_attention_rows(theirs: str, ours: str, options: Mapping[str, Any], dim: int) -> list[Row]:
    """Attention whose matrix of queries has the gate of each head behind the query of that head."""
    H, G, K = attention_sizes(options, dim)

    def read(q: Tensor, k: Tensor, v: Tensor) -> list[Tensor]:
        q, gate = by_part(q, H, 2).chunk(2)
        return [torch.cat([q, k, v]), gate]

    def write(qkv: Tensor, gate: Tensor) -> list[Tensor]:
        q, k, v = qkv.split([H * K, G * K, G * K])
        return [by_part(torch.cat([q, gate]), 2, H), k, v]

    rows = []
    for part in parts_of(options["bias"]):
        names = tuple(f"{theirs}.{x}_proj.{part}" for x in "qkv")
        rows.append(Row(names, (f"{ours}.project_in.{part}", f"{ours}.project_gate.{part}"), read, write))
    rows += linear(f"{theirs}.o_proj", f"{ours}.project_out", options["bias"])
    return rows + [same(f"{theirs}.{norm}.weight", f"{ours}.{norm}.weight") for norm in ("q_norm", "k_norm")]


def delta_rows(theirs: str, ours: str, options: Mapping[str, Any]) -> list[Row]:
    """Gated DeltaNet."""
    H, G, K, V = (options[name] for name in ("heads", "key_heads", "key_dim", "value_dim"))
    qkvz, ba = [K, K, H // G * V, H // G * V], [H // G, H // G]  # rows of a head of keys

    def read(*groups: Tensor) -> list[Tensor]:
        parts = [x.unflatten(0, (G, -1)).split(sizes, 1) for x, sizes in zip(groups, (qkvz, ba))]
        return [torch.cat([part.flatten(0, 1) for group in parts for part in group])]

    def write(x: Tensor) -> list[Tensor]:
        parts = [part.unflatten(0, (G, -1)) for part in x.split([G * size for size in (*qkvz, *ba)])]
        return [torch.cat(group, 1).flatten(0, 1) for group in (parts[:4], parts[4:])]

    rows = [
        Row(
            (f"{theirs}.in_proj_qkvz.weight", f"{theirs}.in_proj_ba.weight"),
            (f"{ours}.project_in.weight",),
            read,
            write,
        )
    ]
    rows += convolution(f"{theirs}.conv1d", f"{ours}.convolution")
    rows += [same(f"{theirs}.{name}", f"{ours}.{name}") for name in ("A_log", "dt_bias", "norm.weight")]
    return rows + linear(f"{theirs}.out_proj", f"{ours}.project_out")
