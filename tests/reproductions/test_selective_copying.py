"""Selective copying: Mamba chooses what to remember, a time-invariant state space does not."""

from ostinato.reproduce import reproduce_here


def test_mamba_copies_selectively_and_a_time_invariant_state_space_does_not():
    found = reproduce_here("selective_copying")
    assert found.holds, found.claims
