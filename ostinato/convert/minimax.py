"""MiniMax: lightning attention, softmax attention in some of the layers, and experts, all under norms after the sum.

    x = norm(x);   x = norm'(a x + b mixer(x));   x = c x + d experts(x)

The norm that a layer begins with is here the last one of the layer below, and that of the first layer the embedding's.

MiniMax 2025, https://arxiv.org/abs/2501.08313.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ostinato.convert.architecture import Architecture, attention_rows, check_types, expert_rows, norm_rows, uniform
from ostinato.convert.settings import Settings, pick, rope
from ostinato.convert.table import Row, by_part, derived, linear, same
from ostinato.registry import register

DECAYS = ("slope_rate", "query_decay", "key_decay", "diagonal_decay")


@register("convert:minimax")
class MiniMax(Architecture):
    """MiniMax of transformers, such as MiniMax-Text-01."""

    model_type = "minimax"
    class_name = "MiniMaxForCausalLM"
    piece = 256
    """Tokens that transformers reads at once, for which it keeps powers of the decays."""

    ignored = (r".*rotary_emb\.inv_freq", r".*self_attn\.(slope_rate|(query|key|diagonal)_decay)")

    def arguments(self, settings: Settings) -> dict[str, Any]:
        self.piece = settings.take("block_size", default=256)
        settings.skip("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
        dim, layers = settings.take("hidden_size"), settings.take("num_hidden_layers", default=32)
        heads = settings.take("num_attention_heads", default=32)
        settings.only("hidden_act", "silu")
        head_dim, eps = settings.take("head_dim", default=dim // heads), settings.take("rms_norm_eps", default=1e-5)
        attention = {"heads": heads, "kv_heads": settings.kv_heads(heads, 8), "head_dim": head_dim}
        attention |= {"window": settings.take("sliding_window", default=None)} | rope(settings, head_dim, theta=1e6)
        # transformers turns all channels, whatever the config says of a part
        if "rotated" in attention:
            raise ValueError("the minimax model asks for partial_rotary_factor; ostinato has it with 1 only")
        lightning = [{"heads": heads, "head_dim": head_dim, "depth": i / (layers - 1 + 1e-5)} for i in range(layers)]
        types = ["linear_attention" if i % 2 else "full_attention" for i in range(layers)]
        types = settings.take("layer_types", "attn_type_list", default=types)
        types = check_types(settings, types, layers, ("full_attention", "linear_attention"))
        kept = {
            kind: [settings.take(f"{name}_attn_{share}_factor", default=1) for share in ("alpha", "beta")]
            for kind, name in (("full_attention", "full"), ("linear_attention", "linear"))
        }
        mlp_kept = [settings.take(f"mlp_{share}_factor", default=1) for share in ("alpha", "beta")]
        experts = {
            "hidden": settings.take("intermediate_size", default=14336),
            "experts": settings.take("num_local_experts", "num_experts", default=8),
            "active": settings.take("num_experts_per_tok", default=2),
        }
        return {
            "vocab_size": settings.take("vocab_size", default=32000),
            "dim": dim,
            "layers": layers,
            "pattern": [
                {"attention": attention} if kind == "full_attention" else {"lightning_attention": lightning[i]}
                for i, kind in enumerate(types)
            ],
            "mlp": {"experts": experts},
            "tie": settings.take("tie_word_embeddings", default=False),
            "eps": eps,
            "embedding_norm": True,
            "order": "after",
            "shares": uniform([[*map(float, kept[kind] + mlp_kept)] for kind in types]),
        }

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        last = f"stack.layers.{arguments['layers'] - 1}.mlp_norm"
        return [same("model.embed_tokens.weight", "embedding.weight"), *norm_rows("model.norm", last)]

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        theirs, ours = f"model.layers.{i}", f"stack.layers.{i}"
        name, options = pick(arguments["pattern"], i)
        below = f"stack.layers.{i - 1}.mlp_norm" if i else "embedding_norm"
        rows = norm_rows(f"{theirs}.input_layernorm", below)
        rows += norm_rows(f"{theirs}.post_attention_layernorm", f"{ours}.mixer_norm")
        both = f"{theirs}.self_attn", f"{ours}.mixer"
        if name == "attention":
            rows += attention_rows(*both, options, arguments["dim"])
        else:
            rows += lightning_rows(*both, options)
            rows.append(derived([f"{theirs}.self_attn.{name}" for name in DECAYS], lambda: decays(options, self.piece)))
        _, experts = pick(arguments["mlp"], i)
        return rows + expert_rows(f"{theirs}.block_sparse_moe", f"{ours}.mlp", experts, "gate", ("w1", "w3", "w2"))


def lightning_rows(theirs: str, ours: str, options: Mapping[str, Any]) -> list[Row]:
    """Lightning attention: theirs keeps queries, keys and values of a head together, and the gate apart."""
    H, K = options["heads"], options["head_dim"]
    inward = (f"{theirs}.qkv_proj.weight", f"{theirs}.output_gate.weight")
    rows = [
        Row(
            inward,
            (f"{ours}.project_in.weight",),
            lambda qkv, gate: [torch.cat([by_part(qkv, H, 3), gate])],
            lambda x: [by_part(x[: 3 * H * K], 3, H), x[3 * H * K :]],
        )
    ]
    rows.append(same(f"{theirs}.norm.weight", f"{ours}.norm.weight"))
    return rows + linear(f"{theirs}.out_proj", f"{ours}.project_out")


def decays(options: Mapping[str, Any], piece: int) -> list[Tensor]:
    """What transformers keeps beside the weights: the rates of heads, and how much of a token each other token of a piece reads."""
    H, place = options["heads"], torch.arange(1, piece + 1)
    rate = ((1 / 2 ** (8 / H)) ** torch.arange(1, H + 1) * (1 - options["depth"] + 1e-5))[:, None, None]
    apart = (rate * (place[:, None] - place))[None]
    within = torch.where(apart >= 0, -apart, float("-inf")).exp()
    return [rate, (-rate * place[:, None]).exp(), (-rate * (piece - place[:, None])).exp(), within]
