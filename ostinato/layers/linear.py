"""The linear map that mixers and models use."""

from torch import Tensor, nn

from ostinato.ops.linear import linear


class Linear(nn.Linear):
    """torch.nn.Linear on `ostinato.ops.linear`: the same weights and numbers, multiplied by what is quickest here."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return linear(x, self.weight, self.bias)
