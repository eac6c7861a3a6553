"""A transformer block that several layers of a stack share, before a mixer that each has of its own, as in Zamba2.

    t = mlp(norm''(attention(norm'([x, e]))))          e: what the stack was given, attention over vectors of width 2 D
    y = mixer(norm(x + W t))

Attention, MLP and their norms are those of the first layers, in turn; each layer adds maps of low rank to their projections.

Glorioso et al. 2024, https://arxiv.org/abs/2405.16712; https://arxiv.org/abs/2411.15242.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from ostinato.contract import SequenceModule, width_or
from ostinato.layers.gates import LowRank
from ostinato.layers.linear import Linear
from ostinato.layers.norms import RMSNorm
from ostinato.mixers.attention.attention import Attention, AttentionState
from ostinato.models.stack import Part, build
from ostinato.registry import register
from ostinato.state import State


class SharedTransformerState(NamedTuple):
    attention: AttentionState
    mixer: State


class WideAttention(Attention):
    """Attention over vectors of width 2 D that says vectors of width D; its projection may have an addition of low rank.

    dim: width D
    adapter_rank: rank of what is added to queries, keys and values; None for nothing
    options: of attention
    """

    def __init__(self, dim: int, adapter_rank: int | None, **options: Any):
        super().__init__(2 * dim, **options)
        H, G, K = self.shape
        self.project_out = Linear(H * K, dim, bias=False)
        widths = [] if adapter_rank is None else [H * K, G * K, G * K]
        self.adapters = nn.ModuleList(LowRank(2 * dim, adapter_rank or 1, width, bias=False) for width in widths)

    def project(self, x: Tensor, position: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        H, G, K = self.shape
        qkv = self.project_in(x)
        if len(self.adapters):
            qkv = qkv + torch.cat([adapter(x) for adapter in self.adapters], -1)
        q, k, v = qkv.unflatten(-1, (-1, K)).split([H, G, G], 2)
        q, k = self.turned(q, k, position)
        return q.to(x.dtype), (k, v)


@register("wrapper:shared_transformer")
class SharedTransformer(SequenceModule):
    """A mixer, and before it a transformer block that is the same in several layers, but for additions of low rank.

    It has its norms itself, so a block of a stack around it has none before it.

    dim: width D of input and output
    mixer: what each layer has of its own, a name or {name: {argument: value}}
    heads: number of heads of attention
    kv_heads: number of heads of keys and values; by default as many
    hidden: width of the MLP; by default 4 D
    position: what tells attention places apart: "rope" or "none"
    theta: base of the rotary frequencies
    rank: rank of what each layer adds to the MLP
    adapted: whether each layer adds to the projections of attention, too
    blocks: number of transformer blocks, which layers use in turn
    bias: whether the MLP has biases
    eps: what norms add to the mean square
    """

    kind = "wrapper"
    normalises = True
    listens = True
    examples = (
        dict(dim=8, mixer={"gla": {"heads": 2}}, heads=2, rank=2, hidden=12),
        dict(dim=6, mixer="min_gru", heads=4, kv_heads=2, position="none", rank=3, adapted=True, hidden=5, bias=True),
    )

    def __init__(
        self,
        dim: int,
        *,
        mixer: Part = "mamba2",
        heads: int = 4,
        kv_heads: int | None = None,
        hidden: int | None = None,
        position: str = "rope",
        theta: float = 10000.0,
        rank: int = 128,
        adapted: bool = False,
        blocks: int = 1,
        bias: bool = False,
        eps: float = 1e-5,
    ):
        super().__init__(dim)
        if blocks < 1:
            raise ValueError(f"blocks is the number of transformer blocks, at least 1; got {blocks}")
        self.blocks, hidden = blocks, width_or(4 * dim, hidden)
        options: Any = dict(heads=heads, kv_heads=kv_heads, position=position, theta=theta)
        self.attention = WideAttention(dim, rank if adapted else None, scale=(dim / heads) ** -0.5, **options)
        self.attention_norm = RMSNorm(2 * dim, eps)
        self.mlp_norm = RMSNorm(dim, eps)
        self.mlp_in = Linear(dim, 2 * hidden, bias=bias)
        self.mlp_adapter = LowRank(dim, rank, 2 * hidden, bias=False)
        self.mlp_out = Linear(hidden, dim, bias=bias)
        self.project_back = Linear(dim, dim, bias=False)
        self.norm = RMSNorm(dim, eps)
        self.mixer = build(mixer, dim)
        if not self.mixer.causal:
            raise ValueError("shared_transformer goes on from what was said; its mixer is causal")

    @classmethod
    def tie(cls, layers: "Sequence[SharedTransformer]") -> None:
        """Let the layers of a stack share their transformer blocks, in turn."""
        for number, layer in enumerate(layers):
            first = layers[number % layer.blocks]
            for name in ("attention_norm", "mlp_norm", "mlp_in", "mlp_out"):
                setattr(layer, name, getattr(first, name))
            layer.attention.project_in = first.attention.project_in
            layer.attention.project_out = first.attention.project_out

    def initial_state(self, batch: int) -> SharedTransformerState:
        return SharedTransformerState(self.attention.initial_state(batch), self.mixer.initial_state(batch))

    def state_bytes(self, tokens: int) -> int:
        return self.attention.state_bytes(tokens) + self.mixer.state_bytes(tokens)

    def read(
        self, x: Tensor, state: SharedTransformerState, reset: Tensor | None
    ) -> tuple[Tensor, SharedTransformerState]:
        y, state, _ = self.mix_told(x, state, reset, {})
        return y, state

    def mix_told(
        self, x: Tensor, state: SharedTransformerState, reset: Tensor | None, told: Mapping[str, Tensor]
    ) -> tuple[Tensor, SharedTransformerState, Mapping[str, Tensor]]:
        """The same, with what the stack was given for these tokens; without it, x itself is that."""
        wide = self.attention_norm(torch.cat([x, told.get("input", x)], -1))
        t, attention = self.attention(wide, state.attention, reset)
        t = self.mlp_norm(t)
        gate, up = (self.mlp_in(t) + self.mlp_adapter(t)).chunk(2, -1)
        t = self.project_back(self.mlp_out(gelu(gate) * up))
        y, mixer = self.mixer(self.norm(x + t), state.mixer, reset)
        return y, SharedTransformerState(attention, mixer), told
