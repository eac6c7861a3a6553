"""Numba kernels: Python source, compiled by LLVM for the processor at hand at the first call, then cached on disk."""

import sys
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad


@cache
def works() -> bool:
    """Whether Numba can be imported; says once, in one line, that torch is used where it cannot."""
    try:
        import numba  # noqa: F401
    except Exception as error:  # a broken installation fails in many ways, and none may break a model
        print(f"ostinato: no CPU kernels, torch is used instead (numba: {error})", file=sys.stderr)
        return False
    return True


def suits(*tensors: Tensor) -> bool:
    """Whether kernels can run on these: float32, on a CPU, Numba at hand."""
    return all(x.device.type == "cpu" and x.dtype == torch.float32 for x in tensors) and works()


LANES = 16
"""Numbers of a vector: the widths of a kernel's state are multiples of it."""


def fills_vectors(*widths: int) -> bool:
    """Whether a state of these widths, filled up to whole vectors, is at most 4 times as large: then a kernel still wins."""
    filled = total = 1
    for width in widths:
        filled, total = filled * -(-width // LANES) * LANES, total * width
    return filled <= 4 * total


def fill(x: Tensor, axes: int = 1) -> Tensor:
    """x with zeros at the end of its last axes, up to whole vectors; x itself where they are whole."""
    missing = [-size % LANES for size in reversed(x.shape[-axes:])]
    return pad(x, [n for width in missing for n in (0, width)]) if any(missing) else x
