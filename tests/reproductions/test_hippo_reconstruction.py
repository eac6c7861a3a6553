"""HiPPO-LegS needs to be told no time scale; LegT and gates lose what is outside of theirs."""

from ostinato.reproduce import reproduce_here


def test_legs_reconstructs_signals_of_any_length_and_others_do_not():
    found = reproduce_here("hippo_reconstruction")
    assert found.holds, found.claims
