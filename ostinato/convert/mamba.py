"""Mamba, Falcon-Mamba and Mamba-2: a state space in every layer, and no channel mixers.

Gu and Dao 2023, https://arxiv.org/abs/2312.00752; Zuo et al. 2024, https://arxiv.org/abs/2410.05355; Dao and Gu 2024,
https://arxiv.org/abs/2405.21060.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from ostinato.convert.architecture import Architecture, norm_rows
from ostinato.convert.settings import Settings, pick
from ostinato.convert.table import Row, convolution, linear, same
from ostinato.registry import register

START = (
    "time_step_min time_step_max time_step_floor time_step_scale time_step_init_scheme rescale_prenorm_residual "
    "residual_in_fp32 use_mambapy use_associative_scan use_falcon_mambapy fused_add_norm pad_vocab_size_multiple chunk_size "
    "d_model d_inner n_layer ssm_cfg numel"
).split()
"""Names that say how weights began and how they are computed with, or repeat others."""


def expansion(inner: int, dim: int) -> float:
    """The expansion with which a mixer of that width has that inner width."""
    exact = inner / dim
    return exact if int(exact * dim) == inner else (inner + 0.5) / dim


def limits(settings: Settings, *names: str) -> dict[str, Any]:
    """Limits of the step sizes, as an argument of Mamba-2, where there are any."""
    limit = settings.take(*(names or ("time_step_limit",)), default=[0.0, float("inf")])
    limit = [float(x["__float__"]) if isinstance(x, dict) else float(x) for x in limit]
    return {} if limit == [0.0, float("inf")] else {"dt_limits": limit}


def common_rows(theirs: str, ours: str, options: Mapping[str, Any]) -> list[Row]:
    """What both versions of the mixer have."""
    bias, out_bias = options.get("bias", False), options.get("out_bias")
    rows = linear(f"{theirs}.in_proj", f"{ours}.project_in", bias)
    rows += linear(f"{theirs}.out_proj", f"{ours}.project_out", bias if out_bias is None else out_bias)
    rows += convolution(f"{theirs}.conv1d", f"{ours}.convolution", options.get("conv_bias", True))
    return rows + [same(f"{theirs}.{name}", f"{ours}.{name}") for name in ("A_log", "D")]


def mamba2_rows(theirs: str, ours: str, normed: bool = True) -> list[Row]:
    """What the second version has besides."""
    rows = [same(f"{theirs}.dt_bias", f"{ours}.dt_bias")]
    return rows + [same(f"{theirs}.norm.weight", f"{ours}.norm_weight")] * normed


@register("convert:mamba")
class Mamba(Architecture):
    """Mamba of transformers, the `-hf` checkpoints."""

    model_type = "mamba"
    class_name = "MambaForCausalLM"
    prefix = "backbone."
    tied = True
    mixer = "mamba"

    def canonical(self, name: str) -> str:
        return name.replace("backbone.embedding.", "backbone.embeddings.")

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip(*START)
        settings.only("rms_norm", True)
        dim, inner = settings.take("hidden_size"), self.inner(settings)
        settings.only("hidden_act", "silu")
        return {
            "vocab_size": settings.take("vocab_size"),
            "dim": dim,
            "layers": settings.take("num_hidden_layers"),
            "pattern": [{self.mixer: {"expansion": expansion(inner, dim)} | self.mixer_arguments(settings, inner)}],
            "mlp": None,
            "tie": settings.take("tie_word_embeddings", default=self.tied),
            "eps": settings.take("layer_norm_epsilon", default=1e-5),
        }

    def inner(self, settings: Settings) -> int:
        """The inner width: what the config says it is, whatever it says of its expansion."""
        inner = int(settings.take("expand", default=2) * settings.take("hidden_size"))
        return settings.take("intermediate_size", default=inner)

    def common(self, settings: Settings, state_size: int) -> dict[str, Any]:
        """Arguments that both versions of the mixer have."""
        return {
            "state_size": settings.take("state_size", default=state_size),
            "conv_width": settings.take("conv_kernel", default=4),
            "bias": settings.take("use_bias", default=False),
            "conv_bias": settings.take("use_conv_bias", default=True),
        }

    def mixer_arguments(self, settings: Settings, inner: int) -> dict[str, Any]:
        """Arguments of the mixer besides its expansion."""
        rank = settings.take("time_step_rank", default="auto")
        return self.common(settings, 16) | {
            "dt_rank": ceil(settings.take("hidden_size") / 16) if rank == "auto" else rank
        }

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        return [same("backbone.embeddings.weight", "embedding.weight"), *norm_rows("backbone.norm_f", "norm")]

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        theirs, ours = f"backbone.layers.{i}", f"stack.layers.{i}"
        _, options = pick(arguments["pattern"], i)
        rows = norm_rows(f"{theirs}.norm", f"{ours}.mixer_norm")
        theirs, ours = f"{theirs}.mixer", f"{ours}.mixer"
        return rows + common_rows(theirs, ours, options) + self.inside(theirs, ours)

    def inside(self, theirs: str, ours: str) -> list[Row]:
        """What only this version has."""
        return linear(f"{theirs}.x_proj", f"{ours}.select") + linear(f"{theirs}.dt_proj", f"{ours}.step", bias=True)

    def settings(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        _, options = pick(arguments["pattern"], 0)
        inner = int(options.get("expansion", 2.0) * arguments["dim"])
        if inner % arguments["dim"]:
            raise ValueError(
                f"transformers has {self.model_type} with an inner width that is a multiple of dim; got {inner}"
            )
        return {
            "vocab_size": arguments["vocab_size"],
            "hidden_size": arguments["dim"],
            "num_hidden_layers": arguments["layers"],
            "expand": inner // arguments["dim"],
            "conv_kernel": options.get("conv_width", 4),
            "use_bias": options.get("bias", False),
            "use_conv_bias": options.get("conv_bias", True),
            "layer_norm_epsilon": arguments.get("eps", 1e-5),
            "tie_word_embeddings": arguments.get("tie", True),
            **self.mixer_settings(options, inner),
        }

    def mixer_settings(self, options: Mapping[str, Any], inner: int) -> dict[str, Any]:
        """Settings that only this version has."""
        return {"state_size": options.get("state_size", 16), "time_step_rank": options.get("dt_rank") or "auto"}


@register("convert:falcon_mamba")
class FalconMamba(Mamba):
    """Falcon-Mamba of transformers: Mamba with norms of dt, B and C."""

    model_type = "falcon_mamba"
    class_name = "FalconMambaForCausalLM"

    def mixer_arguments(self, settings: Settings, inner: int) -> dict[str, Any]:
        return super().mixer_arguments(settings, inner) | {"select_eps": settings.take("mixer_rms_eps", default=1e-6)}

    def mixer_settings(self, options: Mapping[str, Any], inner: int) -> dict[str, Any]:
        return super().mixer_settings(options, inner) | {"mixer_rms_eps": options["select_eps"]}


@register("convert:mamba2")
class Mamba2(Mamba):
    """Mamba-2 of transformers, such as Codestral Mamba."""

    model_type = "mamba2"
    class_name = "Mamba2ForCausalLM"
    tied = False
    mixer = "mamba2"

    def inner(self, settings: Settings) -> int:
        inner = int(settings.take("expand", default=2) * settings.take("hidden_size"))
        return settings.only("intermediate_size", inner)

    def mixer_arguments(self, settings: Settings, inner: int) -> dict[str, Any]:
        heads, head_dim = settings.take("num_heads", default=128), settings.take("head_dim", default=64)
        if heads * head_dim != inner:
            raise ValueError(
                f"the mamba2 model asks for num_heads={heads} of head_dim={head_dim}; together they are {inner}"
            )
        settings.skip("time_step_rank", "norm_before_gate")  # transformers passes over both
        groups, eps = settings.take("n_groups", default=8), settings.take("layer_norm_epsilon", default=1e-5)
        options = self.common(settings, 128) | {"head_dim": head_dim, "groups": groups, "eps": eps}
        return options | limits(settings)

    def inside(self, theirs: str, ours: str) -> list[Row]:
        return mamba2_rows(theirs, ours)

    def mixer_settings(self, options: Mapping[str, Any], inner: int) -> dict[str, Any]:
        head_dim = options.get("head_dim") or min(64, inner)
        found = {"state_size": options.get("state_size", 128), "n_groups": options.get("groups", 1)}
        return found | {"head_dim": head_dim, "num_heads": inner // head_dim}
