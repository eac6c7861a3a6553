"""BaseConv: a projection of the token times a convolution over the past, the least that is a gated convolution.

    y_t = (W x_t + b_1) * (sum_{j < L} h_j x_{t-j} + b_2)          one filter h for each channel

Arora, Eyuboglu, Timalsina, Johnson, Poli, Zou, Rudra, Re 2023 (Zoology), https://arxiv.org/abs/2312.04927, equation 1. Any
gated convolution can be written in several of these. The paper stacks short filters (3 taps) and filters as long as the
sequence in turn; here a long one is a wide one.
"""

from typing import NamedTuple

from torch import Tensor

from ostinato.contract import Mixer
from ostinato.layers.linear import Linear
from ostinato.layers.short_convolution import ShortConvolution
from ostinato.registry import register


class BaseConvState(NamedTuple):
    inputs: Tensor  # B W-1 D


@register("base_conv", paper="zoology_mqar")
class BaseConv(Mixer):
    """BaseConv: what a token says opens what a depthwise convolution has found before it.

    dim: width D of input and output
    conv_width: taps L of the convolution
    """

    examples = (dict(dim=7), dict(dim=6, conv_width=11))

    def __init__(self, dim: int, *, conv_width: int = 3):
        super().__init__(dim)
        self.projection = Linear(dim, dim)
        self.convolution = ShortConvolution(dim, conv_width, bias=True)

    def initial_state(self, batch: int) -> BaseConvState:
        return BaseConvState(self.convolution.initial_state(batch, **self.state_like))

    def mix(self, x: Tensor, state: BaseConvState, reset: Tensor | None) -> tuple[Tensor, BaseConvState]:
        convolved, inputs = self.convolution(x, state.inputs, reset)
        return self.projection(x) * convolved, BaseConvState(inputs)
