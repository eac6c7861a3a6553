"""Reading once and reading twice."""

from ostinato.reproduce import reproduce_here


def test_a_prompt_that_is_read_twice_can_be_learned_from():
    found = reproduce_here("jrt")
    assert found.holds, found.claims
