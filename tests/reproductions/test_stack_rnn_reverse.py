"""Reverse string: a stack does it beyond the training length, an LSTM does not."""

from ostinato.reproduce import reproduce_here


def test_a_stack_reverses_longer_strings_and_an_lstm_does_not():
    found = reproduce_here("stack_rnn_reverse")
    assert found.holds, found.claims
