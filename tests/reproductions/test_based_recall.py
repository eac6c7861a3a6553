"""Recall of Based grows with the width of its features."""

from ostinato.reproduce import reproduce_here


def test_wider_features_recall_more():
    found = reproduce_here("based_recall")
    assert found.holds, found.claims
