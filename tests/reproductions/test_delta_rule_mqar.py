"""Keys that come again: the delta rule replaces their values, adding mixes them up."""

from ostinato.reproduce import reproduce_here


def test_the_delta_rule_replaces_what_adding_mixes_up():
    found = reproduce_here("delta_rule_mqar")
    assert found.holds, found.claims
