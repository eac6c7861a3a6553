"""A model of frames and actions: attention within a frame, a recurrence over frames, and what to do next.

    f_t = the token [f] of encoder([f; E[frame_t] + rows + columns])     attention sees one frame, and nothing of the others
    x = f;   for each block:   x = x + lstm(norm(x)),   x = x + mlp(norm(x));   actions_t = head(norm(x_t))

All frames are encoded at once; over time there is nothing but the recurrence, which takes as many steps one after the other
as there are frames, so that what it computes grows deeper with the length. Long sequences are trained on in little memory
with `train:recompute_bptt`.

Keiblinger 2025, https://arxiv.org/abs/2510.06828, for terminals; sizes and the token that stands for a frame are ours.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ostinato.contract import SequenceModule
from ostinato.layers.linear import Linear
from ostinato.layers.losses import IGNORED
from ostinato.layers.norms import RMSNorm
from ostinato.models.stack import Part, Stack, StackState
from ostinato.registry import register


class FrameActionState(NamedTuple):
    integrator: StackState


class FrameHead(nn.Module):
    """One vector for each frame: (N, rows, columns) integers -> (N, D).

    dim: width D
    symbols: number of different symbols
    shape: rows and columns of a frame
    layers: number of blocks
    heads: number of heads of attention
    """

    def __init__(self, dim: int, symbols: int, shape: tuple[int, int], layers: int, heads: int):
        super().__init__()
        self.symbols = nn.Embedding(symbols, dim)
        self.rows, self.columns = (nn.Parameter(0.02 * torch.randn(n, dim)) for n in shape)
        self.frame = nn.Parameter(0.02 * torch.randn(dim))
        nn.init.normal_(self.symbols.weight, std=0.02)
        seeing = {"attention": {"heads": heads, "causal": False, "position": "none"}}
        self.stack = Stack(dim, layers=layers, pattern=[seeing])

    def forward(self, frames: Tensor) -> Tensor:
        x = self.symbols(frames.long()) + self.rows[:, None] + self.columns
        tokens = torch.cat([self.frame.expand(len(x), 1, -1), x.flatten(1, 2)], 1)
        return self.stack(tokens)[0][:, 0]


@register("model:frame_action_model", paper="recurrence_complete_agent")
class FrameActionModel(SequenceModule):
    """Predicts an action after each frame: (B, T, rows, columns) integers -> (B, T, actions) logits.

    dim: width D of a frame's vector and of the recurrence
    symbols: number of different symbols in frames
    actions: number of different actions
    shape: rows and columns of a frame
    frame_layers: blocks of attention within a frame
    heads: number of heads of attention
    layers: blocks of the recurrence over frames
    integrator: the recurrence, a mixer's name or {name: {argument: value}}
    mlp: channel mixer of the recurrence's blocks: a name of layers/mlp.py or {name: {argument: value}}, or None
    """

    kind = "model"
    examples = (
        dict(dim=6, symbols=4, actions=3, shape=[2, 3], frame_layers=1, heads=2, layers=2),
        dict(dim=5, symbols=3, actions=4, shape=[1, 1], frame_layers=1, heads=1, layers=1, integrator="gru", mlp=None),
    )

    def __init__(
        self,
        dim: int = 256,
        *,
        symbols: int = 256,
        actions: int = 256,
        shape: Sequence[int] = (4, 8),
        frame_layers: int = 2,
        heads: int = 4,
        layers: int = 2,
        integrator: Part = "lstm",
        mlp: Part | None = "swiglu",
    ):
        super().__init__(dim)
        if len(shape) != 2 or min(*shape, symbols, actions) < 1:
            raise ValueError(
                "shape is a number of rows and of columns, and these, symbols and actions are at least 1;"
                f" got {list(shape)}, {symbols} and {actions}"
            )
        self.symbols, self.actions, self.shape = symbols, actions, (shape[0], shape[1])
        self.frame_head = FrameHead(dim, symbols, self.shape, frame_layers, heads)
        self.stack = Stack(dim, layers=layers, pattern=[integrator], mlp=mlp)
        if not self.stack.causal:
            raise ValueError(
                "the integrator goes from frame to frame, so it is causal; this one sees the whole sequence"
            )
        self.norm = RMSNorm(dim)
        self.head = Linear(dim, actions)

    def check_input(self, frames: Tensor) -> None:
        if frames.ndim != 4 or 0 in frames.shape or frames.shape[2:] != self.shape or not _integers(frames):
            expected = f"integers (batch, time, {self.shape[0]}, {self.shape[1]}), none of them 0"
            raise ValueError(f"FrameActionModel reads {expected}; got {frames.dtype} {tuple(frames.shape)}")
        readable = frames.device.type == "cpu" and not torch.compiler.is_compiling()
        if readable and not 0 <= int(frames.min()) <= int(frames.max()) < self.symbols:
            raise ValueError(f"symbols are 0 to {self.symbols - 1}; got {int(frames.min())} to {int(frames.max())}")

    def random_input(self, batch: int, length: int, generator: torch.Generator | None = None) -> Tensor:
        frames = torch.randint(self.symbols, (batch, length, *self.shape), generator=generator)
        return frames.to(self.head.weight.device)

    def initial_state(self, batch: int) -> FrameActionState:
        return FrameActionState(self.stack.initial_state(batch))

    def state_bytes(self, tokens: int) -> int:
        return self.stack.state_bytes(tokens)

    def read(self, frames: Tensor, state: FrameActionState, reset: Tensor | None) -> tuple[Tensor, FrameActionState]:
        f = self.frame_head(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        x, after = self.stack(f, state.integrator, reset)
        return self.head(self.norm(x)), FrameActionState(cast(StackState, after))

    def loss(self, frames: Tensor, actions: Tensor, reset: Tensor | None = None) -> Tensor:
        """Mean cross-entropy, in nats, of the action that was taken after each frame.

        frames: (B, T, rows, columns) integers
        actions: (B, T) integers; -100 where none is predicted
        reset: (B, T) bool, True where an episode begins
        """
        logits, _ = self(frames, None, reset)
        kind = torch.promote_types(logits.dtype, torch.float32)
        losses = cross_entropy(
            logits.flatten(0, 1).to(kind), actions.flatten().long(), ignore_index=IGNORED, reduction="sum"
        )
        return losses / (actions != IGNORED).sum().clamp(min=1)


def _integers(x: Tensor) -> bool:
    return not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)
