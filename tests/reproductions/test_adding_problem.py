"""Two distant numbers are added by LEM, and not by a tanh network."""

from ostinato.reproduce import reproduce_here


def test_lem_adds_while_a_tanh_network_says_the_mean():
    found = reproduce_here("adding_problem")
    assert found.holds, found.claims
