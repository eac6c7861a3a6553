"""BaseConv is its equation, with the convolution of torch."""

import torch
from torch.nn.functional import conv1d, pad
from torch.testing import assert_close

from ostinato.registry import create


def test_base_conv_equals_its_equation_with_the_convolution_of_torch():
    torch.manual_seed(0)
    mixer = create("base_conv", dim=5, conv_width=4).double()
    x = torch.randn(2, 11, 5, dtype=torch.float64)
    with torch.no_grad():
        mixer.convolution.bias.normal_()
        mixer.projection.bias.normal_()
    found = conv1d(pad(x.mT, (3, 0)), mixer.convolution.weight[:, None], mixer.convolution.bias, groups=5).mT
    expected = (x @ mixer.projection.weight.T + mixer.projection.bias) * found
    assert_close(mixer(x)[0], expected)
