"""Settings drawn at random: trial i of a search is a function of its seed and of i, so a search can always go on.

    uniform        a + u (b - a)                         u uniform from 0 to 1
    log_uniform    a (b / a)^u
    integer        a, a + 1, ..., b with equal chances; log_integer: the nearest to what log_uniform gives
    choice         one of the values, with equal chances

Bergstra, Bengio 2012, "Random Search for Hyper-Parameter Optimization", JMLR; so Greff et al. 2015,
https://arxiv.org/abs/1503.04069, drew the settings of each of their LSTMs.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ostinato.registry import did_you_mean, register

KINDS = ("uniform", "log_uniform", "integer", "log_integer", "choice")


@dataclass(frozen=True)
class Space:
    """The values that one setting may have.

    kind: one of KINDS
    values: the first and the last, or those to choose from
    """

    kind: str
    values: tuple[Any, ...]

    def cells(self) -> int | None:
        """How many different values there are, with equal chances; None where there are more than that."""
        if self.kind == "choice":
            return len(self.values)
        return self.values[1] - self.values[0] + 1 if self.kind == "integer" else None

    def place(self, u: float) -> float:
        """Where in the space a number from 0 to 1 falls: the same number, or the middle of the value's share."""
        cells = self.cells()
        return u if cells is None else (min(int(u * cells), cells - 1) + 0.5) / cells

    def at(self, u: float) -> Any:
        """The value at a place."""
        first, last = self.values[0], self.values[-1]
        if self.kind == "choice":
            return self.values[min(int(u * len(self.values)), len(self.values) - 1)]
        if self.kind == "integer":
            return first + min(int(u * (last - first + 1)), last - first)
        if self.kind == "uniform":
            return first + u * (last - first)
        value = first * (last / first) ** u
        return round(value) if self.kind == "log_integer" else value


def read_space(path: str, spec: Any) -> Space:
    """The space that a config writes: [8, 16, 32] to choose from, or {log_uniform: [1e-4, 1e-1]}."""
    if isinstance(spec, (list, tuple)):
        spec = {"choice": spec}
    if not isinstance(spec, Mapping) or len(spec) != 1:
        raise ValueError(f"{path}: a list of values, or {{log_uniform: [1e-4, 1e-1]}}; got {spec!r}")
    ((kind, values),) = spec.items()
    if kind not in KINDS:
        raise ValueError(f"{path}: one of {', '.join(KINDS)}; got {kind!r}{did_you_mean(str(kind), KINDS)}")
    if not isinstance(values, (list, tuple)) or len(values) < 2:
        raise ValueError(f"{path}.{kind}: two values or more; got {values!r}")
    if kind == "choice":
        return Space(kind, tuple(values))
    try:
        first, last = (float(value) for value in values)
        if "integer" in kind:
            first, last = (int(value) for value in (first, last) if value == int(value))
    except (ValueError, TypeError, OverflowError):
        number = "whole number" if "integer" in kind else "number"
        raise ValueError(f"{path}.{kind}: the first and the last {number}; got {values!r}") from None
    if not (math.isfinite(first) and math.isfinite(last) and first < last) or ("log" in kind and first <= 0):
        above = ", both above 0" if "log" in kind else ""
        raise ValueError(f"{path}.{kind}: the first is below the last{above}; got {values!r}")
    return Space(kind, (first, last))


@register("train:random_search", paper="lstm_odyssey")
def random_search(spaces: Mapping[str, Space], trial: int, seed: int = 0) -> dict[str, tuple[float, Any]]:
    """The settings of one trial, each with its place in its space, a number from 0 to 1 (for `analyze:fanova`).

    spaces: by the name of the setting
    trial: its number, from 0
    seed: another one draws others
    """
    drawn = {}
    for name, space in spaces.items():
        # a draw of its own for each setting: another setting beside it leaves this one as it is
        u = random.Random(f"{seed} {trial} {name}").random()
        drawn[name] = (space.place(u), space.at(u))
    return drawn
