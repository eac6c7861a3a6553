"""RWKV-7: a time mix and a channel mix in turn, each after a layer norm; here each is a layer.

Two forms of the same weights: that of flash-linear-attention, and the authors' own `.pth`, which has no config: everything is
in the shapes of its tensors. Peng et al. 2025, https://arxiv.org/abs/2503.14456.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ostinato.convert.architecture import Architecture, norm_rows
from ostinato.convert.files import Weights
from ostinato.convert.settings import Settings, pick
from ostinato.convert.table import Row, linear, same, transposed
from ostinato.registry import register

RUNNING = "attn_mode fuse_cross_entropy fuse_linear_cross_entropy use_l2warp max_position_embeddings"
USES = "rwkvag"
"""What tokens are mixed with those before them for, in our order."""
MAPS = {"w": "decay", "a": "rate", "v": "share", "g": "gate"}
"""Maps of low rank."""


def flat(theirs: str, ours: str) -> Row:
    """A vector that theirs keeps with two axes of length 1."""
    return Row((theirs,), (ours,), lambda x: [x.flatten()], lambda x: [x.view(1, 1, -1)])


def shares(theirs: Sequence[str], ours: str) -> Row:
    """Vectors of that kind that are rows of ours."""
    read = lambda *parts: [torch.stack([part.flatten() for part in parts])]  # noqa: E731
    return Row(tuple(theirs), (ours,), read, lambda x: [row.view(1, 1, -1) for row in x])


def arguments_of(
    vocab_size: int, heads: int, head_dim: int, layers: int, hidden: int, ranks: Mapping[str, int | None], **others: Any
) -> dict[str, Any]:
    """Arguments of the language model: a time mix and a channel mix for each layer of theirs."""
    time = {"heads": heads, "rank": ranks["w"], "rate_rank": ranks["a"], "gate_rank": ranks["g"]}
    time |= {"eps": others.pop("head_eps"), "removal_eps": others.pop("removal_eps")}
    channel = {"rwkv_channel_mix": {"hidden": hidden, "receptance": False}}
    pattern: list[Any] = [{"rwkv7": time}, channel]
    pattern += [{"rwkv7": time | {"value_rank": ranks["v"]}}, channel] * (layers - 1)
    sizes = {"vocab_size": vocab_size, "dim": heads * head_dim, "layers": 2 * layers, "pattern": pattern}
    return sizes | {"mlp": None, "norm": "layer", "embedding_norm": True} | others


class _RWKV7(Architecture):
    """What both forms share; a layer of theirs is two of ours."""

    def count(self, arguments: Mapping[str, Any]) -> int:
        return arguments["layers"] // 2

    def parts(self, i: int, arguments: Mapping[str, Any]) -> tuple[str, str, bool]:
        """Our names of layer i of theirs: of its time mix and its channel mix, and whether it hears the first layer."""
        _, options = pick(arguments["pattern"], 2 * i)
        return f"stack.layers.{2 * i}", f"stack.layers.{2 * i + 1}", options.get("value_rank") is not None


@register("convert:rwkv7")
class RWKV7(_RWKV7):
    """RWKV-7 of flash-linear-attention."""

    model_type = "rwkv7"
    class_name = "RWKV7ForCausalLM"

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip(*RUNNING.split())
        dim, layers = settings.take("hidden_size", default=2048), settings.take("num_hidden_layers", default=24)
        heads = settings.take("num_heads", default=None)
        head_dim = settings.take("head_dim", default=64 if heads is None else dim // heads)
        settings.only("norm_first", True)
        settings.only("norm_bias", True)
        settings.only("hidden_act", "sqrelu")
        settings.only("value_dim", None, dim, [dim] * layers)
        hidden = int(dim * settings.take("hidden_ratio", default=4))
        eps = settings.take("norm_eps", default=1e-5)
        names = {"w": ("decay", 64), "a": ("a", 64), "v": ("v", 16), "g": ("gate", 128)}
        return arguments_of(
            settings.take("vocab_size", default=32000),
            dim // head_dim,
            head_dim,
            layers,
            settings.take("intermediate_size", default=-(-hidden // 32) * 32),
            {key: settings.take(f"{name}_low_rank_dim", default=rank) for key, (name, rank) in names.items()},
            head_eps=head_dim * eps,
            # the norm of its own kernels adds more than torch's
            removal_eps=1e-6 if settings.take("fuse_norm", default=True) else 1e-24,
            eps=eps,
            tie=settings.take("tie_word_embeddings", default=False),
        )

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        rows = [same("model.embeddings.weight", "embedding.weight")]
        return (
            rows + norm_rows("model.layers.0.pre_norm", "embedding_norm", True) + norm_rows("model.norm", "norm", True)
        )

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        block, (time, channel, hears) = f"model.layers.{i}", self.parts(i, arguments)
        theirs, ours = f"{block}.attn", f"{time}.mixer"
        rows = norm_rows(f"{block}.attn_norm", f"{time}.mixer_norm", True)
        rows += norm_rows(f"{block}.ffn_norm", f"{channel}.mixer_norm", True)
        rows.append(shares([f"{theirs}.x_{use}" for use in USES], f"{ours}.mu"))
        for x, y in (("k_k", "removal"), ("k_a", "replacement"), ("r_k", "bonus")):
            rows.append(same(f"{theirs}.{x}", f"{ours}.{y}"))
        for x, y in (("r", "r"), ("k", "k"), ("v", "v"), ("o", "out")):
            rows += linear(f"{theirs}.{x}_proj", f"{ours}.project_{y}")
        for x, y in MAPS.items():
            if x != "v" or hears:
                rows += linear(f"{theirs}.{x}_lora.lora.0", f"{ours}.{y}.down")
                rows += linear(f"{theirs}.{x}_lora.lora.2", f"{ours}.{y}.up", x != "g")
        rows += [same(f"{theirs}.g_norm.{part}", f"{ours}.norm_{part}") for part in ("weight", "bias")]
        theirs, ours = f"{block}.ffn", f"{channel}.mixer"
        rows.append(Row((f"{theirs}.x_k",), (f"{ours}.mu",), lambda x: [x[None]], lambda x: [x[0]]))
        return rows + linear(f"{theirs}.key", f"{ours}.project_k") + linear(f"{theirs}.value", f"{ours}.project_out")


@register("convert:rwkv7_pth")
class RWKV7Pth(_RWKV7):
    """RWKV-7 as its authors publish it: a `.pth` file of weights, without a config."""

    model_type = "rwkv7_pth"
    class_name = "RWKV_x070"
    prefix = ""
    head = "head.weight"
    ignored = (r"blocks\.0\.att\.v[012]",)  # the first layer hears no other
    sizes = ("vocab_size", "num_heads", "head_dim", "num_layers", "intermediate_size")

    @classmethod
    def config(cls, weights: Weights) -> dict[str, Any]:
        """A config of a file, from the shapes of its tensors."""
        wanted = ("emb.weight", "blocks.0.att.r_k", "blocks.0.ffn.key.weight", *(f"blocks.0.att.{x}1" for x in "wag"))
        if missing := [name for name in wanted if name not in weights or len(weights.shape(name)) != 2]:
            raise ValueError(
                f"{weights.folder} is no checkpoint: it has no config.json, and is no RWKV-7 without {missing[0]}"
            )
        blocks = {name.split(".")[1] for name in weights if name.startswith("blocks.")}
        numbers = [weights.shape("emb.weight")[0], *weights.shape("blocks.0.att.r_k"), len(blocks)]
        found = dict(zip(cls.sizes, [*numbers, weights.shape("blocks.0.ffn.key.weight")[0]]))
        ranks = {x: weights.shape(f"blocks.0.att.{x}1")[1] for x in "wag"}
        if "blocks.1.att.v1" in weights:
            ranks["v"] = weights.shape("blocks.1.att.v1")[-1]
        return {"model_type": cls.model_type, **found, "ranks": ranks}

    def arguments(self, settings: Settings) -> dict[str, Any]:
        vocab_size, heads, head_dim, layers, hidden = (settings.take(name) for name in self.sizes)
        ranks = {"v": None} | dict(settings.take("ranks"))
        others = dict(head_eps=64e-5, removal_eps=1e-24, eps=1e-5, tie=False)
        return arguments_of(vocab_size, heads, head_dim, layers, hidden, ranks, **others)

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        rows = [same("emb.weight", "embedding.weight"), *norm_rows("blocks.0.ln0", "embedding_norm", True)]
        return rows + norm_rows("ln_out", "norm", True)

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        block, (time, channel, hears) = f"blocks.{i}", self.parts(i, arguments)
        theirs, ours = f"{block}.att", f"{time}.mixer"
        rows = norm_rows(f"{block}.ln1", f"{time}.mixer_norm", True) + norm_rows(
            f"{block}.ln2", f"{channel}.mixer_norm", True
        )
        rows.append(shares([f"{theirs}.x_{use}" for use in USES], f"{ours}.mu"))
        rows += [flat(f"{theirs}.k_k", f"{ours}.removal"), flat(f"{theirs}.k_a", f"{ours}.replacement")]
        rows.append(same(f"{theirs}.r_k", f"{ours}.bonus"))
        for x, y in (("receptance", "r"), ("key", "k"), ("value", "v"), ("output", "out")):
            rows += linear(f"{theirs}.{x}", f"{ours}.project_{y}")
        for x, y in MAPS.items():
            if x != "v" or hears:
                rows.append(transposed(f"{theirs}.{x}1", f"{ours}.{y}.down.weight"))
                rows.append(transposed(f"{theirs}.{x}2", f"{ours}.{y}.up.weight"))
                rows += [flat(f"{theirs}.{x}0", f"{ours}.{y}.up.bias")] * (x != "g")
        rows += [same(f"{theirs}.ln_x.{part}", f"{ours}.norm_{part}") for part in ("weight", "bias")]
        theirs, ours = f"{block}.ffn", f"{channel}.mixer"
        rows.append(shares([f"{theirs}.x_k"], f"{ours}.mu"))
        return rows + linear(f"{theirs}.key", f"{ours}.project_k") + linear(f"{theirs}.value", f"{ours}.project_out")
