"""A language model: token embedding, a stack of blocks, a norm, and a head that shares the embedding's weights."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ostinato.contract import SequenceModule
from ostinato.layers.linear import Linear
from ostinato.layers.losses import IGNORED, capped, chunked_cross_entropy
from ostinato.layers.mlp import Experts
from ostinato.layers.norms import make_norm
from ostinato.layers.positions import document_positions
from ostinato.models.stack import Part, Stack, StackState
from ostinato.registry import register


class LanguageModelState(NamedTuple):
    stack: StackState
    position: Tensor | None = None  # B int64, tokens of its document so far, where the model has learned positions


@register("model:language_model")
class LanguageModel(SequenceModule):
    """Predicts each next token from those before it: (B, T) integers -> (B, T, vocab) logits.

    vocab_size: number of different tokens
    dim: width D of the residual stream
    layers: number of blocks
    pattern: the mixers, repeated over the blocks: names, or {name: {argument: value}}
    mlp: channel mixer of each block: "swiglu", "geglu", "gelu", "gelu_tanh", {name: {argument: value}} or None; or a list of
        them, repeated over the blocks
    expansion: hidden width of the channel mixer as a multiple of dim; None for what suits the kind
    tie: whether the head shares the weights of the embedding
    norm: kind of the norms: "rms", "offset_rms" (times 1 + weight) or "layer"
    eps: what norms add to the mean square
    parallel: whether the channel mixer of a block reads what the mixer reads, instead of what it leaves
    positions: number of learned positions, added to the embedding, and so the longest document; None for none
    embedding_scale: what the embedding of a token is multiplied by
    embedding_norm: whether the embedding is normalised
    soft_cap: what logits stay below, by a tanh; None for no bound
    order: where the norms of a block are: "before" what reads, and one before the head, or "after" each sum
    shares: what a block keeps of its input and takes of its mixer, and the same two of its channel mixer; or a list of
        such fours, repeated over the blocks; None for 1
    logit_scale: what the head's input is multiplied by
    """

    kind = "model"
    examples = (
        dict(vocab_size=11, dim=8, layers=2, pattern=[{"gla": {"heads": 2}}]),
        dict(vocab_size=11, dim=8, layers=1, pattern=[{"gla": {"heads": 2}}], mlp="gelu", tie=False),
        dict(
            vocab_size=11, dim=8, layers=1, pattern=[{"gla": {"heads": 2}}], mlp={"gelu_tanh": {"hidden": 5, "bias": True}},
            norm="layer", parallel=True, positions=2048, embedding_norm=True, soft_cap=2.0,
        ),
        dict(
            vocab_size=11, dim=8, layers=2, pattern=[{"gla": {"heads": 2}}], order="after", embedding_norm=True,
            mlp={"experts": {"hidden": 5, "experts": 3, "active": 2, "shared": 3}}, shares=[0.7, 1.2, 1.1, 0.6], logit_scale=0.5,
        ),
    )  # fmt: skip

    def __init__(
        self,
        vocab_size: int,
        dim: int,
        *,
        layers: int = 4,
        pattern: Part | Sequence[Part] = "gla",
        mlp: Part | list[Part | None] | None = "swiglu",
        expansion: float | None = None,
        tie: bool = True,
        norm: str = "rms",
        eps: float = 1e-5,
        parallel: bool = False,
        positions: int | None = None,
        embedding_scale: float = 1.0,
        embedding_norm: bool = False,
        soft_cap: float | None = None,
        order: str = "before",
        shares: list[Any] | None = None,
        logit_scale: float = 1.0,
    ):
        super().__init__(dim)
        if vocab_size < 1:
            raise ValueError(f"vocab_size is the number of different tokens, at least 1; got {vocab_size}")
        self.vocab_size = vocab_size
        self.embedding = nn.Embedding(vocab_size, dim)
        self.positions = None if positions is None else nn.Embedding(positions, dim)
        self.embedding_scale, self.soft_cap, self.logit_scale = embedding_scale, soft_cap, logit_scale
        self.embedding_norm = make_norm(norm, dim, eps) if embedding_norm else None
        options: Any = dict(norm=norm, eps=eps, parallel=parallel, order=order, shares=shares)
        self.stack = Stack(dim, layers=layers, pattern=pattern, mlp=mlp, expansion=expansion, **options)
        self.causal = self.stack.causal
        # where norms come after each sum, the last block has normalised what the head reads
        self.norm = nn.Identity() if order == "after" else make_norm(norm, dim, eps)
        self.head = Linear(dim, vocab_size, bias=False)
        # small tied embeddings: logits of a fresh model have a variance near 1/2500 * D, its loss is near log vocab
        nn.init.normal_(self.embedding.weight, std=0.02)
        if self.positions is not None:
            nn.init.normal_(self.positions.weight, std=0.02)
        if tie:
            self.head.weight = self.embedding.weight
        else:
            nn.init.normal_(self.head.weight, std=0.02)
        # each layer adds to the residual stream; scaled so, the sum has the same size for any depth (GPT-2)
        for name, module in self.stack.named_modules():
            last = module.weight if name.endswith("project_out") and isinstance(module, nn.Linear) else None
            last = module.project_out if isinstance(module, Experts) else last
            if last is not None:
                with torch.no_grad():
                    last.mul_((2 * layers) ** -0.5)

    def check_input(self, tokens: Tensor) -> None:
        if tokens.ndim != 2 or 0 in tokens.shape or tokens.is_floating_point() or tokens.dtype == torch.bool:
            got = f"{tokens.dtype} {tuple(tokens.shape)}"
            raise ValueError(f"LanguageModel reads integers (batch, time), neither of them 0; got {got}")
        # numbers cannot be looked at on a GPU without waiting for it, nor in a compiled graph
        readable = tokens.device.type == "cpu" and not torch.compiler.is_compiling()
        if readable and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise ValueError(f"tokens are 0 to {self.vocab_size - 1}; got {int(tokens.min())} to {int(tokens.max())}")

    def random_input(self, batch: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        tokens = torch.randint(self.vocab_size, (batch, length), generator=generator)
        return tokens.to(self.embedding.weight.device)

    def initial_state(self, batch: int) -> LanguageModelState:
        stack, position = self.stack.initial_state(batch), None
        if self.positions is not None:
            position = torch.zeros(batch, dtype=torch.long, device=self.embedding.weight.device)
        return LanguageModelState(stack, position)

    def state_bytes(self, tokens: int) -> int:
        return self.stack.state_bytes(tokens) + (0 if self.positions is None else 8)

    def embedded(self, tokens: Tensor, before: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the stack reads, (B, T) -> (B, T, D), and where the next tokens stand: `before`, T tokens later."""
        x = self.embedding(tokens.long())
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        x, after = self.placed(x, before, reset)
        return (x if self.embedding_norm is None else self.embedding_norm(x)), after

    def placed(self, x: Tensor, before: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Embeddings with those of their places, where the model has learned positions."""
        if self.positions is None:
            return x, None
        if before is None:
            before = torch.zeros(len(x), dtype=torch.long, device=x.device)
        place = document_positions(before, x.shape[1], reset)
        after, longest = place[:, -1] + 1, self.positions.num_embeddings
        if place.device.type == "cpu" and not torch.compiler.is_compiling() and int(place.max()) >= longest:
            raise ValueError(f"this model has learned {longest} positions; a document is longer")
        return x + self.positions(place), after

    def hidden(
        self, tokens: Tensor, state: LanguageModelState, reset: Tensor | None
    ) -> tuple[Tensor, LanguageModelState]:
        """What the head reads: (B, T) -> (B, T, D), and the state."""
        x, position = self.embedded(tokens, state.position, reset)
        x, after = self.stack(x, state.stack, reset)
        return self.finished(x), LanguageModelState(after, position)

    def finished(self, x: Tensor) -> Tensor:
        """What the head reads of what the stack leaves."""
        x = self.norm(x)
        return x if self.logit_scale == 1 else x * self.logit_scale

    def logits(self, x: Tensor) -> Tensor:
        """What the head makes of what it reads."""
        return capped(self.head(x), self.soft_cap)

    def read(
        self, tokens: Tensor, state: LanguageModelState, reset: Tensor | None
    ) -> tuple[Tensor, LanguageModelState]:
        x, after = self.hidden(tokens, state, reset)
        return self.logits(x), after

    def encode(self, tokens: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
        x, _ = self.embedded(tokens, None, reset)
        return self.logits(self.finished(self.stack(x, None, reset, mask=mask)[0]))

    def loss(
        self,
        tokens: Tensor,
        reset: Tensor | None = None,
        state: LanguageModelState | None = None,
        *,
        reduction: str = "mean",
    ) -> Tensor:
        """Mean cross-entropy, in nats, of each next token given those before it.

        tokens: (B, T) integers, T at least 2: T - 1 of them are predicted
        reset: (B, T) bool, True at the first token of a document, which is not predicted
        state: what came before the first token; None at the beginning
        reduction: "mean" over the predicted tokens, "sum", or "none" for (B, T - 1) losses, 0 where nothing is predicted
        """
        return self.loss_and_state(tokens, reset, state, reduction=reduction)[0]

    def loss_and_state(
        self,
        tokens: Tensor,
        reset: Tensor | None = None,
        state: LanguageModelState | None = None,
        *,
        reduction: str = "mean",
    ) -> tuple[Tensor, LanguageModelState]:
        """The loss, and the state after all tokens but the last: where the next tokens begin with the last of these."""
        self.check_input(tokens)
        self._check_flags("reset", reset, tokens)
        if not self.causal:
            raise ValueError("the loss of the next token needs a causal model; this one sees the whole sequence")
        if tokens.shape[1] < 2:
            raise ValueError("the loss of the next token needs at least 2 tokens; got 1")
        state = self.initial_state(len(tokens)) if state is None else state
        before = None if reset is None else reset[:, :-1]
        x, after = self.hidden(tokens[:, :-1], state, before)
        targets = tokens[:, 1:].long()
        if reset is not None:
            targets = targets.masked_fill(reset[:, 1:], IGNORED)
        return self.cross_entropy(x, targets, reduction), after

    def cross_entropy(self, x: Tensor, targets: Tensor, reduction: str) -> Tensor:
        """What the head makes of (B, T, D) where targets (B, T) were expected, -100 where nothing is predicted."""
        return chunked_cross_entropy(x, self.head.weight, targets, reduction=reduction, soft_cap=self.soft_cap)

    def parameter_count(self) -> int:
        """Number of learned numbers, shared ones once."""
        return sum(parameter.numel() for parameter in self.parameters())
