"""Walks in S3: gates that read the state follow them, Mamba does not."""

from ostinato.reproduce import reproduce_here


def test_a_recurrence_that_reads_its_state_follows_permutations_and_mamba_does_not():
    found = reproduce_here("state_tracking")
    assert found.holds, found.claims
