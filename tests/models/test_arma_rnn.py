"""ARMA-RNN: a filter where it is linear, and a recurrence whose weights stay within their bound while they are learned."""

import pytest
import torch
from scipy.signal import lfilter
from torch.testing import assert_close

import ostinato
from ostinato.train.echo_state import EchoStateConstraint


def made(**arguments):
    torch.manual_seed(0)
    return ostinato.create("model:arma_rnn", **(dict(dim=1, hidden=2, activation="relu") | arguments)).double()


def as_filter(model, b, a):
    """relu of what is not negative is linear: h_t = a_1 h_{t-1} + a_2 h_{t-2} + sum_j b_j x_{t-j}, with h_{t-1} beside it."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.recurrent[0].copy_(torch.tensor([[a[0], 1.0], [a[1], 0.0]]))
        model.project_in.weight[0] = torch.tensor(b)
        model.project_out.weight[0, 0] = 1.0
    return model


def test_a_linear_one_is_the_filter_of_scipy():
    x = torch.rand(3, 50, 1, dtype=torch.float64)
    model = as_filter(made(behind=2), [0.2, 0.5, 0.3], [0.4, 0.3])
    expected = torch.from_numpy(lfilter([0.3, 0.5, 0.2], [1.0, -0.4, -0.3], x[..., 0].numpy()))
    assert_close(model(x)[0][..., 0], expected)


def test_looking_ahead_is_the_same_filter_earlier():
    x = torch.rand(3, 50, 1, dtype=torch.float64)
    model = as_filter(made(behind=1, ahead=2), [0.1, 0.2, 0.5, 0.3], [0.4, 0.3])
    assert not model.causal
    later = torch.cat([x[..., 0], x.new_zeros(3, 2)], 1).numpy()
    # the recurrence begins with the first frame, where two of the window have passed: it has not seen them before
    expected = lfilter([0.3, 0.5, 0.2, 0.1], [1.0, -0.4, -0.3], later)[:, 2:]
    early = lfilter([1.0], [1.0, -0.4, -0.3], [[0.3 * r[0], 0.5 * r[0] + 0.3 * r[1], *[0.0] * 50] for r in later])[
        :, 2:
    ]
    assert_close(model(x)[0][..., 0], torch.from_numpy(expected - early))


def test_layers_of_features_read_each_frame_alone():
    model = made(dim=3, features=[4, 5], behind=1, activation="sigmoid")
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    v = x
    for layer in model.features:
        v = (v @ layer.weight.T + layer.bias).sigmoid()
    window = torch.cat([torch.cat([v.new_zeros(2, 1, 5), v[:, :-1]], 1), v], -1)
    h, expected = v.new_zeros(2, 2), []
    for t in range(9):
        heard = window[:, t] @ model.project_in.weight.T + model.project_in.bias
        h = (heard + h @ model.recurrent[0]).sigmoid()
        expected.append(h @ model.project_out.weight.T + model.project_out.bias)
    assert_close(model(x)[0], torch.stack(expected, 1))


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "relu"])
def test_a_fresh_one_keeps_the_bound_and_forgets_how_it_began(activation):
    model = made(dim=4, hidden=30, activation=activation)
    weight, bound = model.constrained()
    assert weight.abs().sum(1).max() <= bound
    x = torch.randn(1, 60, 4, dtype=torch.float64)
    state = model.initial_state(1)
    other = state._replace(h=torch.rand_like(state.h))
    h, h_other = model(x, state)[1].h, model(x, other)[1].h
    assert (h - h_other).abs().max() < 1e-6


def test_prices_rise_where_the_bound_is_broken_and_go_to_nothing_where_it_is_kept():
    model = made(hidden=3, activation="tanh")
    with torch.no_grad():
        model.recurrent[0].copy_(torch.tensor([[0.5, 0.9, 0.0], [-0.3, 0.4, 0.2], [0.0, -0.2, 0.0]]))
    constraint = EchoStateConstraint(model, rate=0.5)
    assert_close(constraint.excess()[0], torch.tensor([-0.2, 0.5, -0.8]).double())
    for expected in (0.25, 0.5):
        constraint.ascend()
        assert_close(constraint.prices()[0], torch.tensor([0.0, expected, 0.0]))
    constraint.penalty().backward()
    signs = torch.zeros(3, 3)
    signs[:, 1] = torch.tensor([1.0, 1.0, -1.0])
    assert_close(model.recurrent.grad[0], 0.5 * signs.double())
    assert_close(constraint.penalty().item(), 0.25)
    with torch.no_grad():
        model.recurrent.mul_(0.5)
    for _ in range(10):
        constraint.ascend()
        assert (constraint.prices()[0] >= 0).all()
    assert (constraint.prices()[0] == 0).all()


def test_training_pulls_weights_into_the_bound_that_it_leaves_without():
    """Frames to classify by the sum of the last ones; weights that begin outside of the bound."""

    def trained(constrained):
        model = made(dim=2, hidden=8, activation="tanh", outputs=3).float()
        with torch.no_grad():
            model.recurrent.mul_(3)
        constraint = EchoStateConstraint(model, rate=0.05, margin=0.1)  # a step of Adam moves a row by 0.08
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        generator, losses = torch.Generator().manual_seed(0), []
        for _ in range(400):
            x = torch.randn(16, 12, 2, generator=generator)
            total = x[..., 0] + torch.cat([x.new_zeros(16, 1), x[:, :-1, 0]], 1)
            target = (total > -0.6).long() + (total > 0.6).long()
            logits = model(x)[0]
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten())
            optimizer.zero_grad()
            (loss + constraint.penalty() if constrained else loss).backward()
            optimizer.step()
            if constrained:
                constraint.ascend()
            losses.append(loss.item())
        weight, bound = model.constrained()
        return weight.abs().sum(1).max().item() / bound, sum(losses[-20:]) / 20

    outside, _ = trained(False)
    inside, loss = trained(True)
    assert outside > 1.2
    assert inside <= 1.0
    assert loss < 0.5


def test_refused_with_a_sentence():
    with pytest.raises(ValueError, match="behind and ahead are at least 0"):
        made(ahead=-1)
    with pytest.raises(ValueError, match="is for simple recurrences, rnn or arma_rnn"):
        EchoStateConstraint(ostinato.create("gru", dim=4))
    EchoStateConstraint(ostinato.create("rnn", dim=4))
