"""Beyond the training length: lost with zero states, at home with states that were passed on."""

from ostinato.reproduce import reproduce_here


def test_state_passing_lets_a_recurrent_model_go_on_beyond_its_training_length():
    found = reproduce_here("length_generalisation")
    assert found.holds, found.claims
