"""Compile the CPU kernels of mixers, so that nobody's first call waits for it."""

import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context

from ostinato.registry import entries, find


def warm(mixer: str) -> float:
    """Run a mixer forwards and backwards, over a few tokens and over one; returns the seconds it took."""
    import torch

    torch.set_num_threads(1)
    began = time.perf_counter()
    module = find(mixer).target(64)
    for length in (33, 1):
        y, state = module(torch.randn(2, length, 64))
        y.sum().backward()
        if state is not None:
            with torch.no_grad():
                module(torch.randn(2, length, 64), state, torch.ones(2, length, dtype=torch.bool))
    return time.perf_counter() - began


def warmup(mixers: Iterable[str] = (), workers: int | None = None) -> Iterator[tuple[str, float]]:
    """Compile what these mixers need, all of them by default, in parallel; yields each with the seconds it took.

    What is compiled is kept on disk (beside the package, or in NUMBA_CACHE_DIR) for every later process.
    """
    names = [find(name).name for name in mixers] or [entry.name for entry in entries("mixer")]
    with ProcessPoolExecutor(workers or os.cpu_count(), mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(warm, name): name for name in names}
        for job in as_completed(jobs):
            yield jobs[job], job.result()
