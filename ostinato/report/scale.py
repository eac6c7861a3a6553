"""Axes: where a value lies, and which values are marked."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ostinato.report.numbers import short


@dataclass(frozen=True)
class Axis:
    """One axis of a plot.

    title: what is measured, and in what unit
    low, high: the values at its ends
    log: 0 if equal distances are equal differences; the base, 2 or 10, if they are equal factors
    format: how a tick is written
    """

    title: str
    low: float
    high: float
    log: int = 0
    format: Callable[[float], str] = short

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high end."""
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        return math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int) -> list[float]:
        """Round values on the axis, `most` of them at most where that is possible."""
        if not self.log:
            return _linear(self.low, self.high, most)
        first, last = math.floor(math.log(self.low, self.log)), math.ceil(math.log(self.high, self.log))
        choices = [((1, 2, 5), 1), ((1, 3), 1)] if self.log == 10 else []
        inside: list[float] = []
        for factors, every in (*choices, *(((1,), every) for every in (1, 2, 3, 4, 5, 10, 20))):
            begin = math.ceil(first / every) * every  # so that 1 is among the values, if it is on the axis
            values = [
                factor * float(self.log) ** power
                for power in range(begin - every, last + 1, every)
                for factor in factors
            ]
            inside = [value for value in values if self.low * 0.999 <= value <= self.high * 1.001]
            if len(inside) <= most:
                break
        return inside if len(inside) > 1 else _linear(self.low, self.high, most)


def around(values: list[float], title: str, *, log: int = 0, format: Callable[[float], str] = short) -> Axis:
    """An axis that holds all values, with some room at both ends."""
    finite = [value for value in values if math.isfinite(value) and (value > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 1.0)
    if log:
        room = max((high / low) ** 0.06, 1.05)
        return Axis(title, low / room, high * room, log, format)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return Axis(title, low - room, high + room, 0, format)


def _linear(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1, 2, 2.5, 5, 10, 20):
        step = factor * power
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first + 1 <= most:
            break
    return [round(n * step, 12) for n in range(first, last + 1)]
