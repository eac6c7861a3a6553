"""The linear map: whatever multiplies, the numbers and gradients are those of torch."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.layers.linear import Linear
from ostinato.ops import linear as module
from ostinato.ops.choice import backend
from ostinato.ops.linear import linear


@pytest.fixture
def onednn(monkeypatch):
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch is built without oneDNN")
    monkeypatch.setattr(module, "onednn_is_quicker", lambda: True)


@pytest.mark.parametrize("shape", [(40, 7), (2, 33, 5), (2, 3, 8, 16)])
@pytest.mark.parametrize("bias", [False, True])
def test_onednn_gives_the_numbers_of_torch(onednn, shape, bias):
    torch.manual_seed(0)
    x = torch.randn(*shape[:-1], 2 * shape[-1])[..., : shape[-1]]  # a slice of a wider projection
    layer = Linear(shape[-1], 11, bias=bias)

    def values_and_gradients(dtype):
        x_ = x.detach().to(dtype).requires_grad_()
        weights = [parameter.detach().to(dtype).requires_grad_() for parameter in layer.parameters()]
        y = linear(x_, *weights)
        loss = (y * torch.linspace(-1, 2, y.numel(), dtype=dtype).view_as(y)).sum()
        return y, *torch.autograd.grad(loss, [x_, *weights])

    for one, other in zip(values_and_gradients(torch.float32), values_and_gradients(torch.float64), strict=True):
        assert_close(one.double(), other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_onednn_is_used_for_many_rows_of_float32_only(onednn, monkeypatch):
    used = []
    monkeypatch.setattr(
        module._Product, "apply", lambda x, w, b: used.append(x.shape) or torch.nn.functional.linear(x, w, b)
    )
    weight = torch.randn(4, 3)
    linear(torch.randn(16, 3), weight)
    assert used == [(16, 3)]
    linear(torch.randn(15, 3), weight)
    linear(torch.randn(20, 3).double(), weight.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.randn(20, 3), weight).dtype == torch.bfloat16
    with backend("torch"):
        linear(torch.randn(20, 3), weight)
    assert used == [(16, 3)]
