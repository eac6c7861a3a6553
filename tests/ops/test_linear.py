"""The linear map: whatever multiplies, the numbers and gradients are those of torch."""

import pytest
import torch
from torch.testing import assert_close

from ostinato.layers.linear import Linear, after
from ostinato.ops import linear as module
from ostinato.ops.choice import backend
from ostinato.ops.linear import linear, linear_of


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


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("wanted", [(True, True, True), (True, False, False), (False, True, True), (True, False, True)])
def test_what_is_made_again_has_the_same_gradients(monkeypatch, quick, wanted):
    monkeypatch.setattr(module, "onednn_is_quicker", lambda: quick and torch.backends.mkldnn.is_available())
    torch.manual_seed(0)
    kinds = dict(
        zip(("x", "gate", "weight"), (torch.randn(2, 17, 6), torch.randn(2, 17, 6), torch.randn(5, 6)), strict=True)
    )

    def run(call):
        parts = {
            name: part.clone().requires_grad_(asked) for (name, part), asked in zip(kinds.items(), wanted, strict=True)
        }
        y = call(*parts.values())
        return y, *torch.autograd.grad(y.square().sum(), [part for part in parts.values() if part.requires_grad])

    def gated(x, gate):
        return x * torch.sigmoid(gate)

    straight = run(lambda x, gate, weight: linear(gated(x, gate), weight))
    again = run(lambda x, gate, weight: linear_of(gated, [x, gate], weight, None))
    for one, other in zip(again, straight, strict=True):
        assert_close(one, other)


def test_what_is_made_again_is_not_kept():
    x, layer = torch.randn(4, 9, 6, requires_grad=True), Linear(6, 3)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda part: kept.append(part) or part, lambda part: part):
        after(layer, torch.tanh, x)
    assert {part.data_ptr() for part in kept} == {x.data_ptr(), layer.weight.data_ptr()}


def test_a_layer_that_somebody_watches_or_replaces_is_called():
    x, layer, seen = torch.randn(4, 6, requires_grad=True), Linear(6, 3), []
    layer.register_forward_hook(lambda layer, inputs, y: seen.append(inputs[0]))
    after(layer, torch.tanh, x)
    assert_close(seen[0], torch.tanh(x))
    assert_close(after(torch.nn.Identity(), torch.tanh, x), torch.tanh(x))
