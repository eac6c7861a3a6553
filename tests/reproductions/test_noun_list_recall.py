"""Lists of nouns: a Transformer has them word for word, an LSTM their gist."""

from ostinato.reproduce import reproduce_here


def test_a_transformer_recalls_nouns_and_an_lstm_their_gist():
    found = reproduce_here("noun_list_recall")
    assert found.holds, found.claims
