"""The sLSTM against the authors' package, and what a fresh one promises."""

import importlib
import sys
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close

from ostinato.registry import create
from tests.independent import PEERS, load_peer


def peer_layer(**arguments):
    """The layer of the xlstm package; its own __init__ would import kernels that stay out."""
    if not (PEERS / "xlstm").is_dir():
        pytest.skip(f"xlstm is not unpacked in {PEERS.name}/ (`make test` does that)")
    package = ModuleType("ostinato_peer_xlstm")
    package.__path__ = [str(PEERS / "xlstm")]
    sys.modules.setdefault(package.__name__, package)
    module = importlib.import_module(f"{package.__name__}.blocks.slstm.layer")
    layer = module.sLSTMLayer(module.sLSTMLayerConfig(backend="vanilla", **arguments))
    layer.reset_parameters()
    return layer


def copied(mixer, peer):
    """The weights of their layer in ours."""
    H, K = mixer.state_shape
    with torch.no_grad():
        mixer.project_i_f.copy_(
            torch.stack([peer.fgate.weight.mT, peer.igate.weight.mT])
        )  # their f is called i, and i f
        mixer.project_z_o.copy_(torch.stack([peer.zgate.weight.mT, peer.ogate.weight.mT]))
        mixer.recurrent.copy_(peer.slstm_cell._recurrent_kernel.mT)
        mixer.bias.copy_(peer.slstm_cell._bias.view(4, H, K))
        mixer.norm_weight.copy_(1 + peer.group_norm.weight.view(H, K))
        if mixer.conv is not None:
            mixer.conv.weight.copy_(peer.conv1d.conv.weight[:, 0])
            mixer.conv.bias.copy_(peer.conv1d.conv.bias)
    return mixer


@pytest.mark.parametrize("conv_width", [4, None])
def test_slstm_equals_the_layer_of_the_xlstm_package(conv_width):
    """Outputs, state and gradients, with random weights everywhere."""
    torch.manual_seed(0)
    peer = peer_layer(embedding_dim=12, num_heads=3, conv1d_kernel_size=conv_width or 0)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    peer = peer.double()
    mixer = copied(create("slstm", dim=12, heads=3, conv_width=conv_width, project=False).double(), peer)
    x = torch.randn(2, 30, 12, dtype=torch.float64)
    expected, after = peer(x) if conv_width is None else peer(x, return_last_state=True), None
    if conv_width is not None:
        expected, after = expected
    y, state = mixer(x)
    assert_close(y, expected)
    if after is not None:
        assert_close(torch.stack(state[:4]).flatten(-2), after["slstm_state"])
    found = torch.autograd.grad(y.sin().sum(), [mixer.recurrent, mixer.bias, mixer.project_i_f])
    cell = peer.slstm_cell
    wanted = torch.autograd.grad(
        expected.sin().sum(), [cell._recurrent_kernel_, cell._bias_, peer.fgate.weight, peer.igate.weight]
    )
    assert_close(found, (wanted[0].mT, wanted[1].view(4, 3, 4), torch.stack([wanted[2].mT, wanted[3].mT])))


def test_slstm_step_equals_the_pointwise_function_of_the_xlstm_package():
    """Also where the stabiliser is large, and with a state from before."""
    from ostinato.ops.cells import SLSTM
    from ostinato.ops.rnn import rnn

    peer = load_peer("xlstm/blocks/slstm/src/vanilla/slstm.py")
    torch.manual_seed(0)
    x = 5 * torch.randn(2, 1, 4, 1, 6, dtype=torch.float64)
    state = torch.randn(4, 2, 6, dtype=torch.float64)
    state[2] = state[2].abs() + 1
    zero = torch.zeros(1, 24, dtype=torch.float64)
    expected, _ = peer.slstm_forward_pointwise(x.flatten(1), torch.zeros_like(x.flatten(1)), zero, state, {})
    _, after = rnn(SLSTM(torch.zeros(1, 6, 24, dtype=torch.float64)), x, tuple(part[:, None] for part in state))
    assert_close(torch.stack(after)[:, :, 0], expected)


@pytest.mark.parametrize(("depth", "block"), [(0.0, 0), (0.5, 2), (1.0, 4)])
def test_a_fresh_slstm_begins_as_that_of_the_xlstm_package(depth, block):
    peer = peer_layer(embedding_dim=32, num_heads=4, _num_blocks=5, _block_idx=block)
    mixer = create("slstm", dim=32, heads=4, depth=depth)
    assert_close(mixer.bias.flatten(), peer.slstm_cell._bias)
    assert_close(mixer.recurrent, peer.slstm_cell._recurrent_kernel.mT)
    assert_close(mixer.project_i_f.std(), peer.fgate.weight.std(), rtol=0.15, atol=0)


def test_a_fresh_slstm_keeps_what_its_docstring_says():
    """With nothing to read, the memory decays by the forget gates alone."""
    mixer = create("slstm", dim=64, heads=2, conv_width=None)
    ones = torch.ones(1, 2, 32)
    for tokens, slowest in ((1, 0.993), (16, 0.90), (64, 0.65)):
        state = mixer.initial_state(1)._replace(c=ones, n=ones, m=torch.zeros(1, 2, 32))
        _, after = mixer(torch.zeros(1, tokens, 64), state)
        kept = (after.c.log() + after.m).exp()  # tanh(0) = 0 is all that is added to c
        assert_close(kept.amax(), torch.tensor(slowest), rtol=0.01, atol=0)
    assert_close(mixer.bias[1].amin().sigmoid(), torch.tensor(0.001), rtol=0.1, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(dim=8, forget="tanh"), "forget is 'sigmoid' or 'exp'; got 'tanh'"),
        (dict(dim=8, depth=2.0), "to 1 for the last; got 2.0"),
        (dict(dim=8, heads=3), "8 is no multiple of heads=3"),
    ],
)
def test_slstm_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        create("slstm", **arguments)
