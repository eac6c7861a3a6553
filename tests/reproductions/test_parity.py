"""Parity: an LSTM, whose gates read the state, solves it beyond the training length; Mamba, whose transition is diagonal, does not."""

from ostinato.reproduce import reproduce_here


def test_an_lstm_solves_longer_strings_and_mamba_does_not():
    found = reproduce_here("parity")
    assert found.holds, found.claims
