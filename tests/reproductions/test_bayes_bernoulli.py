"""Sources that change: a recurrent network learns to predict nearly as exact Bayes does, and far better than KT."""

from ostinato.reproduce import reproduce_here


def test_a_recurrent_network_learns_to_predict_as_bayes_does():
    found = reproduce_here("bayes_bernoulli")
    assert found.holds, found.claims
