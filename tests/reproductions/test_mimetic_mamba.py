"""Copying: Mamba-2 learns it sooner from a mimetic beginning."""

from ostinato.reproduce import reproduce_here


def test_mamba2_learns_to_copy_sooner_from_a_mimetic_beginning():
    found = reproduce_here("mimetic_mamba")
    assert found.holds, found.claims
