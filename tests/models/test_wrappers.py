"""The wrappers against what they are made of."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ostinato import create


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_bidirectional_equals_the_bidirectional_lstm_of_torch():
    peer = nn.LSTM(6, 6, batch_first=True, bidirectional=True, dtype=torch.float64)
    ours = create("bidirectional", dim=6, mixer="lstm").double()
    with torch.no_grad():
        for mixer, end in ((ours.forwards, ""), (ours.backwards, "_reverse")):
            weights = dict(peer.named_parameters())
            mixer.project_in.weight.copy_(weights[f"weight_ih_l0{end}"])
            mixer.project_in.bias.copy_(weights[f"bias_ih_l0{end}"] + weights[f"bias_hh_l0{end}"])
            mixer.recurrent.copy_(weights[f"weight_hh_l0{end}"].T)
    x = torch.randn(3, 17, 6, dtype=torch.float64)
    assert_close(ours(x)[0], ours.project_out(peer(x)[0]))


INNER = ["gla", {"attention": {"heads": 2}}, {"stack": {"layers": 2, "pattern": ["gla", "attention"]}}]


@pytest.mark.parametrize("inner", INNER, ids=str)
@pytest.mark.parametrize("length", [7, 8, 20, 24])
def test_recurrent_memory_equals_segments_with_memory_written_around_them(inner, length):
    """[_ ; y ; m'] = inner([m ; segment ; m]), segment by segment."""
    model = create("recurrent_memory", dim=8, inner=inner, segment=8, memory=3).double()
    x = torch.randn(2, length, 8, dtype=torch.float64)
    memory, outputs = model.memory.expand(2, -1, -1), []
    for segment in x.split(8, 1):
        y, _ = model.inner(torch.cat([memory, segment, memory], 1))
        outputs.append(y[:, 3:-3])
        memory = y[:, -3:]
    assert_close(model(x)[0], torch.cat(outputs, 1))


@pytest.mark.parametrize("memory", [0, 2])
def test_gradients_reach_the_first_segment_through_the_memory(memory):
    """Two segments on, the first tokens are heard through the memory, and through nothing else."""
    model = create("recurrent_memory", dim=8, inner="attention", segment=5, memory=memory)
    x = torch.randn(1, 15, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(model(x)[0][:, 10:].square().sum(), x)
    assert gradient[:, 10:].abs().max() > 0
    assert (gradient[:, :5].abs().max() > 0) == (memory > 0)
