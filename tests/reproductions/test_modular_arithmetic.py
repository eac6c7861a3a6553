"""Sums modulo three: an LSTM learns them at the lengths of training."""

from ostinato.reproduce import reproduce_here


def test_an_lstm_learns_sums_modulo_three():
    found = reproduce_here("modular_arithmetic")
    assert found.holds, found.claims
