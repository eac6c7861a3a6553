"""How well a trained model predicts: bits per byte, perplexity, by position in the context, at lengths beyond training."""

from ostinato.evaluate.runner import evaluate, has_bounded_state

__all__ = ["evaluate", "has_bounded_state"]
