"""Checkpoints of `ostinato.hf`: what `ostinato export` wrote, and what transformers' Trainer or a merged adapter made of it."""

from collections.abc import Mapping
from typing import Any

import torch

from ostinato.convert.architecture import Architecture
from ostinato.convert.settings import Settings
from ostinato.convert.table import Row, same
from ostinato.registry import create, register


@register("convert:ostinato")
class Native(Architecture):
    """A language model of this library, as `ostinato.hf.OstinatoForCausalLM` keeps it."""

    model_type = "ostinato"
    class_name = "OstinatoForCausalLM"
    head = "model.head.weight"

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip("hidden_size", "num_hidden_layers", "tie_word_embeddings")  # said by `model`
        model = settings.take("model")
        if "name" in model:
            raise ValueError(
                f"a model with a class of its own ({model['name']}) is read by ostinato.hf, and not imported"
            )
        return {"vocab_size": settings.take("vocab_size"), **model}

    def rows(self, arguments: Mapping[str, Any]) -> list[Row]:
        with torch.device("meta"):
            model = create("model:language_model", **arguments)
        kept = {**dict(model.named_parameters()), **dict(model.named_buffers())}  # of shared ones, the first name
        if outside := kept.keys() - model.state_dict().keys():
            raise ValueError(
                f"{min(outside)} is in no checkpoint; ostinato.hf reads this model, and it is not imported"
            )
        return [same(f"model.{name}", name) for name in kept]

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        return self.rows(arguments)

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        return []
