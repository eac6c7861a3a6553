"""Parity: gates that read the state solve it beyond the training length, a diagonal transition does not."""

from ostinato.reproduce import reproduce_here


def test_the_effect_appears_in_the_short_version():
    found = reproduce_here("parity")
    assert found.holds, found.claims
