"""How and where a model is when it is only asked, not trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """No gradients and no dropout while this lasts; then the model is in the mode in which it was."""
    training = model.training
    if training:  # setting the mode walks over all modules, which is too slow for every token
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if training:
            model.train()


def device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(name)
    except RuntimeError:
        wanted = None
    if wanted is None or wanted.type not in ("cpu", "cuda"):
        raise ValueError(f"a device is auto, cpu, cuda, cuda:1, ...; got {name!r}")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no {name} here; take cpu or auto")
    return wanted
