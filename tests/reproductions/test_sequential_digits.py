"""Digits pixel by pixel: what lasts is read, what begins short or has a tanh in between is not."""

from ostinato.reproduce import reproduce_here


def test_an_lru_on_a_ring_reads_pixels_that_others_forget():
    found = reproduce_here("sequential_digits")
    assert found.holds, found.claims
