"""What followed the trigger: Mamba finds it in longer texts than it was trained on, attention does not."""

from ostinato.reproduce import reproduce_here


def test_mamba_finds_what_followed_beyond_its_training_length_and_attention_does_not():
    found = reproduce_here("induction_heads_length")
    assert found.holds, found.claims
