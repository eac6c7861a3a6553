"""Cells that are trees, and a controller that learns which choices are rewarded."""

from itertools import product

import pytest
import torch
from torch.testing import assert_close

from ostinato.registry import create
from ostinato.train.architecture_search import (
    Controller,
    architecture_search,
    cell_choices,
    cell_of,
    reinforce_loss,
)

NAS = dict(
    nodes="add sigmoid;add relu;add sigmoid;multiply relu;add tanh;add sigmoid;add tanh;add sigmoid;"
    "multiply tanh;add tanh;multiply tanh;add sigmoid;multiply identity;add tanh;multiply tanh".split(";"),
    inject="add tanh",
    at=8,
    cell=12,
)
"""The tree of `nas_cell`."""


def test_the_tree_that_was_found_is_nas_cell():
    torch.manual_seed(0)
    tree, found = (
        create(name, dim=5, hidden=4, **more).double() for name, more in (("tree_cell", NAS), ("nas_cell", {}))
    )
    with torch.no_grad():
        tree.recurrent.copy_(found.recurrent[0])
        tree.project_in.weight.copy_(found.project_in.weight)
        tree.project_out.weight.copy_(found.project_out.weight)
    x = torch.randn(2, 7, 5, dtype=torch.float64)
    y, (state,) = tree(x)
    expected, after = found(x)
    assert_close(y, expected)
    assert_close(state, (after.h[:, 0], after.c[:, 0]))


def test_the_example_of_the_paper_by_hand():
    torch.manual_seed(0)
    cell = create("tree_cell", dim=3).double()
    (w0, w1), (r0, r1) = cell.project_in.weight.chunk(2), cell.recurrent.chunk(2, 1)
    x, h, c = torch.randn(1, 6, 3, dtype=torch.float64), torch.zeros(1, 3).double(), torch.zeros(1, 3).double()
    expected = []
    for t in range(6):
        a0 = torch.tanh(x[:, t] @ w0.T + h @ r0)
        product_ = (x[:, t] @ w1.T) * (h @ r1)
        h, c = torch.sigmoid(torch.relu(a0 + c) * torch.relu(product_)), product_
        expected.append(h)
    assert_close(cell(x)[0], torch.stack(expected, 1))


def test_choices_are_cells():
    assert cell_choices(2) == [2, 4] * 4 + [3, 3]
    assert cell_of([0, 1, 1, 3, 1, 2, 0, 3, 0, 1]) == dict(
        nodes=["add tanh", "multiply relu", "multiply sigmoid"], inject="add relu", at=0, cell=1
    )
    torch.manual_seed(0)
    for choices in Controller(cell_choices(4))(size=5)[0].tolist():
        y, _ = create("tree_cell", dim=6, **cell_of(choices))(torch.randn(2, 5, 6))
        assert y.isfinite().all()


def test_its_gradient_is_that_of_the_expected_reward():
    """All choices, each as often as it is drawn, give the gradient of sum p R, whatever the baseline."""
    torch.manual_seed(0)
    controller = Controller([2, 3, 2], width=5).double()
    every = torch.tensor(list(product(range(2), range(3), range(2))))
    rewards = torch.randn(len(every), dtype=torch.float64)
    _, log_p = controller(every)
    assert_close(log_p.exp().sum().item(), 1.0)
    parameters = list(controller.parameters())
    expected = torch.autograd.grad((log_p.exp() * rewards).sum(), parameters, retain_graph=True)
    weights = log_p.exp().detach() * len(every)
    for baseline in (0.0, 0.7):
        loss = reinforce_loss(log_p * weights, rewards, baseline)
        found = torch.autograd.grad(-loss, parameters, retain_graph=True)
        assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_draws_have_the_probabilities_of_the_controller():
    torch.manual_seed(0)
    controller = Controller([2, 3], width=5)
    drawn, log_p = controller(size=20_000)
    assert_close(controller(drawn)[1], log_p)
    for row in product(range(2), range(3)):
        share = (drawn == torch.tensor(row)).all(1).float().mean().item()
        assert share == pytest.approx(controller(torch.tensor([row]))[1].exp().item(), abs=0.015)


def test_it_finds_what_is_rewarded():
    """One combination of five choices of four options has the largest reward; 1024 there are."""
    best, tried = (3, 0, 2, 1, 1), []

    def reward(choices):
        tried.append(choices)
        return sum(a == b for a, b in zip(choices, best)) / len(best)

    found = architecture_search(reward, [4] * 5, rounds=120, size=8)
    assert found.choices == best
    assert found.reward == 1
    assert len(tried) == len(set(tried)) < 500
    assert sum(found.rewards[-10:]) / 10 > 0.9
    assert sum(found.rewards[:3]) / 3 < 0.5
    again = architecture_search(reward, [4] * 5, rounds=120, size=8)
    assert again.rewards == found.rewards


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: create("tree_cell", dim=4, nodes=["add tanh"] * 5), "a full tree of 3, 7, 15, ... nodes; got 5"),
        (
            lambda: create("tree_cell", dim=4, inject="add tan"),
            "a node is one of add identity.* \\(did you mean add tanh",
        ),
        (lambda: create("tree_cell", dim=4, at=3), "numbers of nodes, 0 to 2; got 3 and 1"),
        (lambda: Controller([]), "choices have at least one option each"),
        (lambda: architecture_search(len, [2], rounds=0), "rounds and size are at least 1"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()
