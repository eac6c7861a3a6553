"""T5, in its first version and in 1.1: an encoder and a decoder.

Raffel et al. 2019, https://arxiv.org/abs/1910.10683.
"""

from collections.abc import Mapping
from typing import Any

from ostinato.convert.architecture import Architecture, gated_mlp_rows, norm_rows
from ostinato.convert.settings import Settings
from ostinato.convert.table import Row, joined_linear, linear, same
from ostinato.registry import register

MLPS = {"relu": "relu", "gated-gelu": "geglu", "gated-gelu_new": "geglu", "gelu_new": "gelu_tanh", "gelu": "gelu"}


@register("convert:t5")
class T5(Architecture):
    """T5 of transformers, with encoder and decoder."""

    model_type = "t5"
    class_name = "T5ForConditionalGeneration"
    model = "model:t5"
    prefix = ""
    head_may_lack = True
    ignored = (r"(encoder|decoder)\.embed_tokens\.weight", r".*EncDecAttention\.relative_attention_bias\.weight")

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip(
            "dropout_rate", "n_positions", "output_past", "initializer_factor", "is_gated_act", "dense_act_fn"
        )
        (name, *_) = settings.take("architectures", default=[self.class_name])
        if name not in (self.class_name, "T5WithLMHeadModel"):
            raise ValueError(f"the t5 model is a {name}; ostinato has {self.class_name}")
        dim, heads = settings.take("d_model", default=512), settings.take("num_heads", default=8)
        layers = settings.take("num_layers", default=6)
        tied = settings.take("tie_word_embeddings", default=True)
        # transformers 5 writes that all are tied, and says so of the first version by the scale
        scaled = settings.take("scale_decoder_outputs", default=tied)
        return {
            "vocab_size": settings.take("vocab_size", default=32128),
            "dim": dim,
            "encoder_layers": layers,
            "decoder_layers": settings.take("num_decoder_layers", default=layers),
            "heads": heads,
            "head_dim": settings.take("d_kv", default=64),
            "hidden": settings.take("d_ff", default=2048),
            "mlp": MLPS[settings.only("feed_forward_proj", *MLPS)],
            "buckets": settings.take("relative_attention_num_buckets", default=32),
            "farthest": settings.take("relative_attention_max_distance", default=128),
            "eps": settings.take("layer_norm_epsilon", default=1e-6),
            "scaled": scaled,
            "tie": tied and scaled,
        }

    def count(self, arguments: Mapping[str, Any]) -> int:
        return arguments["encoder_layers"] + arguments["decoder_layers"]

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        rows = [same("shared.weight", "embedding.weight")]
        for half in ("encoder", "decoder"):
            bias = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            rows.append(same(bias, f"{half}.0.attention.distance_bias.weight"))
            rows += norm_rows(f"{half}.final_layer_norm", f"{half}_norm")
        return rows

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        below = arguments["encoder_layers"]
        half, i = ("encoder", i) if i < below else ("decoder", i - below)
        theirs, ours, crossed = f"{half}.block.{i}.layer", f"{half}.{i}", half == "decoder"
        inner = [arguments["heads"] * arguments["head_dim"]]
        attention, cross = f"{theirs}.0.SelfAttention", f"{theirs}.1.EncDecAttention"
        rows = joined_linear([f"{attention}.{x}" for x in "qkv"], f"{ours}.attention.project_in", inner * 3)
        rows += linear(f"{attention}.o", f"{ours}.attention.project_out")
        if crossed:
            rows += linear(f"{cross}.q", f"{ours}.cross.project_q") + linear(f"{cross}.o", f"{ours}.cross.project_out")
            rows += joined_linear([f"{cross}.{x}" for x in "kv"], f"{ours}.cross.project_source", inner * 2)
        for part in range(2 + crossed):
            rows += norm_rows(f"{theirs}.{part}.layer_norm", f"{ours}.norms.{part}")
        mlp = f"{theirs}.{1 + crossed}.DenseReluDense"
        if arguments["mlp"] == "geglu":
            known = {"mlp": {"geglu": {"hidden": arguments["hidden"]}}}
            return rows + gated_mlp_rows(mlp, f"{ours}.mlp", known, 0, ("wi_0", "wi_1", "wo"))
        return rows + linear(f"{mlp}.wi", f"{ours}.mlp.project_in") + linear(f"{mlp}.wo", f"{ours}.mlp.project_out")
