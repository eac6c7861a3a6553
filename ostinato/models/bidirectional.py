"""Two mixers, one of which reads the sequence from its end.

    y_t = W_o [forwards(x)_t ; backwards(flip x)_t]

Schuster and Paliwal 1997, https://doi.org/10.1109/78.650093.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ostinato.contract import SequenceModule
from ostinato.layers.linear import Linear
from ostinato.models.stack import Part, build
from ostinato.registry import register


@register("wrapper:bidirectional", paper="rnn_critical_review")
class Bidirectional(SequenceModule):
    """Any causal mixer made to see both ways: it reads whole sequences and has no state.

    dim: width D of input and output
    mixer: the mixer, a name or {name: {argument: value}}; each direction has weights of its own
    merge: "concat" projects both outputs together to D, "sum" adds them
    """

    kind = "wrapper"
    causal = False
    examples = (
        dict(dim=8, mixer={"gla": {"heads": 2}}),
        dict(dim=8, mixer={"min_gru": {"expansion": 1.0}}, merge="sum"),
    )

    def __init__(self, dim: int, *, mixer: Part = "lstm", merge: str = "concat"):
        super().__init__(dim)
        if merge not in ("concat", "sum"):
            raise ValueError(f"merge is concat or sum; got {merge!r}")
        self.forwards, self.backwards = build(mixer, dim), build(mixer, dim)
        if not self.forwards.causal:
            raise ValueError("bidirectional takes a causal mixer; this one sees both ways already")
        self.project_out = Linear(2 * dim, dim, bias=False) if merge == "concat" else None

    def encode(self, x: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
        begins, ends = _edges(x, mask, reset)
        there, _ = self.forwards(x, None, begins)
        back, _ = self.backwards(x.flip(1), None, None if ends is None else ends.flip(1))
        both = torch.cat([there, back.flip(1)], -1)
        y = self.project_out(both) if self.project_out is not None else there + back.flip(1)
        return y if mask is None else y * mask[..., None]


def _edges(x: Tensor, mask: Tensor | None, reset: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """Where documents begin and where they end; what is masked out belongs to none."""
    if mask is None and reset is None:
        return None, None
    nothing = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    real = ~nothing if mask is None else mask
    begins = nothing if reset is None else reset
    begins = begins | (real != pad(real, (1, -1)))
    return begins, pad(begins, (-1, 1), value=True)
