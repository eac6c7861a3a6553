"""A step of a whole model as machine code: its layers in a few fused loops, without Python between them.

    step = compile_step(model)
    logits, state = step(token, state)          # what model(token, state) gives, several times as fast on a CPU

torch.export writes down what the model does to one token, and AOTInductor makes a library of it with the C++ compiler of
the machine (https://docs.pytorch.org/docs/stable/torch.compiler_aot_inductor.html). It takes 10 to 30 seconds, once.
"""

import logging
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn

from ostinato.contract import SequenceModule
from ostinato.generate.decode import Step
from ostinato.models.modes import undisturbed
from ostinato.state import State, clone, leaves, map_state


def compile_step(model: SequenceModule, batch: int = 1) -> Step:
    """What the model does to the next token of each sequence, compiled: (B, 1) tokens, a state -> logits (B, 1, vocab), a state.

    Anything else, such as a longer piece, another batch or a reset, goes through the model as it is. The weights are
    those of this moment.

    model: a causal model whose state does not grow, and whose step is the same whatever its numbers
    batch: number of sequences B

    Raises ValueError for a model that cannot be compiled so, and RuntimeError where the machine has no C++ compiler.
    """
    program, like = export_step(model, batch)
    run = _library(program, next(model.parameters()).device)
    sizes = [part.shape for part in leaves(like)]

    def step(token: Tensor, state: State | None = None, reset: Tensor | None = None) -> tuple[Tensor, State | None]:
        flat = list(leaves(state))
        if reset is not None or token.shape != (batch, 1) or [part.shape for part in flat] != sizes:
            return model(token, state, reset)
        model.check_input(token)
        logits, *flat = run(token, *flat)
        return logits, _shaped(flat, like)

    return step


def export_step(model: SequenceModule, batch: int = 1) -> tuple[torch.export.ExportedProgram, State]:
    """What the model does to the next token, as a program over a plain list of tensors, and the state that it begins with.

        logits, *state = program.module()(token, *state)            # the tensors of the state, in the order of `leaves`

    Raises ValueError for a model of which that cannot be written down.
    """
    if not model.causal:
        raise ValueError("a step is compiled of a causal model; this one sees the whole sequence")
    if model.state_bytes(1) != model.state_bytes(1 << 20):
        raise ValueError("a step is compiled of a model whose state stays as large as it is; this one's grows")
    with undisturbed(model):
        token = model.random_input(batch, 1)
        like = clone(model.initial_state(batch))  # some begin as views of one number
    with _said("exported"):
        return torch.export.export(_Flat(model, like).eval(), (token.clone(), *leaves(like))), like


class _Flat(nn.Module):
    """The model over a plain list of tensors."""

    def __init__(self, model: SequenceModule, like: State):
        super().__init__()
        self.model = model
        self.like = like

    def forward(self, token: Tensor, *flat: Tensor) -> tuple[Tensor, ...]:
        y, state = self.model(token, _shaped(flat, self.like), None)
        return (y, *leaves(state))


def _shaped(flat: Iterable[Tensor], like: State) -> State:
    """These tensors in the places of a state like that."""
    remaining = iter(flat)
    return map_state(lambda _: next(remaining), like)


def _library(program: torch.export.ExportedProgram, device: torch.device) -> Callable[..., list[Tensor]]:
    from torch._inductor import aoti_compile_and_package, aoti_load_package
    from torch._inductor.exc import InvalidCxxCompiler

    with tempfile.TemporaryDirectory(prefix="ostinato-") as folder, _said("compiled"):
        try:
            path = aoti_compile_and_package(program, package_path=str(Path(folder) / "step.pt2"))
        except InvalidCxxCompiler:
            raise RuntimeError("compiling a step needs a C++ compiler: install g++ or clang++, or set CXX") from None
        return aoti_load_package(str(path), device_index=device.index or -1 if device.type == "cuda" else -1)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Without torch's warnings, and with its refusals in one sentence."""
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError, InvalidCxxCompiler
    from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

    with quiet(), torch.no_grad():
        try:
            yield
        except InvalidCxxCompiler:
            raise
        except (TorchDynamoException, GuardOnDataDependentSymNode, InductorError) as error:
            why = str(error).strip().partition("\n")[0]
            raise ValueError(f"this model's step cannot be {what}: torch says {why!r}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch says while it writes a program down: warnings of its own corners, and the program itself."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)
