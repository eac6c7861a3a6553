"""BERT: an encoder with norms after each sum, and heads for hidden tokens and for pairs of texts.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805.
"""

from collections.abc import Mapping
from typing import Any

from ostinato.convert.architecture import Architecture, norm_rows
from ostinato.convert.gpt import ACTIVATIONS
from ostinato.convert.settings import Settings
from ostinato.convert.table import Row, joined_linear, linear, same
from ostinato.registry import register

HEADS = {
    "BertForMaskedLM": dict(predicts=True, pools=False, pairs=False),
    "BertForPreTraining": dict(predicts=True, pools=True, pairs=True),
    "BertModel": dict(predicts=False, pools=True, pairs=False),
}


@register("convert:bert")
class Bert(Architecture):
    """BERT of transformers: as an encoder, with the head for hidden tokens, or with both heads of its training."""

    model_type = "bert"
    class_name = "BertForMaskedLM"
    model = "model:bert"
    prefix = "bert."
    head = "cls.predictions.decoder.weight"
    # heads that the config's class does not have are passed over, as transformers does
    ignored = (r".*position_ids", r"cls\.predictions\.decoder\.bias", r"bert\.pooler\..*", r"cls\.seq_relationship\..*")

    def canonical(self, name: str) -> str:
        return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.only("is_decoder", False)
        settings.only("add_cross_attention", False)
        settings.only("position_embedding_type", "absolute")
        settings.skip("attention_probs_dropout_prob", "gradient_checkpointing")
        (name, *_) = settings.take("architectures", default=["BertForMaskedLM"])
        if name not in HEADS:
            raise ValueError(f"the bert model is a {name}; ostinato has {', '.join(HEADS)}")
        dim = settings.take("hidden_size", default=768)
        activations = ACTIVATIONS | {"relu": "relu"}
        return {
            "vocab_size": settings.take("vocab_size", default=30522),
            "dim": dim,
            "layers": settings.take("num_hidden_layers", default=12),
            "heads": settings.take("num_attention_heads", default=12),
            "hidden": settings.take("intermediate_size", default=3072),
            "activation": activations[settings.only("hidden_act", *activations, default="gelu")],
            "positions": settings.take("max_position_embeddings", default=512),
            "segments": settings.take("type_vocab_size", default=2),
            "eps": settings.take("layer_norm_eps", default=1e-12),
            "tie": settings.only("tie_word_embeddings", True),
            **HEADS[name],
        }

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        theirs = "bert.embeddings"
        rows = [
            same(f"{theirs}.{x}_embeddings.weight", f"{y}.weight")
            for x, y in (("word", "embedding"), ("position", "positions"), ("token_type", "segments"))
        ]
        rows += norm_rows(f"{theirs}.LayerNorm", "embedding_norm", True)
        if arguments["predicts"]:
            rows += linear("cls.predictions.transform.dense", "transform", True)
            rows += norm_rows("cls.predictions.transform.LayerNorm", "transform_norm", True)
            rows.append(same("cls.predictions.bias", "head_bias"))
        if arguments["pools"]:
            rows += linear("bert.pooler.dense", "pool", True)
        return rows + (linear("cls.seq_relationship", "pair", True) if arguments["pairs"] else [])

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        theirs, ours = f"bert.encoder.layer.{i}", f"stack.layers.{i}"
        names = [f"{theirs}.attention.self.{name}" for name in ("query", "key", "value")]
        rows = joined_linear(names, f"{ours}.mixer.project_in", [arguments["dim"]] * 3, True)
        rows += linear(f"{theirs}.attention.output.dense", f"{ours}.mixer.project_out", True)
        rows += norm_rows(f"{theirs}.attention.output.LayerNorm", f"{ours}.mixer_norm", True)
        rows += linear(f"{theirs}.intermediate.dense", f"{ours}.mlp.project_in", True)
        rows += linear(f"{theirs}.output.dense", f"{ours}.mlp.project_out", True)
        return rows + norm_rows(f"{theirs}.output.LayerNorm", f"{ours}.mlp_norm", True)
