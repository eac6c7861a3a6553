"""What every launch of a CPU kernel needs: flat views of tensors, the number of threads, a version for the cache."""

import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

VERSION = zlib.crc32(Path(__file__).with_name("simd.py").read_bytes())
"""A kernel's place in Numba's cache depends on its own file and on what it closes over: this number, so that a change of
the vector operations is noticed too."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel at its first call, for all threads, and keep the machine code on disk.

    Where no folder for that can be written to, it is compiled again in each process, and one line says so.
    """
    options = dict(parallel=True, nogil=True)
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:
        _say_once(
            "ostinato: CPU kernels are compiled again in each process; set NUMBA_CACHE_DIR to a folder to keep them"
        )
        return numba.njit(**options)(function)


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr)


def flat(x: Tensor) -> tuple[np.ndarray, tuple[int, int, int]]:
    """The numbers of x (B, T, H, N) as one flat array that begins with its first, and its strides along B, T and H.

    A slice of a larger projection is not copied: only its last axis has to be contiguous.
    """
    x = x.detach()
    if x.stride(-1) != 1:
        x = x.contiguous()
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.as_strided((span,), (1,)).numpy(), x.stride()[:3]


@contextmanager
def threads() -> Iterator[None]:
    """Numba uses as many threads as torch does.

    Numba's OpenMP layer sets the number for the whole process, torch included, so it is set back afterwards.
    """
    of_torch = torch.get_num_threads()
    before = numba.get_num_threads()
    numba.set_num_threads(min(of_torch, numba.config.NUMBA_NUM_THREADS))
    try:
        yield
    finally:
        numba.set_num_threads(before)
        if torch.get_num_threads() != of_torch:
            torch.set_num_threads(of_torch)
