"""Languages in context: heads that follow n-grams bring a recurrent model much nearer to the automaton."""

from ostinato.reproduce import reproduce_here


def test_ngram_heads_help_a_recurrent_model_to_learn_languages_in_context():
    found = reproduce_here("ngram_heads_icll")
    assert found.holds, found.claims
