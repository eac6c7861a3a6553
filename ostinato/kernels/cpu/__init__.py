"""Numba kernels: Python source, compiled by LLVM for the processor at hand at the first call, then cached on disk."""

import sys
from functools import cache

import torch
from torch import Tensor


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
