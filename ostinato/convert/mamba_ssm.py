"""Checkpoints of the authors' own package, `mamba-ssm`: Mamba and Mamba-2, with or without channel mixers.

Their config has no name of a model, and says of the mixers only what is not as their classes have it.

Gu and Dao 2023, https://arxiv.org/abs/2312.00752; Dao and Gu 2024, https://arxiv.org/abs/2405.21060.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch

from ostinato.convert.architecture import Architecture, norm_rows
from ostinato.convert.mamba import common_rows, expansion, mamba2_rows
from ostinato.convert.settings import Settings, pick
from ostinato.convert.table import Row, linear, same
from ostinato.registry import register

START = (
    "dt_min dt_max dt_init dt_scale dt_init_floor use_fast_path conv_init A_init_range chunk_size use_mem_eff_path "
    "process_group sequence_parallel device dtype layer_idx"
).split()
"""Names that say how weights began, and how they are computed with."""


@register("convert:mamba_ssm")
class MambaSSM(Architecture):
    """Mamba and Mamba-2 of mamba-ssm."""

    model_type = "mamba_ssm"
    class_name = "MambaLMHeadModel"
    prefix = "backbone."

    def arguments(self, settings: Settings) -> dict[str, Any]:
        settings.skip("residual_in_fp32", "fused_add_norm", "attn_cfg")
        settings.only("attn_layer_idx", [])
        dim, multiple = settings.take("d_model"), settings.take("pad_vocab_size_multiple", default=8)
        hidden = settings.take("d_intermediate", default=0)
        normed = settings.take("rms_norm", default=True)
        inner = Settings({"model_type": settings.model_type, **settings.take("ssm_cfg", default={})}, START)
        kind = inner.only("layer", "Mamba1", "Mamba2")
        mixer = self.mamba2(inner, dim) if kind == "Mamba2" else self.mamba(inner, dim)
        inner.finish()
        return {
            "vocab_size": -(-settings.take("vocab_size") // multiple) * multiple,
            "dim": dim,
            "layers": settings.take("n_layer"),
            "pattern": [mixer],
            "mlp": {"swiglu": {"hidden": -(-hidden // 128) * 128}} if hidden else None,
            "tie": settings.take("tie_embeddings", default=True),
            "norm": "rms" if normed else "layer",
            "eps": 1e-5,
        }

    def mamba(self, settings: Settings, dim: int) -> dict[str, Any]:
        """Arguments of Mamba."""
        rank = settings.take("dt_rank", default="auto")
        options = self.common(settings, dim, 16) | {"dt_rank": ceil(dim / 16) if rank == "auto" else rank}
        return {"mamba": options}

    def mamba2(self, settings: Settings, dim: int) -> dict[str, Any]:
        """Arguments of Mamba-2."""
        settings.only("d_ssm", None)
        settings.only("D_has_hdim", False)
        settings.only("rmsnorm", True)
        before = settings.take("norm_before_gate", default=False)
        options = self.common(settings, dim, 128) | {"head_dim": settings.take("headdim", default=64)}
        return {
            "mamba2": options | {"groups": settings.take("ngroups", default=1), "norm": "before" if before else "after"}
        }

    def common(self, settings: Settings, dim: int, state_size: int) -> dict[str, Any]:
        """Arguments that both versions of the mixer have."""
        return {
            "expansion": expansion(int(settings.take("expand", default=2) * dim), dim),
            "state_size": settings.take("d_state", default=state_size),
            "conv_width": settings.take("d_conv", default=4),
            "bias": settings.take("bias", default=False),
            "conv_bias": settings.take("conv_bias", default=True),
        }

    def ends(self, arguments: Mapping[str, Any]) -> list[Row]:
        rows = [same("backbone.embedding.weight", "embedding.weight")]
        return rows + norm_rows("backbone.norm_f", "norm", arguments["norm"] == "layer")

    def layer(self, i: int, arguments: Mapping[str, Any]) -> list[Row]:
        block, layer = f"backbone.layers.{i}", f"stack.layers.{i}"
        name, options = pick(arguments["pattern"], i)
        biased, mlp = arguments["norm"] == "layer", arguments["mlp"]
        rows = norm_rows(f"{block}.norm", f"{layer}.mixer_norm", biased)
        theirs, ours = f"{block}.mixer", f"{layer}.mixer"
        rows += common_rows(theirs, ours, options)
        if name == "mamba2":
            rows += mamba2_rows(theirs, ours)
        else:
            rows += linear(f"{theirs}.x_proj", f"{ours}.select") + linear(
                f"{theirs}.dt_proj", f"{ours}.step", bias=True
            )
        if mlp is None:
            return rows
        # theirs has the gate behind what goes up
        swap = lambda x: [torch.cat(x.chunk(2)[::-1])]  # noqa: E731
        rows += norm_rows(f"{block}.norm2", f"{layer}.mlp_norm", biased)
        rows.append(Row((f"{block}.mlp.fc1.weight",), (f"{layer}.mlp.project_in.weight",), swap, swap))
        return rows + linear(f"{block}.mlp.fc2", f"{layer}.mlp.project_out")
