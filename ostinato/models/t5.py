"""T5: an encoder and a decoder whose attention knows distances only, by numbers that all layers share.

    encoder    x = x + attention(norm(x)),   x = x + mlp(norm(x))
    decoder    x = x + causal attention(norm(x)),   x = x + cross attention(norm(x), source),   x = x + mlp(norm(x))

Norms are RMS norms, scores are q^T k + b[bucket(i - j)] without a scale, and nothing has a bias. The first version multiplies
what the head reads by 1 / sqrt(D), shares its weights with the embedding, and has relu in its MLPs; the second (1.1) does not,
has weights of its own and a gate with gelu.

Raffel, Shazeer, Roberts, Lee, Narang, Matena, Zhou, Li, Liu 2019, https://arxiv.org/abs/1910.10683.
"""

from typing import Any

from torch import Tensor, nn

from ostinato.contract import per_head, width_or
from ostinato.layers.cross_attention import CrossAttention, SourceState
from ostinato.layers.linear import Linear
from ostinato.layers.mlp import make_mlp
from ostinato.layers.norms import RMSNorm
from ostinato.layers.relative_positions import T5Bias
from ostinato.mixers.attention.attention import Attention, AttentionState
from ostinato.models.transformer import Transformer, TransformerState
from ostinato.registry import register


class T5Layer(nn.Module):
    """Attention, attention to a source where this is the decoder, and an MLP, each after a norm.

    dim: width D
    heads: number of heads
    head_dim: width of a head
    hidden: width of the MLP
    mlp: its kind, one of layers/mlp.py
    bias: the numbers for distances, which layers share
    causal: whether this is the decoder
    eps: what norms add to the mean square
    """

    def __init__(
        self, dim: int, heads: int, head_dim: int, hidden: int, *, mlp: str, bias: T5Bias, causal: bool, eps: float
    ):
        super().__init__()
        options: Any = dict(heads=heads, head_dim=head_dim, scale=1.0, bias=False)
        self.attention = Attention(dim, position="t5", causal=causal, **options)
        self.attention.distance_bias = bias
        self.cross = CrossAttention(dim, **options) if causal else None
        self.mlp = make_mlp({mlp: {"hidden": hidden}}, dim)
        self.norms = nn.ModuleList(RMSNorm(dim, eps) for _ in range(3 if causal else 2))

    def forward(
        self,
        x: Tensor,
        state: AttentionState | None,
        source: SourceState | None,
        reset: Tensor | None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, AttentionState | None, SourceState | None]:
        y, state = self.attention(self.norms[0](x), state, reset, mask=mask)
        x = x + y
        if self.cross is not None:
            y, source = self.cross(self.norms[1](x), source, reset)
            x = x + y
        return x + self.mlp(self.norms[-1](x)), state, source


@register("model:t5")
class T5(Transformer):
    """T5: text to text. `read_source` gives the state that the decoder writes from.

    vocab_size: number of different tokens, of source and target
    dim: width D
    encoder_layers: number of layers that read the source
    decoder_layers: number of layers that write
    heads: number of heads of attention
    head_dim: width of a head; by default D / H
    hidden: width of the MLPs; by default 4 D
    mlp: kind of the MLPs: "relu" in the first version, "geglu" in 1.1
    buckets: number of buckets of distances
    farthest: the distance from which on all share a bucket
    eps: what norms add to the mean square
    scaled: whether what the head reads is multiplied by 1 / sqrt(D)
    tie: whether the head shares the weights of the embedding
    """

    examples = (
        dict(vocab_size=11, dim=8, encoder_layers=1, decoder_layers=2, heads=2, hidden=12, head_dim=3),
        dict(vocab_size=11, dim=9, encoder_layers=2, decoder_layers=1, heads=3, mlp="geglu", scaled=False, tie=False),
    )

    def __init__(
        self,
        vocab_size: int,
        dim: int = 512,
        *,
        encoder_layers: int = 6,
        decoder_layers: int = 6,
        heads: int = 8,
        head_dim: int | None = None,
        hidden: int | None = None,
        mlp: str = "relu",
        buckets: int = 32,
        farthest: int = 128,
        eps: float = 1e-6,
        scaled: bool = True,
        tie: bool = True,
    ):
        if min(encoder_layers, decoder_layers) < 1:
            raise ValueError(f"t5 has layers of an encoder and a decoder; got {encoder_layers} and {decoder_layers}")
        super().__init__(vocab_size, dim, encoder_layers=0, decoder_layers=1, heads=1, hidden=1, tie=tie)
        self.scale = dim**-0.5 if scaled else 1.0
        sizes = dict(dim=dim, heads=heads, head_dim=head_dim or per_head(dim, heads), hidden=width_or(4 * dim, hidden))
        for name, layers, causal in (("encoder", encoder_layers, False), ("decoder", decoder_layers, True)):
            bias = T5Bias(heads, std=dim**-0.5, buckets=buckets, farthest=farthest, both_ways=not causal)
            options: Any = dict(mlp=mlp, bias=bias, causal=causal, eps=eps) | sizes
            setattr(self, name, nn.ModuleList(T5Layer(**options) for _ in range(layers)))
            setattr(self, f"{name}_norm", RMSNorm(dim, eps))
        del self.position
        nn.init.normal_(self.embedding.weight)
        if not tie:
            self.head = Linear(dim, vocab_size, bias=False)

    def _embed(self, tokens: Tensor, before: Tensor, reset: Tensor | None) -> Tensor:
        return self.embedding(tokens.long())

    def hidden(self, tokens: Tensor, state: TransformerState, reset: Tensor | None) -> tuple[Tensor, TransformerState]:
        x, state = super().hidden(tokens, state, reset)
        return self.scale * x, state
