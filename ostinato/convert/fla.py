"""Models of flash-linear-attention: GLA, DeltaNet, Gated DeltaNet, RetNet and HGRN2, each with gated channel mixers.

Yang and Zhang 2024, https://github.com/fla-org/flash-linear-attention. Its layers have options that its published models do
not use (short convolutions where a paper has none, layers of attention, feature maps, ...): those are refused by name.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ostinato.convert.architecture import Architecture, gated_mlp_rows, norm_rows
from ostinato.convert.settings import Settings, pick
from ostinato.convert.table import Row, joined_linear, linear, same
from ostinato.registry import register

RUNNING = "attn_mode fuse_swiglu fuse_cross_entropy fuse_linear_cross_entropy use_l2warp max_position_embeddings"
"""Names that say how the numbers are computed."""


class FLA(Architecture):
    """What these models share: the stack around their mixers."""

    ratio = 4
    """Width of the channel mixers as a multiple of 2/3 of the model's, where a config says nothing."""

    depth = 24
    """Layers, where a config says nothing."""

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip(*RUNNING.split())
        dim, layers = settings.take("hidden_size", default=2048), settings.take("num_hidden_layers", default=self.depth)
        settings.only("hidden_act", "swish")
        settings.only("elementwise_affine", True)
        eps = settings.take("norm_eps", default=1e-6)
        hidden = int(dim * settings.take("hidden_ratio", default=self.ratio) * 2 / 3)
        return {
            "vocab_size": settings.take("vocab_size", default=32000),
            "dim": dim,
            "layers": layers,
            "pattern": [self.mixer(settings, dim, eps)],
            "mlp": {"swiglu": {"hidden": settings.take("intermediate_size", default=-(-hidden // 256) * 256)}},
            "tie": settings.take("tie_word_embeddings", default=False),
            "eps": eps,
        }

    @abstractmethod
    def mixer(self, settings: Settings, dim: int, eps: float) -> dict[str, Any]:
        """The mixer, by name, with its arguments."""

    @abstractmethod
    def mixer_rows(self, theirs: str, ours: str, options: Mapping[str, Any], dim: int) -> list[Row]:
        """The weights of a mixer."""

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        return [same("model.embeddings.weight", "embedding.weight"), *norm_rows("model.norm", "norm")]

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        theirs, ours = f"model.layers.{i}", f"stack.layers.{i}"
        _, options = pick(arguments["pattern"], i)
        rows = norm_rows(f"{theirs}.attn_norm", f"{ours}.mixer_norm") + norm_rows(
            f"{theirs}.mlp_norm", f"{ours}.mlp_norm"
        )
        rows += self.mixer_rows(f"{theirs}.attn", f"{ours}.mixer", options, arguments["dim"])
        rows += linear(f"{theirs}.attn.o_proj", f"{ours}.mixer.project_out")
        return rows + gated_mlp_rows(f"{theirs}.mlp", f"{ours}.mlp", arguments, i)


def widths(settings: Settings, dim: int, heads: int, key: float, value: float) -> tuple[int, int]:
    """Widths of keys and values of a head, of which a config says the sums as multiples of dim."""
    sums = [settings.take(name, default=each) * dim for name, each in (("expand_k", key), ("expand_v", value))]
    K, V = (round(x) // heads for x in sums)
    if [K * heads, V * heads] != sums:
        raise ValueError(f"the {settings.model_type} model asks for keys and values of {sums} in num_heads={heads}")
    return K, V


def joined_in(theirs: str, ours: str, names: str, sizes: Sequence[int]) -> list[Row]:
    """Projections of theirs that are one of ours."""
    return joined_linear([f"{theirs}.{name}_proj" for name in names], f"{ours}.project_in", sizes)


def joined_convolution(theirs: str, ours: str, sizes: Sequence[int]) -> Row:
    """Convolutions of queries, keys and values that are one of ours."""
    return Row(
        tuple(f"{theirs}.{name}_conv1d.weight" for name in "qkv"),
        (f"{ours}.convolution.weight",),
        lambda *parts: [torch.cat(parts).squeeze(1)],
        lambda x: x.unsqueeze(1).split(list(sizes)),
    )


class _Gated(FLA):
    """Queries, keys and values without convolutions, and a norm with a gate."""

    gate_norm = "g_norm_swish_gate"

    def plain(self, settings: Settings, heads: int) -> None:
        """Refuse what these layers may have besides."""
        settings.only("num_kv_heads", None, heads)
        settings.only("feature_map", None)
        settings.only("use_short_conv", False)
        settings.skip("conv_size")
        settings.only("use_output_gate", True)
        # the norm has another name where it is not computed together with its gate
        self.gate_norm = "g_norm_swish_gate" if settings.take("fuse_norm", default=True) else "g_norm"


@register("convert:gla")
class GLA(_Gated):
    """GLA of flash-linear-attention."""

    model_type = "gla"
    class_name = "GLAForCausalLM"

    def mixer(self, settings: Settings, dim: int, eps: float) -> dict[str, Any]:
        heads = settings.take("num_heads", default=4)
        self.plain(settings, heads)
        settings.only("clamp_min", None)
        settings.only("use_gk", True)
        settings.only("use_gv", False)
        K, V = widths(settings, dim, heads, 0.5, 1.0)
        return {"gla": {"heads": heads, "key_dim": K, "value_dim": V, "gate_rank": 16, "slowness": 16.0, "eps": eps}}

    def mixer_rows(self, theirs: str, ours: str, options: Mapping[str, Any], dim: int) -> list[Row]:
        H, K, V = options["heads"], options["key_dim"], options["value_dim"]
        rows = joined_in(theirs, ours, "qkvg", [H * K, H * K, H * V, H * V])
        rows += linear(f"{theirs}.gk_proj.0", f"{ours}.decay.down") + linear(
            f"{theirs}.gk_proj.1", f"{ours}.decay.up", True
        )
        return rows + norm_rows(f"{theirs}.{self.gate_norm}", f"{ours}.norm")


@register("convert:retnet")
class RetNet(_Gated):
    """RetNet of flash-linear-attention, whose norms have weights."""

    model_type = "retnet"
    class_name = "RetNetForCausalLM"
    ratio = 2

    def mixer(self, settings: Settings, dim: int, eps: float) -> dict[str, Any]:
        heads = settings.take("num_heads", default=8)
        self.plain(settings, heads)
        K, V = widths(settings, dim, heads, 1.0, 2.0)
        if K * heads != dim or V % K:
            raise ValueError(
                f"the retnet model asks for keys of {K} and values of {V}; ostinato has keys of dim / heads"
            )
        return {"retention": {"heads": heads, "value_factor": V // K, "norm": "rms", "eps": eps}}

    def mixer_rows(self, theirs: str, ours: str, options: Mapping[str, Any], dim: int) -> list[Row]:
        inner = options["value_factor"] * dim
        rows = joined_in(theirs, ours, "qkvg", [dim, dim, inner, inner])
        return rows + norm_rows(f"{theirs}.{self.gate_norm}", f"{ours}.norm")


@register("convert:delta_net")
class DeltaNet(FLA):
    """DeltaNet of flash-linear-attention."""

    model_type = "delta_net"
    class_name = "DeltaNetForCausalLM"

    def mixer(self, settings: Settings, dim: int, eps: float) -> dict[str, Any]:
        for name, value in (
            ("use_gate", False),
            ("use_beta", True),
            ("use_short_conv", True),
            ("use_output_norm", True),
        ):
            settings.only(name, value)
        settings.only("qk_norm", "l2")
        settings.only("qk_activation", "silu")
        settings.skip("fuse_norm")
        heads = settings.take("num_heads", default=16)
        K, V = widths(settings, dim, heads, 1.0, 1.0)
        options = {"heads": heads, "key_dim": K, "value_dim": V, "conv_width": settings.take("conv_size", default=4)}
        return {
            "deltanet": options | {"negative_eigenvalues": settings.take("allow_neg_eigval", default=False), "eps": eps}
        }

    def mixer_rows(self, theirs: str, ours: str, options: Mapping[str, Any], dim: int) -> list[Row]:
        H, K, V = options["heads"], options["key_dim"], options["value_dim"]
        sizes = [H * K, H * K, H * V]
        rows = joined_in(theirs, ours, "qkvb", [*sizes, H]) + [joined_convolution(theirs, ours, sizes)]
        return rows + norm_rows(f"{theirs}.o_norm", f"{ours}.norm")


@register("convert:gated_deltanet")
class GatedDeltaNet(FLA):
    """Gated DeltaNet of flash-linear-attention."""

    model_type = "gated_deltanet"
    class_name = "GatedDeltaNetForCausalLM"
    depth = 21

    def mixer(self, settings: Settings, dim: int, eps: float) -> dict[str, Any]:
        settings.only("use_gate", True)
        settings.only("use_short_conv", True)
        settings.only("output_gate_activation", "swish", "silu")
        settings.skip("fuse_norm")
        groups, K = settings.take("num_heads", default=6), settings.take("head_dim", default=256)
        options = {"heads": settings.take("num_v_heads", default=groups), "key_heads": groups, "key_dim": K}
        options |= {"value_dim": int(K * settings.take("expand_v", default=2.0)), "eps": eps}
        options |= {"negative_eigenvalues": settings.take("allow_neg_eigval", default=False)}
        return {"gated_deltanet": options | {"conv_width": settings.take("conv_size", default=4)}}

    def mixer_rows(self, theirs: str, ours: str, options: Mapping[str, Any], dim: int) -> list[Row]:
        H, G, K, V = (options[name] for name in ("heads", "key_heads", "key_dim", "value_dim"))
        sizes = [G * K, G * K, H * V]
        rows = joined_in(theirs, ours, "qkvgba", [*sizes, H * V, H, H]) + [joined_convolution(theirs, ours, sizes)]
        rows += [same(f"{theirs}.{name}", f"{ours}.{name}") for name in ("A_log", "dt_bias")]
        return rows + norm_rows(f"{theirs}.o_norm", f"{ours}.norm")


@register("convert:hgrn2")
class HGRN2(FLA):
    """HGRN2 of flash-linear-attention, whose layers share their lower bounds."""

    model_type = "hgrn2"
    class_name = "HGRN2ForCausalLM"

    def mixer(self, settings: Settings, dim: int, eps: float) -> dict[str, Any]:
        settings.only("use_short_conv", False)
        settings.skip("conv_size", "fuse_norm")
        ratio, heads = settings.take("expand_ratio", default=None), settings.take("num_heads", default=None)
        if ratio is None:
            ratio = dim // heads if heads and "expand_ratio" in settings.values else 128
        if dim % ratio:
            raise ValueError(f"the hgrn2 model asks for expand_ratio={ratio}, which does not divide hidden_size={dim}")
        # theirs divides queries by the root of their width, which the norm takes away but for its eps; that is 1e-5 always
        options = {"heads": dim // ratio, "key_dim": ratio, "eps": 1e-5 * ratio}
        learned = settings.take("use_lower_bound", default=True)
        return {"hgrn2": options | ({} if learned else {"lower_bound": 0.0})}

    def mixer_rows(self, theirs: str, ours: str, options: Mapping[str, Any], dim: int) -> list[Row]:
        return joined_in(theirs, ours, "qfi", [dim] * 3) + norm_rows(f"{theirs}.g_norm", f"{ours}.norm")

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        rows = super().ends(arguments)
        if "lower_bound" in pick(arguments["pattern"], 0)[1]:
            return rows
        ours = tuple(f"stack.layers.{i}.mixer.lower_bound.logits" for i in range(arguments["layers"]))
        return [*rows, Row(("model.lower_bounds",), ours, torch.unbind, lambda *parts: [torch.stack(parts)])]
