"""Regression in context: a gated linear network and linear attention learn one step of gradient descent."""

from ostinato.reproduce import reproduce_here


def test_a_gated_linear_network_learns_one_step_of_gradient_descent():
    found = reproduce_here("gated_rnn_gradient_step")
    assert found.holds, found.claims
