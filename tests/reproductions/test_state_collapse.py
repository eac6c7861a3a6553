"""A state that was never full in training runs full beyond it."""

from ostinato.reproduce import reproduce_here


def test_a_mamba2_trained_on_short_sequences_does_not_forget_beyond_them():
    found = reproduce_here("state_collapse")
    assert found.holds, found.claims
