"""Ten symbols over a delay: held where nothing decays, and not by an LSTM."""

from ostinato.reproduce import reproduce_here


def test_a_unitary_recurrence_holds_symbols_that_an_lstm_does_not():
    found = reproduce_here("copy_memory")
    assert found.holds, found.claims
