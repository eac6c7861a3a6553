"""Recall on MQAR: attention has it, a gated convolution of its width does not."""

from ostinato.reproduce import reproduce_here


def test_attention_recalls_and_a_gated_convolution_of_its_width_does_not():
    found = reproduce_here("mqar_state_size")
    assert found.holds, found.claims
