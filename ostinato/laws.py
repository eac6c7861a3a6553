"""The laws that every sequence module obeys, as functions that raise AssertionError where one is broken.

    from ostinato.laws import LAWS, Case

    for law in LAWS.values():
        law(Case(MyMixer, dict(dim=8)))

The suite runs them over everything registered, on its `examples`; use them on a module of your own in the same way. They
run in float64 with tight tolerances, on sequences of odd length, with weights that were moved away from where they
began (a bias that begins at 0 hides faults).
"""

import inspect
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from ostinato import state as states
from ostinato.contract import SequenceModule
from ostinato.ops.choice import backend
from ostinato.registry import Entry, entries
from ostinato.state import State, leaves

LENGTH = 70
CUTS = ((1,), (16,), (69,), (5, 6, 30), (33, 64))
GRADIENT_CUTS = ((16,), (5, 6, 64))


@dataclass(frozen=True)
class Case:
    """A module to be tested: how it is built, and a sequence for it."""

    make: Callable[..., SequenceModule]
    arguments: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def build(self, dtype: torch.dtype = torch.float64) -> SequenceModule:
        """The same module each time, its weights a little away from where they begin."""
        torch.manual_seed(0)
        module = self.make(**self.arguments)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.is_floating_point() or parameter.is_complex():
                    parameter.add_(0.05 * torch.randn_like(parameter))
        return module.to(dtype).eval()

    def sequence(self, module: SequenceModule, length: int = LENGTH, batch: int = 3) -> Tensor:
        return module.random_input(batch, length, torch.Generator().manual_seed(1))

    def __str__(self) -> str:
        values = ",".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.name or self.make.__name__}({values})"


def cases(kinds: Sequence[str] = ("mixer", "wrapper", "model")) -> Iterator[Case]:
    """A case for every example of every registered sequence module."""
    for entry in entries():
        if entry.kind in kinds and inspect.isclass(entry.target) and issubclass(entry.target, SequenceModule):
            yield from examples(entry)


def examples(entry: Entry) -> Iterator[Case]:
    """The cases of one registered module."""
    for arguments in entry.target.examples:
        yield Case(entry.target, arguments, entry.key)


def in_pieces(
    module: SequenceModule, x: Tensor, cuts: Sequence[int], reset: Tensor | None = None, state: State | None = None
) -> tuple[Tensor, State]:
    """What a causal module says to a sequence that is cut at these places."""
    outputs, edges = [], (0, *cuts, x.shape[1])
    for i, j in zip(edges, edges[1:]):
        y, state = module(x[:, i:j], state, None if reset is None else reset[:, i:j])
        outputs.append(y)
    assert state is not None, "only causal modules can be cut"
    return torch.cat(outputs, 1), state


def gradients(module: SequenceModule, x: Tensor, run: Callable[[Tensor], tuple[Tensor, State | None]]) -> list[Tensor]:
    """Gradients of a function of every output and of the final state, with respect to weights and input."""
    inputs = [x.clone().requires_grad_()] if x.is_floating_point() else []
    y, state = run(inputs[0] if inputs else x)
    real = [torch.view_as_real(part) if part.is_complex() else part for part in (y, *leaves(state))]
    output, *remembered = real
    loss = (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum()
    for part in remembered:
        if part.is_floating_point():
            # -inf marks what was never seen; the sine keeps large states from drowning small ones
            loss = loss + part.masked_fill(part == -torch.inf, 0).sin().sum()
    wanted = [*inputs, *(parameter for parameter in module.parameters() if parameter.requires_grad)]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, found, strict=True)]


def cut(case: Case) -> None:
    """Any split of the sequence into calls gives the same outputs and the same final state."""
    module = case.build()
    x = case.sequence(module)
    if not module.causal:
        assert module(x)[1] is None, "a module that is not causal returns None for the state"
        return
    whole, again = module(x), module(x, module.initial_state(len(x)))
    assert_close(_numbers(again), _numbers(whole), msg=_says("no state is not the state of the beginning"))
    for cuts in CUTS:
        assert_close(
            _numbers(in_pieces(module, x, cuts)), _numbers(whole), msg=_says(f"cut at {cuts} gives something else")
        )


def cut_gradients(case: Case) -> None:
    """Gradients cross a cut, through the state too."""
    module = case.build()
    if not module.causal:
        return
    x = case.sequence(module)
    whole = gradients(module, x, module)
    assert any(gradient.abs().max() > 0 for gradient in whole), "nothing has a gradient"
    for cuts in GRADIENT_CUTS:
        pieces = gradients(module, x, lambda x_: in_pieces(module, x_, cuts))  # noqa: B023 - called at once
        assert_close(pieces, whole, rtol=1e-6, atol=1e-7, msg=_says(f"gradients of a sequence cut at {cuts} differ"))


def step(case: Case) -> None:
    """T calls of length 1 equal one call of length T."""
    module = case.build()
    if module.causal:
        x = case.sequence(module)
        assert_close(_numbers(in_pieces(module, x, range(1, x.shape[1]))), _numbers(module(x)))


def definition(case: Case) -> None:
    """The fast forms equal the reference recurrence, outputs and gradients."""
    module = case.build()
    x = case.sequence(module)
    with backend("reference"):
        expected, expected_gradients = module(x), gradients(module, x, module)
    assert_close(_numbers(module(x)), _numbers(expected))
    assert_close(gradients(module, x, module), expected_gradients, rtol=1e-6, atol=1e-7)


def causality(case: Case) -> None:
    """The output at t does not change when anything after t does."""
    module = case.build()
    x = case.sequence(module)
    other = module.random_input(len(x), x.shape[1], torch.Generator().manual_seed(2))
    changed = torch.cat([x[:, :40], other[:, 40:]], 1)
    y, y_changed = module(x)[0], module(changed)[0]
    if module.causal:
        assert_close(y[:, :40], y_changed[:, :40], msg=_says("the past hears of the future"))
    else:
        assert not torch.allclose(y[:, :40], y_changed[:, :40]), "it says causal = False and sees no future"
    assert not torch.allclose(y[:, 40:], y_changed[:, 40:]), "the present does not reach the present"


def batch(case: Case) -> None:
    """Rows do not influence each other, and their order does not matter."""
    module = case.build()
    x = case.sequence(module)
    y, state = module(x)
    order = torch.tensor([2, 0, 1])
    assert_close(module(x[order])[0], y[order])
    rows = [module(row[None]) for row in x]
    assert_close(torch.cat([alone for alone, _ in rows]), y)
    if state is not None:
        assert_close(list(leaves(states.stack([alone for _, alone in rows]))), list(leaves(state)))


def reset(case: Case) -> None:
    """A packed row equals its documents run apart, and what follows depends on the last of them only."""
    module = case.build()
    x = case.sequence(module)
    flags = torch.zeros(x.shape[:2], dtype=torch.bool)
    flags[:, [0, 11, 60]] = True
    flags[1, 11] = False  # rows have boundaries of their own
    flags[2, [40, 41]] = True
    y, state = module(x, None, flags)
    for row in range(3):
        edges = [*flags[row].nonzero()[:, 0].tolist(), x.shape[1]]
        alone = [module(x[row : row + 1, i:j])[0] for i, j in zip(edges, edges[1:])]
        assert_close(y[row : row + 1], torch.cat(alone, 1), msg=_says("a packed row is not its documents"))
    if not module.causal:
        return
    for cuts in ((7, 25), (11, 60), (12, 61)):
        assert_close(_numbers(in_pieces(module, x, cuts, flags)), _numbers((y, state)))
    after = module.random_input(3, 9, torch.Generator().manual_seed(3))
    assert_close(
        module(after, state)[0], module(after, module(x[:, 60:])[1])[0], msg=_says("the state remembers too much")
    )
    begin = torch.zeros(3, 9, dtype=torch.bool)
    begin[:, 0] = True
    assert_close(module(after, state, begin)[0], module(after)[0], msg=_says("a reset at the first token is not heard"))


def mask(case: Case) -> None:
    """What is masked out, at the end of a row, changes nothing before it (modules that are not causal)."""
    module = case.build()
    if module.causal:
        return
    x = case.sequence(module)
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    real[1, 50:] = False
    y, _ = module(x, mask=real)
    assert_close(y[1:2, :50], module(x[1:2, :50])[0])
    assert_close(y[[0, 2]], module(x[[0, 2]])[0])


def memory(case: Case) -> None:
    """The size of the state is what the module declares."""
    module = case.build(torch.float32)
    if not module.causal:
        return
    x = case.sequence(module, batch=1)
    for tokens in (1, 5, LENGTH):
        found = states.nbytes(module(x[:, :tokens])[1])
        declared = module.state_bytes(tokens)
        assert found == declared, f"{declared} bytes are declared after {tokens} tokens; there are {found}"


def safety(case: Case) -> None:
    """Finite outputs and gradients for extreme but legal inputs; what cannot be read is refused with a sentence."""
    for size in (1e-4, 1.0, 1e4):
        module = case.build(torch.float32)
        x = case.sequence(module)
        if x.is_floating_point():
            x = (x * size).requires_grad_()
        y, state = module(x)
        y.sum().backward()
        assert y.isfinite().all(), f"outputs are not finite for inputs of size {size}"
        learned = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        given = [x.grad] if x.grad is not None else []
        assert all(part.isfinite().all() for part in (*learned, *given)), f"gradients are not finite at size {size}"
        assert not any(part.isnan().any() for part in leaves(state)), f"the state is not a number at size {size}"
    for shape in ((0, 5), (2, 0)):
        refused = ""
        try:
            module(module.random_input(2, 5)[: shape[0], : shape[1]])
        except ValueError as error:
            refused = str(error)
        assert f"({shape[0]}, {shape[1]}" in refused, (
            f"an input of shape {shape} is refused with its shape; got {refused!r}"
        )


def value(case: Case) -> None:
    """A state is a value: the one given is never written to, and using it twice gives the same twice."""
    module = case.build()
    if not module.causal:
        return
    x = case.sequence(module)
    _, state = module(x[:, :20])
    before = states.clone(state)
    first, second = module(x[:, 20:], state), module(x[:, 20:], state)
    module(x[:, 20:21], state)
    assert_close(_numbers(first), _numbers(second), rtol=0, atol=0)
    assert_close(list(leaves(state)), list(leaves(before)), rtol=0, atol=0, msg=_says("the state given was written to"))


def round_trip(case: Case) -> None:
    """Weights and state, saved and loaded, continue bitwise the same; a copy is independent of the original."""
    module = case.build()
    x = case.sequence(module)
    state = module(x)[1]
    twin = case.make(**case.arguments).to(torch.float64).eval()
    twin.load_state_dict(module.state_dict())
    if not module.causal:
        assert_close(twin(x)[0], module(x)[0], rtol=0, atol=0)
        return
    expected = module(x, state)
    with tempfile.TemporaryDirectory() as folder:
        states.save(state, Path(folder) / "state.safetensors")
        loaded = states.load(Path(folder) / "state.safetensors", twin.initial_state(1))
    assert type(loaded) is type(state), "the loaded state has another type"
    assert_close(_numbers(twin(x, loaded)), _numbers(expected), rtol=0, atol=0)
    copy = states.clone(state)
    for part in leaves(state):
        part.detach().zero_()
    assert_close(_numbers(module(x, copy)), _numbers(expected), rtol=0, atol=0, msg=_says("the copy shares memory"))


def precision(case: Case) -> None:
    """float32 agrees with float64 to 1e-3 of the output's size, bfloat16 to 0.15, as weights or by autocast.

    States stay in float32 or better.
    """
    exact = case.build()
    x = case.sequence(exact)
    y = exact(x)[0]
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.bfloat16, 0.15), (None, 0.15)):
        module = case.build(dtype or torch.float32)
        x_ = x.to(dtype or torch.float32) if x.is_floating_point() else x
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype is None):
            low, state = module(x_)
        assert dtype is None or low.dtype == dtype, f"{dtype} in, {low.dtype} out"
        error = ((low.double() - y).norm() / y.norm()).item()
        assert error < tolerance, f"{dtype or 'autocast'} is off by {error:.2g} of the size of the output"
        for part in leaves(state):
            assert not part.is_floating_point() or part.dtype in (torch.float32, torch.float64), (
                f"a state is {part.dtype}"
            )


def backends(case: Case) -> None:
    """The torch form and the kernels agree in float32."""
    module = case.build(torch.float32)
    x = case.sequence(module)
    chosen, chosen_gradients = module(x), gradients(module, x, module)
    with backend("torch"):
        expected, expected_gradients = module(x), gradients(module, x, module)
    assert_close(_numbers(chosen), _numbers(expected), rtol=1e-4, atol=1e-4)
    for one, other in zip(chosen_gradients, expected_gradients, strict=True):
        assert (one - other).norm() <= 1e-3 * other.norm() + 1e-4, "gradients differ between backends"


def determinism(case: Case) -> None:
    """The same seed gives bitwise the same training; another number of threads changes no more than rounding.

    (The sums of a matrix product depend on how many threads share them: that is the BLAS, and runs pin their threads.)
    """

    def train(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        module = case.build(torch.float32).train()
        x = case.sequence(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-2)
        torch.manual_seed(0)
        for _ in range(3):
            module(x)[0].square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [parameter.detach() for parameter in module.parameters()]

    threads = torch.get_num_threads()
    try:
        first, second, other = train(1), train(1), train(2)
    finally:
        torch.set_num_threads(threads)
    assert_close(second, first, rtol=0, atol=0, msg=_says("training is not repeatable"))
    assert_close(other, first, rtol=1e-4, atol=1e-5, msg=_says("training depends on the number of threads"))


def documented(case: Case) -> None:
    """Every argument is explained by a line of the docstring, which has a first sentence."""
    entry = Entry("mixer", case.name, case.make, ())
    assert entry.summary, "the docstring is empty"
    for argument in entry.arguments:
        assert argument.meaning, f"{case.name} does not say what {argument.name} is"


_ALL = (cut, cut_gradients, step, definition, causality, batch, reset, mask)
_ALL += (memory, safety, value, round_trip, precision, backends, determinism, documented)

LAWS: dict[str, Callable[[Case], None]] = {law.__name__: law for law in _ALL}


def _numbers(result: tuple[Tensor, State | None]) -> list[Tensor]:
    """Output and state as a flat list."""
    y, state = result
    return [y, *leaves(state)]


def _says(sentence: str) -> Callable[[str], str]:
    return lambda details: f"{sentence}\n{details}"
