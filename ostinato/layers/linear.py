"""The linear map that mixers and models use."""

from collections.abc import Callable

from torch import Tensor, nn

from ostinato.ops.linear import linear, linear_of


class Linear(nn.Linear):
    """torch.nn.Linear on `ostinato.ops.linear`: the same weights and numbers, multiplied by what is quickest here."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return linear(x, self.weight, self.bias)


def after(layer: nn.Module, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """layer(f(inputs)), and where the layer is a plain linear map, gradients that keep the inputs alone: see `linear_of`.

    layer: a linear map, or whatever stands in its place (an adapter, integers)
    function: f, cheap and differentiable, of the inputs alone
    """
    if type(layer) is Linear and not (layer._forward_hooks or layer._forward_pre_hooks):
        return linear_of(function, inputs, layer.weight, layer.bias)
    return layer(function(*inputs))
