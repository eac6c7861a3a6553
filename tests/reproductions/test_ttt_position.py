"""Text: a TTT layer reads on beyond the length of training."""

import pytest

from ostinato.reproduce import find_effect, reproduce_here


def test_a_ttt_layer_reads_on_beyond_the_length_of_training():
    text = find_effect("ttt_position").module.TEXT
    if not text.is_file():
        pytest.skip(f"{text} is not there; $OSTINATO_DATA says where the data sets are")
    found = reproduce_here("ttt_position")
    assert found.holds, found.claims
