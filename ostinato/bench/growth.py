"""How time and memory of a single mixer grow with the length of the sequence: T^1 where linear, T^2 for dense attention.

    exponent = slope of log(seconds) over log(T)         by least squares over all lengths, and between the last two

A forward pass without gradients over one batch, each mixer in a process of its own. Memory is how much the resident memory
rises at most during a pass. Lengths beyond one that took too long are left out.
"""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from ostinato.bench.apart import ApartError, apart
from ostinato.bench.measure import machine
from ostinato.bench.resident import rise
from ostinato.bench.speed import SMALL
from ostinato.registry import create, find

SLOW = 20.0  # seconds of a pass, after which longer sequences are not tried


def growth(
    names: Sequence[str],
    *,
    lengths: Sequence[int],
    dim: int = 256,
    batch: int = 2,
    rounds: int = 5,
    limit: float = 300.0,
    slow: float = SLOW,
) -> dict[str, Any]:
    """Seconds and bytes of a forward pass of each mixer at several lengths, and the exponents with which they grow.

    names: mixers, built with their default arguments
    rounds: passes at each length, of which the median counts; one more comes before them, for the memory
    limit: seconds for each mixer
    slow: seconds of a pass, after which longer sequences are not tried
    """
    wanted = [find(f"mixer:{name}").name for name in names]
    lengths = sorted(set(lengths))
    if len(lengths) < 2:
        raise ValueError(f"growth is seen over at least two lengths; got {lengths}")
    rows = []
    for name in wanted:
        row: dict[str, Any] = {"model": name}
        try:
            for part in apart(_passes, name, lengths, dim, batch, rounds, slow, limit=limit):
                row |= part
        except ApartError as error:
            row["error"] = str(error)
        rows.append(row | exponents(row, lengths))
    settings = dict(lengths=lengths, batch=batch, dim=dim, rounds=rounds)
    return {"task": "mixer", "settings": settings, "machine": machine(), "rows": rows}


def _passes(name: str, lengths: list[int], dim: int, batch: int, rounds: int, slow: float) -> Iterator[dict[str, Any]]:
    torch.manual_seed(0)
    mixer = create(f"mixer:{name}", dim=dim).eval()

    def seconds(x: torch.Tensor) -> float:
        start = time.perf_counter()
        with torch.inference_mode():
            mixer(x)
        return time.perf_counter() - start

    seconds(mixer.random_input(batch, SMALL))  # compiles what is needed
    for length in lengths:
        x, first = mixer.random_input(batch, length), []
        risen = rise(lambda x=x, first=first: first.append(seconds(x)), x.device)
        # a slow pass is not made again: what is slow once is slow for all that a table has to say
        measured = first if first[0] > slow else [seconds(x) for _ in range(rounds)]
        yield {f"seconds_{length}": statistics.median(measured), f"bytes_{length}": risen}
        if statistics.median(measured) > slow:
            return


def exponents(row: dict[str, Any], lengths: Sequence[int]) -> dict[str, float]:
    """The slopes of log(seconds) and log(bytes) over log(T), as far as they were measured."""
    found = {}
    for what, name in (("seconds", "time_exponent"), ("bytes", "memory_exponent")):
        points = [(math.log(T), math.log(row[f"{what}_{T}"])) for T in lengths if row.get(f"{what}_{T}")]
        if len(points) > 1:
            found[name] = statistics.linear_regression(*zip(*points, strict=True)).slope
            (x, y), (x_last, y_last) = points[-2:]
            found[f"last_{name}"] = (y_last - y) / (x_last - x)
    return found
