"""BERT: an encoder that sees the whole sequence, and says of each place which token may stand there.

    x = norm(E[token] + P[place] + S[segment]);   x = norm(x + attention(x));   x = norm(x + W_2 gelu(W_1 x))
    logits = E norm(gelu(W x)) + b,   pooled = tanh(W_p x_0),   next = W_n pooled

    logits, _ = model(tokens, mask=mask)
    x = model.vectors(tokens, mask=mask, segments=segments);   model.logits(x), model.pooled(x)

Devlin, Chang, Lee, Toutanova 2018, https://arxiv.org/abs/1810.04805.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from ostinato.contract import width_or
from ostinato.layers.linear import Linear
from ostinato.layers.losses import IGNORED
from ostinato.models.language_model import LanguageModel
from ostinato.registry import register


@register("model:bert")
class BERT(LanguageModel):
    """BERT: norms after each sum, learned places and segments, and heads for hidden tokens and for pairs of texts.

    Without the head for hidden tokens it returns what the last layer makes of each token, (B, T, D).

    vocab_size: number of different tokens
    dim: width D
    layers: number of layers
    heads: number of heads of attention
    hidden: width of the channel mixers; by default 4 D
    activation: of the channel mixers: "gelu", "gelu_tanh" or "relu"
    positions: number of learned places, and so the longest sequence
    segments: number of kinds that a token may be of, such as first and second text
    eps: what norms add to the mean square
    predicts: whether there is a head for hidden tokens
    pools: whether the first token is made a vector for the whole
    pairs: whether that vector says if the second text follows the first
    tie: whether the head shares the weights of the embedding
    """

    examples = (
        dict(vocab_size=11, dim=8, layers=1, heads=2, positions=2048, pools=True, pairs=True),
        dict(vocab_size=11, dim=9, layers=2, heads=3, hidden=5, activation="relu", positions=2048, tie=False),
    )

    def __init__(
        self,
        vocab_size: int,
        dim: int = 768,
        *,
        layers: int = 12,
        heads: int = 4,
        hidden: int | None = None,
        activation: str = "gelu",
        positions: int = 512,
        segments: int = 2,
        eps: float = 1e-12,
        predicts: bool = True,
        pools: bool = False,
        pairs: bool = False,
        tie: bool = True,
    ):
        super().__init__(
            vocab_size,
            dim,
            layers=layers,
            pattern=[{"attention": {"heads": heads, "position": "none", "bias": True, "causal": False}}],
            mlp={activation: {"hidden": width_or(4 * dim, hidden), "bias": True}},
            norm="layer",
            eps=eps,
            order="after",
            positions=positions,
            embedding_norm=True,
            tie=tie,
        )
        if pairs and not pools:
            raise ValueError("pairs are judged by the vector of the whole: with pairs=True goes pools=True")
        self.activation = relu_or_gelu(activation)
        self.segments = nn.Embedding(segments, dim)
        nn.init.normal_(self.segments.weight, std=0.02)
        self.predicts = predicts
        if predicts:
            self.transform = Linear(dim, dim)
            self.transform_norm = nn.LayerNorm(dim, eps=eps)
            self.head_bias = nn.Parameter(torch.zeros(vocab_size))
        self.pool = Linear(dim, dim) if pools else None
        self.pair = Linear(dim, 2) if pairs else None

    def vectors(
        self,
        tokens: Tensor,
        *,
        mask: Tensor | None = None,
        segments: Tensor | None = None,
        reset: Tensor | None = None,
    ) -> Tensor:
        """What the last layer makes of each token: (B, T) -> (B, T, D).

        mask: (B, T) bool, True where tokens are real
        segments: (B, T) integers, the kind of each token; None for 0
        reset: (B, T) bool, True at the first token of a document
        """
        self.check_input(tokens)
        x = self.embedding(tokens.long())
        x = x + (self.segments.weight[0] if segments is None else self.segments(segments.long()))
        x = self.embedding_norm(self.placed(x, None, reset)[0])  # pyright: ignore[reportOptionalCall]
        return self.stack(x, None, reset, mask=mask)[0]

    def pooled(self, x: Tensor) -> Tensor:
        """What the first token says of the whole: (B, T, D) -> (B, D)."""
        if self.pool is None:
            raise ValueError("this model has no vector of the whole; it was made with pools=False")
        return torch.tanh(self.pool(x[:, 0]))

    def follows(self, x: Tensor) -> Tensor:
        """Whether the second text follows the first: (B, T, D) -> (B, 2) logits, of yes and of no."""
        if self.pair is None:
            raise ValueError("this model judges no pairs; it was made with pairs=False")
        return self.pair(self.pooled(x))

    def logits(self, x: Tensor) -> Tensor:
        """Logits of the token at each place: (B, T, D) -> (B, T, vocab)."""
        if not self.predicts:
            return x
        return self.head(self.transform_norm(self.activation(self.transform(x)))) + self.head_bias

    def encode(self, tokens: Tensor, mask: Tensor | None, reset: Tensor | None) -> Tensor:
        return self.logits(self.vectors(tokens, mask=mask, reset=reset))

    def masked_loss(self, tokens: Tensor, targets: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean cross-entropy, in nats, of the tokens that were hidden.

        tokens: (B, T) integers, some of them hidden
        targets: (B, T) integers, what stood there, and -100 where nothing is asked
        mask: (B, T) bool, True where tokens are real
        """
        if not self.predicts:
            raise ValueError("this model has no head for hidden tokens; it was made with predicts=False")
        logits = self.logits(self.vectors(tokens, mask=mask))
        return cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=IGNORED)


def relu_or_gelu(activation: str):
    """The activation of the head, which is that of the channel mixers."""
    known = {"gelu": gelu, "gelu_tanh": lambda x: gelu(x, approximate="tanh"), "relu": torch.relu}
    if activation not in known:
        raise ValueError(f"activation is one of {', '.join(known)}; got {activation!r}")
    return known[activation]
