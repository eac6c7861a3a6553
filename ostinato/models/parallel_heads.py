"""Mixers side by side: attention heads that recall, say, beside the heads of a recurrence that summarises.

    y_t = fuse(b_1 mixer_1(a_1 x)_t, ..., b_n mixer_n(a_n x)_t)          with numbers a and b, 1 unless given

Xiao, Zhiyuan, Yueyu 2025 (WuNeng), https://arxiv.org/abs/2504.19191; Dong et al. 2024 (Hymba), https://arxiv.org/abs/2411.13676;
Zuo et al. 2025 (Falcon-H1), https://arxiv.org/abs/2507.22448.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from ostinato.contract import SequenceModule
from ostinato.layers.fusion import Fusion
from ostinato.models.stack import Part, build
from ostinato.registry import register
from ostinato.state import State


class ParallelHeadsState(NamedTuple):
    parts: tuple[State, ...]


@register("wrapper:parallel_heads", paper="wuneng")
class ParallelHeads(SequenceModule):
    """Several mixers that read the same tokens, and whose outputs are made one.

    dim: width D of input and output
    mixers: two mixers or more, each a name or {name: {argument: value}}
    fusion: "gate" weighs outputs by what the input says, "concat" maps them together to D, "mean" takes the mean of them,
        normalised, "sum" adds them
    in_scales: what each mixer reads x times; None for 1
    out_scales: what the output of each mixer is multiplied by; None for 1
    """

    kind = "wrapper"
    examples = (
        dict(dim=8, mixers=[{"attention": {"heads": 2, "window": 5}}, {"gla": {"heads": 2}}]),
        dict(dim=8, mixers=["min_gru", {"gla": {"heads": 2}}], fusion="mean", in_scales=[0.5, 1], out_scales=[2, 0.7]),
    )

    def __init__(
        self,
        dim: int,
        *,
        mixers: Sequence[Part] = ("attention", "rwkv7"),
        fusion: str = "gate",
        in_scales: Sequence[float] | None = None,
        out_scales: Sequence[float] | None = None,
    ):
        super().__init__(dim)
        if isinstance(mixers, str) or len(mixers) < 2:
            raise ValueError(f"mixers are two or more, side by side; got {mixers!r}")
        self.parts = nn.ModuleList([build(mixer, dim) for mixer in mixers])
        kinds = {part.causal for part in self.mixers}
        if len(kinds) > 1:
            raise ValueError("mixers side by side are all causal or none is; these mix both kinds")
        self.causal = kinds.pop()
        ones = [1.0] * len(self.parts)
        self.in_scales, self.out_scales = in_scales or ones, out_scales or ones
        if {len(self.in_scales), len(self.out_scales)} != {len(ones)}:
            raise ValueError(f"in_scales and out_scales have a number for each of the {len(ones)} mixers")
        self.fusion = Fusion(dim, len(self.parts), fusion)

    @property
    def mixers(self) -> list[SequenceModule]:
        """The mixers, as what they are."""
        return [part for part in self.parts if isinstance(part, SequenceModule)]

    def initial_state(self, batch: int) -> ParallelHeadsState:
        return ParallelHeadsState(tuple(part.initial_state(batch) for part in self.mixers))

    def state_bytes(self, tokens: int) -> int:
        return sum(part.state_bytes(tokens) for part in self.mixers)

    def read(self, x: Tensor, state: ParallelHeadsState, reset: Tensor | None) -> tuple[Tensor, ParallelHeadsState]:
        each = zip(self.parts, state.parts, self.in_scales, strict=True)
        both = [part(times(x, scale), before, reset) for part, before, scale in each]
        return self.fused(x, [y for y, _ in both]), ParallelHeadsState(tuple(after for _, after in both))

    def encode(self, x: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
        each = zip(self.parts, self.in_scales, strict=True)
        return self.fused(x, [part(times(x, scale), None, reset, mask=mask)[0] for part, scale in each])

    def fused(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """The outputs, each times its scale, as one."""
        return self.fusion(x, [times(y, scale) for y, scale in zip(outputs, self.out_scales, strict=True)])


def times(x: Tensor, scale: float) -> Tensor:
    """x times a number, which mostly is 1."""
    return x if scale == 1 else scale * x
