"""How the outputs of mixers that read the same tokens, side by side, become one.

concat  W [y_1; ...; y_n]
gate    sum_i sigmoid(W_i x + b_i) * y_i           for each channel
sum     y_1 + ... + y_n                            as in Falcon-H1: Zuo et al. 2025, https://arxiv.org/abs/2507.22448
mean    1/n sum_i w_i * norm(y_i)                  as in Hymba: Dong et al. 2024, https://arxiv.org/abs/2411.13676
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ostinato.layers.linear import Linear
from ostinato.layers.norms import RMSNorm

FUSIONS = ("concat", "gate", "mean", "sum")


class Fusion(nn.Module):
    """One output made of several.

    A fresh gate takes about half of each; a fresh concat begins as any linear map.

    dim: width D of the input and of each output
    parts: number of outputs
    how: "concat" maps them together to D, "gate" weighs them by what the input says, "mean" takes the mean of them,
        normalised, "sum" adds them
    """

    def __init__(self, dim: int, parts: int, how: str = "gate"):
        super().__init__()
        if how not in FUSIONS:
            raise ValueError(f"fusion is one of {', '.join(FUSIONS)}; got {how!r}")
        self.how = how
        if how == "concat":
            self.together = Linear(parts * dim, dim, bias=False)
        elif how == "gate":
            self.gate = Linear(dim, parts * dim)
            nn.init.zeros_(self.gate.bias)
        elif how == "mean":
            self.norms = nn.ModuleList([RMSNorm(dim) for _ in range(parts)])

    def forward(self, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        """(B, T, D), and that for each part -> (B, T, D)."""
        if self.how == "concat":
            return self.together(torch.cat(list(outputs), -1))
        if self.how == "gate":
            gates = torch.sigmoid(self.gate(x)).chunk(len(outputs), -1)
            return torch.stack([gate * y for gate, y in zip(gates, outputs, strict=True)]).sum(0)
        if self.how == "sum":
            return torch.stack(list(outputs)).sum(0)
        normed = [norm(y) for norm, y in zip(self.norms, outputs, strict=True)]
        return torch.stack(normed).mean(0)
