"""The model of frames and actions: frames apart from each other, a recurrence over them, and what only that can do."""

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from torch.testing import assert_close

import ostinato
from ostinato.train.recompute import recompute_bptt


def made(**arguments):
    given = dict(dim=6, symbols=4, actions=3, shape=[2, 3], frame_layers=1, heads=2, layers=1, mlp=None)
    torch.manual_seed(0)
    return ostinato.create("model:frame_action_model", **(given | arguments))


def test_over_time_there_is_an_lstm_of_torch_and_nothing_else():
    model = made().double()
    frames = torch.randint(4, (2, 15, 2, 3))
    f = torch.stack([torch.stack([model.frame_head(frame[None])[0] for frame in row]) for row in frames])
    block = model.stack.blocks[0]
    other = nn.LSTM(6, 6, batch_first=True).double()
    with torch.no_grad():
        other.weight_ih_l0.copy_(block.mixer.project_in.weight)
        other.weight_hh_l0.copy_(block.mixer.recurrent[0].T)
        other.bias_ih_l0.copy_(block.mixer.project_in.bias)
        other.bias_hh_l0.zero_()
    x = f + other(nn.functional.rms_norm(f, (6,), block.mixer_norm.weight, 1e-5))[0]
    x = nn.functional.rms_norm(x, (6,), model.norm.weight, 1e-5)
    assert_close(model(frames)[0], model.head(x))


def test_a_frame_is_told_by_what_is_where():
    model = made().double()
    with torch.no_grad():
        for parameter in model.frame_head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    frames = torch.zeros(4, 2, 3, dtype=torch.long)
    frames[0, 0, 1] = frames[1, 1, 1] = frames[2, 0, 2] = 3
    vectors = model.frame_head(frames)
    for i in range(4):
        for j in range(i):
            assert not torch.allclose(vectors[i], vectors[j], atol=1e-4)


def test_gradients_through_many_frames_in_little_memory():
    model = made().double()
    frames, actions = torch.randint(4, (2, 30, 2, 3)), torch.randint(3, (2, 30))

    def gradients(logits):
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), actions.flatten())
        return torch.autograd.grad(loss, list(model.parameters()))

    assert_close(gradients(recompute_bptt(model, frames, piece=7)[0]), gradients(model(frames)[0]))


def test_the_loss_is_of_the_actions_that_were_taken():
    model = made().double()
    frames, actions = torch.randint(4, (2, 9, 2, 3)), torch.randint(3, (2, 9))
    actions[1, 4:] = -100
    logits = model(frames)[0].log_softmax(-1)
    taken = [logits[row, t, actions[row, t]] for row in range(2) for t in range(9) if actions[row, t] >= 0]
    assert_close(model.loss(frames, actions), -torch.stack(taken).mean())


def test_a_recurrence_keeps_count_where_attention_of_the_same_depth_does_not():
    """A mark shows a move on a circle of three places; where one stands is nowhere to be seen. Learned on 8 moves."""

    def episodes(number, length, generator):
        move = torch.randint(4, (number, length), generator=generator)
        place = torch.tensor([0, 1, 2, 0])[move].cumsum(1) % 3
        return one_hot(move, 4).view(number, length, 2, 2), place

    def accuracy(integrator, mlp):
        model = made(dim=16, symbols=2, shape=[2, 2], integrator=integrator, mlp=mlp)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        generator = torch.Generator().manual_seed(0)
        for _ in range(250):
            loss = model.loss(*episodes(32, 8, generator))
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        with torch.no_grad():
            frames, place = episodes(64, 16, torch.Generator().manual_seed(1))
            return (model(frames)[0].argmax(-1) == place).double().mean().item()

    assert accuracy("lstm", None) > 0.95
    assert accuracy({"attention": {"heads": 2}}, "swiglu") < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(shape=[2]), "shape is a number of rows and of columns"),
        (dict(integrator={"attention": {"heads": 2, "causal": False}}), "goes from frame to frame"),
    ],
)
def test_refused_with_a_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        made(**arguments)


def test_frames_of_another_kind_are_refused():
    model = made()
    with pytest.raises(ValueError, match=r"reads integers \(batch, time, 2, 3\)"):
        model(torch.zeros(2, 5, 3, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="symbols are 0 to 3; got 0 to 4"):
        model(torch.tensor([4, 0, 0, 0, 0, 0]).view(1, 1, 2, 3))
