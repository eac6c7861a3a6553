"""What is measured: a language model, whoever wrote it, behind the same few calls."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ostinato.generate import compile_step
from ostinato.generate.decode import CHUNK
from ostinato.layers.quantized import QuantizedLinear
from ostinato.models.language_model import LanguageModel
from ostinato.models.stack import Part


class Subject(nn.Module):
    """A language model as benchmarks use it; a library with other calls is a small subclass.

    model: the model, with all parameters
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def logits(self, tokens: Tensor) -> Tensor:
        """(B, T) tokens -> (B, T, vocab) logits."""
        return self.model(tokens)

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy of each next token."""
        logits = self.logits(tokens)
        return cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """Read a prompt: logits, and the state after it, or None where the library returns none."""
        return self.logits(tokens), None

    def context(self, tokens: Tensor) -> Any:
        """The state from which decoding goes on: of a prefill, or of single steps where that returns none."""
        state = self.prefill(tokens[:, :1])[1]
        if state is not None:
            return self.prefill(tokens)[1]
        for token in tokens.split(1, 1):
            _, state = self.step(token, state)
        return state

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read one token (B, 1)."""
        raise NotImplementedError("this model reads whole sequences only")

    @property
    def size(self) -> int:
        """Number of parameters, shared ones once, and those that were made integers."""
        integers = (each.integers for each in self.modules() if isinstance(each, QuantizedLinear))
        return sum(numbers.numel() for numbers in (*self.parameters(), *integers))


class Ours(Subject):
    """A language model of this library."""

    model: LanguageModel

    def loss(self, tokens: Tensor) -> Tensor:
        return self.model.loss(tokens)

    def prefill(self, tokens: Tensor) -> tuple[Tensor, Any]:
        """Read a prompt in pieces, as `generate` does, but for its leaving the logits out: the last ones, and the state."""
        logits, state = tokens, None
        for piece in tokens.split(CHUNK, 1):
            logits, state = self.model(piece, state)
        return logits, state

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.model(token, state)


class Recomputed(Ours):
    """The same, trained with blocks that are computed again in the backward pass."""

    def loss(self, tokens: Tensor) -> Tensor:
        self.model.stack.recompute = True
        try:
            return super().loss(tokens)
        finally:
            self.model.stack.recompute = False


class Compiled(Ours):
    """The same, each step as one library; `generate --compile` decodes so.

    batch: number of sequences that a step is compiled for
    """

    def __init__(self, model: LanguageModel, batch: int):
        super().__init__(model.eval())
        self.compiled = compile_step(model, batch)

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        return self.compiled(token, state, None)


def equal_model(
    pattern: Part | Sequence[Part], parameters: int | None, *, dim: int, layers: int, vocab: int
) -> LanguageModel:
    """A language model of that width and depth, its channel mixers as wide as makes the parameters equal.

    Where the mixers alone need more than `parameters`, the model has no channel mixers; where it is None, their usual width.
    """

    def count(expansion: float) -> int:
        with torch.device("meta"):
            model = LanguageModel(vocab, dim, layers=layers, pattern=pattern, expansion=expansion)
        return model.parameter_count()

    mlp: str | None = "swiglu"
    expansion = None
    if parameters is not None:
        low, high = count(1.0), count(2.0)
        expansion = 1.0 + (parameters - low) / (high - low)
        mlp = "swiglu" if expansion > 0.05 else None
    torch.manual_seed(0)
    return LanguageModel(vocab, dim, layers=layers, pattern=pattern, mlp=mlp, expansion=expansion if mlp else None)
