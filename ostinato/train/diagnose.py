"""Which part of a model stopped being finite, and at which step."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

SHOWN = 4


class NotFiniteError(ValueError):
    """The loss or the gradient of a step is infinite or not a number."""


def diagnose(model: nn.Module, again: Callable[[], object], step: int, loss: float, norm: float) -> str:
    """The sentence that names the step and the parameters with which it began.

    model: as it was before the step, with the gradients of the step
    again: lets the model read once more what it read in the step
    """
    what = f"the loss is {loss}" if not math.isfinite(loss) else f"the loss is {loss:.4g} and its gradient {norm}"
    values = [name for name, parameter in model.named_parameters() if not _finite(parameter)]
    if values:
        return f"step {step}: {what}; not finite: {_list(values)} (values)"
    if not math.isfinite(loss) and (place := _first_output(model, again)):
        return f"step {step}: {what}; first not finite: {place}"
    gradients = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    if gradients:
        return f"step {step}: {what}; not finite: {_list(gradients)} (gradients)"
    return f"step {step}: {what}; every value and every gradient is finite, their sum of squares is not"


def _first_output(model: nn.Module, again: Callable[[], object]) -> str | None:
    """The innermost module that turns finite inputs into an output that is not finite, with its parameters."""
    places: list[str] = []

    def watch(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            # what follows in a tuple is a state, where infinities may be meant
            if not places and _finite(inputs) and not _finite(output):
                own = [f"{name}.{each}" for each, _ in module.named_parameters()]
                parameters = f" with {_list(own)}" if own else ""
                places.append(f"the output of {name} ({type(module).__name__}){parameters}")

        return module.register_forward_hook(hook)

    # hooks of inner modules are called before those of the modules around them
    handles = [watch(name, module) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            again()
    finally:
        for handle in handles:
            handle.remove()
    return places[0] if places else None


def _finite(value: object) -> bool:
    """Whether a tensor, or the first of several, has finite numbers only."""
    if isinstance(value, tuple):
        return not value or _finite(value[0])
    return not isinstance(value, Tensor) or bool(torch.isfinite(value).all())


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
