"""Recurrent memory: a model reads segment after segment, and hands a few memory vectors on.

    [_ ; y ; m'] = inner([m ; x_segment ; m])     m' is the memory of the next segment

The inner model sees a segment through the memory before it; the same vectors, read again at its end, become the memory
that the next segment begins with. Nothing else is carried over, so the state is bounded by the segment.

Bulatov, Kuratov, Burtsev 2022, https://arxiv.org/abs/2207.06881 (the decoder form, without the Transformer-XL cache).
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ostinato import state as states
from ostinato.contract import SequenceModule
from ostinato.models.stack import Part, build
from ostinato.registry import register
from ostinato.state import State


class RecurrentMemoryState(NamedTuple):
    memory: Tensor  # B M D, what this segment began with
    filled: Tensor  # B, tokens of this segment read so far
    inner: State  # the inner model after the memory and these tokens


@register("wrapper:recurrent_memory", paper="rmt")
class RecurrentMemory(SequenceModule):
    """RMT: memory vectors carried from segment to segment around any causal module.

    dim: width D of input and output
    inner: what reads a segment, a name or {name: {argument: value}}; a mixer or a stack
    segment: tokens in a segment
    memory: memory vectors M
    """

    kind = "wrapper"
    examples = (
        dict(dim=8, inner={"gla": {"heads": 2}}, segment=16, memory=3),
        dict(dim=8, inner={"stack": {"layers": 2, "pattern": [{"attention": {"heads": 2}}]}}, segment=9, memory=1),
    )

    def __init__(self, dim: int, *, inner: Part = "attention", segment: int = 64, memory: int = 8):
        super().__init__(dim)
        if segment < 1 or memory < 0:
            raise ValueError(f"segment is at least 1 and memory at least 0; got {segment} and {memory}")
        self.inner = build(inner, dim)
        if not self.inner.causal:
            raise ValueError("recurrent_memory streams, so what it wraps is causal; this one sees the whole sequence")
        self.segment = segment
        self.memory = nn.Parameter(torch.randn(memory, dim) * 0.02)

    def initial_state(self, batch: int) -> RecurrentMemoryState:
        memory = self.memory.to(self.state_like["dtype"]).expand(batch, -1, -1)
        filled = torch.zeros(batch, dtype=torch.long, device=memory.device)
        return RecurrentMemoryState(memory, filled, self.inner.initial_state(batch))

    def state_bytes(self, tokens: int) -> int:
        M, D = self.memory.shape
        filled = (tokens - 1) % self.segment + 1 if tokens else 0
        return 4 * M * D + 8 + self.inner.state_bytes(M + filled if tokens else 0)

    def read(self, x: Tensor, state: RecurrentMemoryState, reset: Tensor | None) -> tuple[Tensor, RecurrentMemoryState]:
        outputs = []
        filled = state.filled.tolist()
        begins: list[list[int]] = [[] for _ in filled]
        if reset is not None:
            for row, t in reset.nonzero().tolist():
                begins[row].append(t)
        t, T = 0, x.shape[1]
        while t < T:
            fresh = [row for row, at in enumerate(begins) if at and at[0] == t]
            for row in fresh:
                begins[row].pop(0)
            full = [row for row, n in enumerate(filled) if n == self.segment and row not in fresh]
            empty = [row for row, n in enumerate(filled) if n == 0 and row not in fresh]
            if fresh or full or empty:
                state = self._begin_segment(x, state, fresh, full, empty)
                for row in (*fresh, *full):
                    filled[row] = 0
            # to where the next row's segment is full or its document ends
            ends = [t + self.segment - n for n in filled] + [at[0] for at in begins if at]
            end = min(T, *ends)
            y, inner = self.inner(x[:, t:end], state.inner)
            outputs.append(y)
            filled = [n + end - t for n in filled]
            state = RecurrentMemoryState(state.memory, state.filled, inner)
            t = end
        return torch.cat(outputs, 1), state._replace(filled=torch.tensor(filled, device=x.device))

    def _begin_segment(
        self, x: Tensor, state: RecurrentMemoryState, fresh: list[int], full: list[int], empty: list[int]
    ) -> RecurrentMemoryState:
        """Rows that begin a document start from the learned memory, full ones from what they write at their end."""
        memory, rows = state.memory, sorted([*fresh, *full, *empty])
        if full:
            at = torch.tensor(full, device=x.device)
            inner = state.inner if len(full) == len(x) else states.select(state.inner, at)
            written = self._inner(memory[at], inner, x.dtype)[0].to(memory.dtype)
            memory = memory.index_copy(0, at, written)
        if fresh:
            at = torch.tensor(fresh, device=x.device)
            memory = memory.index_copy(0, at, self.memory.to(memory.dtype).expand(len(fresh), -1, -1))
        at = torch.tensor(rows, device=x.device)
        inner = self._inner(memory[at], self.inner.initial_state(len(rows)), x.dtype)[1]
        if len(rows) < len(x):
            inner = states.replace(state.inner, at, inner)
        return RecurrentMemoryState(memory, state.filled, inner)

    def _inner(self, memory: Tensor, inner: State, dtype: torch.dtype) -> tuple[Tensor, State]:
        """What the inner model makes of the memory; of none, nothing."""
        return self.inner(memory.to(dtype), inner) if memory.shape[1] else (memory, inner)
