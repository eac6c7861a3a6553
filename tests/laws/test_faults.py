"""The laws can fail: for each of them, a module with a planted fault that breaks it."""

import random
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from ostinato.contract import Mixer, SequenceModule
from ostinato.laws import LAWS, Case
from ostinato.ops.choice import forced
from ostinato.ops.scan import scan


class MemoryState(NamedTuple):
    h: Tensor  # B D


class Honest(Mixer):
    """A leaky average, h_t = (h_{t-1} + W x_t) / 2: what the planted faults spoil.

    dim: width
    """

    examples = (dict(dim=4),)

    def __init__(self, dim: int):
        super().__init__(dim)
        self.project_in = nn.Linear(dim, dim)

    def initial_state(self, batch: int) -> MemoryState:
        return MemoryState(torch.zeros(batch, self.dim, **self.state_like))

    def state_bytes(self, tokens: int) -> int:
        return 4 * self.dim

    def keep(self, x: Tensor, reset: Tensor | None) -> Tensor:
        keep = torch.full_like(x[..., :1], 0.5)
        return keep if reset is None else keep.masked_fill(reset[..., None], 0)

    def mix(self, x: Tensor, state: MemoryState, reset: Tensor | None) -> tuple[Tensor, MemoryState]:
        h, last = scan(self.keep(x, reset), self.project_in(x), state.h)
        return torch.tanh(h).to(x.dtype), MemoryState(last)


class DropsItsState(Honest):
    def mix(self, x, state, reset):
        return super().mix(x, state if x.shape[1] == 1 else self.initial_state(len(x)), reset)


class ForgetsGradients(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        return y, MemoryState(after.h.detach())


class StepsDifferently(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        return (y * 1.01 if x.shape[1] == 1 else y), after


class FastFormIsAnother(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        return (y if forced() == "reference" else y + 1e-3), after


class LooksAhead(Honest):
    def mix(self, x, state, reset):
        return super().mix(x + 0.01 * x.roll(-1, 1), state, reset)


class RowsMeet(Honest):
    def mix(self, x, state, reset):
        return super().mix(x + 0.01 * x.mean(0, keepdim=True), state, reset)


class DeafToReset(Honest):
    def keep(self, x, reset):
        return super().keep(x, None)


class HearsResetLate(Honest):
    def mix(self, x, state, reset):
        return super().mix(x, state, None if reset is None else reset & (torch.arange(x.shape[1]) > 0))


class BothWays(SequenceModule):
    """Sees the whole sequence, and what is masked as well.

    dim: width
    """

    causal = False
    examples = (dict(dim=4),)

    def __init__(self, dim: int):
        super().__init__(dim)
        self.project = nn.Linear(dim, dim)

    def encode(self, x, mask, reset):
        return self.project(x) + x.mean(1, keepdim=True)


class LargerThanDeclared(Honest):
    def state_bytes(self, tokens):
        return 4 * self.dim - 4


class Overflows(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        return y * torch.exp(x.abs()), after


class AcceptsNothing(Honest):
    def forward(self, x, state=None, reset=None, *, mask=None):
        return (x, state) if 0 in x.shape else super().forward(x, state, reset)


class WritesItsState(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        state.h.copy_(after.h.detach())
        return y, after


class KeepsSomethingElsewhere(Honest):
    def __init__(self, dim: int):
        super().__init__(dim)
        self.seen = 0.0

    def mix(self, x, state, reset):
        self.seen = self.seen + 1
        return super().mix(x + self.seen, state, reset)


class LowPrecisionState(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        return y, MemoryState(after.h.to(x.dtype))


class KernelIsAnother(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        return (y if forced() else y + 0.01), after


class HasRandomnessOfItsOwn(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        return y * (1 + 1e-3 * random.random()), after


class DependsOnThreads(Honest):
    def mix(self, x, state, reset):
        y, after = super().mix(x, state, reset)
        return y * torch.get_num_threads(), after


class Unexplained(Honest):
    """Says nothing of its argument."""

    def __init__(self, dim: int, speed: float = 1.0):
        super().__init__(dim)


FAULTS = [
    ("cut", DropsItsState),
    ("cut_gradients", ForgetsGradients),
    ("step", StepsDifferently),
    ("definition", FastFormIsAnother),
    ("causality", LooksAhead),
    ("batch", RowsMeet),
    ("reset", DeafToReset),
    ("reset", HearsResetLate),
    ("mask", BothWays),
    ("memory", LargerThanDeclared),
    ("safety", Overflows),
    ("safety", AcceptsNothing),
    ("value", WritesItsState),
    ("round_trip", KeepsSomethingElsewhere),
    ("precision", LowPrecisionState),
    ("backends", KernelIsAnother),
    ("determinism", HasRandomnessOfItsOwn),
    ("determinism", DependsOnThreads),
    ("documented", Unexplained),
]


def test_every_law_has_a_fault():
    assert {law for law, _ in FAULTS} == set(LAWS)


@pytest.mark.parametrize("law", LAWS)
def test_the_honest_module_obeys(law):
    LAWS[law](Case(Honest, dict(dim=4)))


@pytest.mark.parametrize(("law", "faulty"), FAULTS)
def test_the_fault_breaks_its_law(law, faulty):
    with pytest.raises(AssertionError):
        LAWS[law](Case(faulty, dict(dim=4)))
